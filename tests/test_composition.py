"""Formulas that are read, and formulas that are refused with the reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dao_ase.composition import IUPAC_ORDER, SYMBOLS, Composition, reduced_key


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("CsV3Sb5", {"Cs": 1, "V": 3, "Sb": 5}),
        ("Mg(OH)2", {"Mg": 1, "O": 2, "H": 2}),
        ("Ca[Al(OH)4]2", {"Ca": 1, "Al": 2, "O": 8, "H": 8}),
        ("Si", {"Si": 1}),
        ("FeFe", {"Fe": 2}),
        (" Zr4 Rh2 O ", {"Zr": 4, "Rh": 2, "O": 1}),
        ("Na 1 Cl 1", {"Na": 1, "Cl": 1}),
        ("CsV 3Sb 5", {"Cs": 1, "V": 3, "Sb": 5}),
        ("CsV₃Sb₅", {"Cs": 1, "V": 3, "Sb": 5}),
        ("Ca₁₀(PO₄)₆F₂\u00a0", {"Ca": 10, "P": 6, "O": 24, "F": 2}),
    ],
)
def test_formula_is_counted(formula, counts):
    assert dict(Composition.parse(formula).counts) == counts


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("", "empty"),
        ("Xx2O", "'Xx'"),
        ("Fe0", "0 atoms of Fe"),
        ("Fe-1", "cannot read"),
        ("Fe0.5O", "whole numbers: multiply"),
        ("CaSO4.2H2O", r"its water in brackets, like 'CuSO4\(H2O\)5'"),
        ("CuSO₄·5H₂O", "its water in brackets"),
        ("LiOH.H2O", "its water in brackets"),
        ("MgCl2 6H2O", "at '6H2O'; write its water in brackets"),
        ("NaBr 2 (H₂O)", "its water in brackets"),
        ("Fe2 O3 12", "at '12'; write it like"),
        ("(FeO", "never closes"),
        ("FeO)2", "never opened"),
        ("Fe1000000", "at most"),
        ("fe2", "cannot read"),
    ],
)
def test_bad_formula_is_refused_with_the_reason(formula, reason):
    with pytest.raises(ValueError, match=reason):
        Composition.parse(formula)


@pytest.mark.parametrize("value", [None, 3, ["Fe"]])
def test_what_is_no_formula_is_a_type_error(value):
    with pytest.raises(TypeError):
        Composition.parse(value)


def test_isotopes_are_hydrogen():
    assert Composition.parse("LiD") == Composition.parse("LiH")
    assert Composition.parse("HDO").counts == Composition.parse({"H": 1, "T": 1, "O": 1}).counts == (("H", 2), ("O", 1))


def test_formula_units():
    cell = Composition.parse("Zr16Rh8O4")
    assert (cell.formula_units, cell.reduced_formula, cell.num_atoms) == (4, "Zr4Rh2O", 28)
    assert cell.reduced * 4 == cell
    assert reduced_key(cell.atomic_numbers) == reduced_key(cell.reduced.atomic_numbers)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        assert Composition.parse(text).num_atoms >= 1
    except ValueError as error:
        assert str(error)


@given(st.dictionaries(st.sampled_from(["H", "Fe", "Sb", "U"]), st.integers(1, 50), min_size=1))
def test_formula_round_trip(counts):
    composition = Composition.from_counts(counts)
    assert Composition.parse(composition.formula) == composition
    assert Composition.from_atomic_numbers(composition.atomic_numbers) == composition


def test_formulas_in_their_usual_order_are_in_that_of_iupac():
    for formula in ("CsV3Sb5", "NaCl", "MgO", "SrTiO3", "Zr16Rh8O4", "Cr6Os2", "LiFePO4", "NH3", "CH4", "H2O", "PbTe"):
        composition = Composition.parse(formula)
        assert composition.in_iupac_order == composition
        assert Composition(composition.counts[::-1]).in_iupac_order == composition


def test_the_order_of_elements_is_that_of_pymatgen():
    from pymatgen.core import Element

    assert sorted(IUPAC_ORDER) == sorted(SYMBOLS[1:])
    known = [symbol for symbol in IUPAC_ORDER if isinstance(Element(symbol).data.get("IUPAC ordering"), int | float)]
    assert len(known) >= 103 and known == sorted(known, key=lambda symbol: Element(symbol).iupac_ordering)
