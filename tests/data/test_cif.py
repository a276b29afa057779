"""The fast CIF reader gives what pymatgen gives, or leaves the file to it."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystals import CRYSTALS, SHARED, needs_shared
from dao_ase.data.cif import NotSimple, read_any_cif, read_cif, read_simple_cif
from dao_ase.data.records import RejectedRecord
from dao_ase.data.tables import NpzSource


def assert_equal(cif: str):
    fast, slow = read_simple_cif(cif), read_any_cif(cif)
    np.testing.assert_array_equal(fast[2], slow[2])
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-10)
    np.testing.assert_allclose(fast[1], slow[1], atol=1e-10)


@pytest.mark.parametrize("symprec", [None, 0.01])
@pytest.mark.parametrize("name", sorted(CRYSTALS))
def test_equals_pymatgen(name, symprec):
    assert_equal(str(CifWriter(CRYSTALS[name], symprec=symprec)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_pymatgen_on_any_cell(data):
    side, angle = st.floats(3, 12), st.floats(60, 115)
    lattice = Lattice.from_parameters(*(data.draw(side) for _ in "abc"), 90, data.draw(angle), data.draw(angle))
    symbols = data.draw(
        st.lists(st.sampled_from(["Fe", "O", "H", "Li", "Na+", "Cl-", "U", "Tc"]), min_size=1, max_size=9)
    )
    coords = [[data.draw(st.integers(0, 11)) / 12 + 0.001 * place for _ in range(3)] for place in range(len(symbols))]
    assert_equal(str(CifWriter(Structure(lattice, symbols, coords))))


@needs_shared
@pytest.mark.parametrize("symprec", [None, 0.01])
def test_equals_pymatgen_on_mp_20(symprec):
    source = NpzSource(SHARED / "mp20_val.npz")
    for row, raw in enumerate(source.rows()):
        if row % 300 == 0:
            record = source.record(row, raw)
            structure = Structure(record.lattice, record.atomic_numbers.tolist(), record.frac_coords)
            assert_equal(str(CifWriter(structure, symprec=symprec)))


SALT = str(CifWriter(CRYSTALS["salt"]))


@pytest.mark.parametrize(
    "cif",
    [
        SALT.replace("_symmetry_equiv_pos_as_xyz", "_something_else"),
        SALT.replace("5.64000000", "5.64000000(3)"),
        SALT.replace("Na0", "'Na 0'"),
        SALT.replace("_atom_site_occupancy\n", "_atom_site_occupancy  Na  Na9  1  0.25  0.25  0.25  1\n"),
        SALT + SALT.replace("data_", "\ndata_"),
        SALT.replace("_cell_volume", "_note\n;\nlong\n;\n_cell_volume"),
        SALT.replace("  Na  Na0  1  0.00000000  0.00000000", "  Na  Na0  1  0.50000000  0.50000000"),
    ],
)
def test_what_is_not_simple_is_left_to_pymatgen(cif):
    with pytest.raises(NotSimple):
        read_simple_cif(cif)


def test_what_cannot_be_used_is_named():
    with pytest.raises(RejectedRecord, match="full occupancy") as caught:
        read_cif(re.sub(r"(?m)^(  Na  Na0 .*)  \S+$", r"\1  0.5", SALT))
    assert caught.value.rule == "partial occupancy"
    structure = Structure(Lattice.cubic(4), ["Xx"], [[0, 0, 0]])
    with pytest.raises(RejectedRecord) as caught:
        read_cif(str(CifWriter(structure)))
    assert caught.value.rule == "unknown element"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_never_gives_another_crystal_than_pymatgen(data):
    """Whatever is cut out or overwritten: the fast reader refuses, or agrees with pymatgen."""
    cif = SALT
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(cif) - 1))
        width = data.draw(st.integers(0, 30))
        cif = (
            cif[:place] + data.draw(st.text(alphabet="0123456789.-_ '\nNaCl?#;()x", max_size=6)) + cif[place + width :]
        )
    try:
        fast = read_simple_cif(cif)
    except (NotSimple, ArithmeticError):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            slow = read_any_cif(cif)
        except Exception:
            return  # pymatgen is stricter; what the fast reader took is checked as any record is
    np.testing.assert_array_equal(fast[2], slow[2])
    np.testing.assert_allclose(fast[0], slow[0], atol=1e-8)
    np.testing.assert_allclose(fast[1], slow[1], atol=1e-8)
