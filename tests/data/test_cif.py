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
from dao_ase.data.cif import NotSimple, missing_atoms, read_any_cif, read_cif, read_simple_cif
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


@pytest.mark.parametrize(
    "tag",
    ["_symmetry_space_group_name_H-M 'A b c d'", "_space_group_name_Hall '-F 4 2 9'", "_space_group_IT_number 425"],
)
def test_a_space_group_that_is_not_known_is_not_taken_for_p1(tag):
    cif = str(CifWriter(CRYSTALS["salt"]))
    bare = re.sub(
        r"loop_\n _symmetry_equiv_pos_site_id\n.*\n.*\n",
        "",
        re.sub(r"_symmetry_.*[M\d]   .*\n|_symmetry_Int.*\n", "", cif),
    )
    assert (
        "_symmetry_" not in bare.replace("_site_symmetry_", "") and len(read_any_cif(bare)[2]) == 8
    )  # all atoms are listed and nothing else is said
    with pytest.raises(RejectedRecord, match=r"it names the space group .* lists no symmetry operations"):
        read_any_cif(bare.replace("_cell_length_a", f"{tag}\n_cell_length_a"))


BADDELEYITE = """data_ZrO2
_cell_length_a 5.15(1)
_cell_length_b 5.21
_cell_length_c 5.32
_cell_angle_alpha {alpha}
_cell_angle_beta {beta}
_cell_angle_gamma 90
{group}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Zr1 Zr 0.275 0.040 0.208
"""


@pytest.mark.parametrize(
    ("short", "full", "angles"),
    [
        ("P 21/c", "P 1 21/c 1", ("90", "99.2(1)")),
        ("P2_1/n", "P 1 21/n 1", ("90", "99.2")),
        ("C 2/m", "C 1 2/m 1", ("90", "99.2")),
        ("Pc", "P 1 c 1", ("90", "90")),
        ("P 21/b", "P 21/b 1 1", ("99.2", "90")),
        ("I 2/a", "I 1 2/a 1", ("90", "99.2")),
    ],
)
def test_short_names_of_monoclinic_groups_are_those_of_the_unique_axis(short, full, angles):
    def positions(name, number=14):
        group = f"_symmetry_space_group_name_H-M '{name}'\n_symmetry_Int_Tables_number {number}"
        cell = read_cif(BADDELEYITE.format(alpha=angles[0], beta=angles[1], group=group))
        return cell[1][np.lexsort((cell[1] % 1).round(4).T)]

    assert len(positions(full)) in (2, 4, 8)
    np.testing.assert_allclose(positions(short), positions(full), atol=1e-9)
    if short == "P2_1/n":
        assert abs(positions(short) - positions("P 21/c")).max() > 0.1, "the number is that of the standard setting"


ONE_SITE = re.sub(r"_length_([abc]) .*", r"_length_\1 {\1}", BADDELEYITE).replace("gamma 90", "gamma {gamma}")


@pytest.mark.parametrize("number", ["", "_symmetry_Int_Tables_number "])
@pytest.mark.parametrize(
    ("name", "of", "cell", "position", "atoms"),
    [
        ("F d -3 m:2", 227, (5.4, 5.4, 90, 90), "0.125 0.125 0.125", 8),
        ("F d -3 m Z", 227, (5.4, 5.4, 90, 90), "0.125 0.125 0.125", 8),
        ("Fd-3mS", 227, (5.4, 5.4, 90, 90), "0 0 0", 8),
        ("F d -3 m", 227, (5.4, 5.4, 90, 90), "0 0 0", 8),
        ("R -3 m", 166, (4.3, 11.9, 90, 120), "0 0 0.23", 6),
        ("R -3 m", 166, (4.5, 4.5, 57, 57), "0.23 0.23 0.23", 2),
        ("R -3 m :R", 166, (4.5, 4.5, 57, 57), "0.23 0.23 0.23", 2),
    ],
)
def test_origins_and_axes_of_space_groups_without_operations(name, of, cell, position, atoms, number):
    a, c, alpha, gamma = cell
    group = f"_symmetry_space_group_name_H-M '{name}'" + (f"\n{number}{of}" if number else "")
    text = ONE_SITE.format(a=a, b=a, c=c, alpha=alpha, beta=alpha, gamma=gamma, group=group)
    assert len(read_cif(text.replace("0.275 0.040 0.208", position))[2]) == atoms


@pytest.mark.parametrize(
    ("name", "number", "same", "angles"),
    [
        ("P 1 1 21/b", 14, "P 21/b", ("90", "90", "99")),
        ("B 1 1 2/b", 15, "B 2/b", ("90", "90", "99")),
        ("p 21/N", 14, "P 1 21/n 1", ("90", "99", "90")),
        ("B m a b", 64, "B m e b", ("90", "90", "90")),
        ("C m m b", 67, "C m m b", ("90", "90", "90")),
        ("F d 3 m Z", 227, "F d -3 m:2", ("90", "90", "90")),
        ("C -1", 2, "C -1", ("93", "116", "91")),
    ],
)
def test_a_name_beside_a_number_is_of_its_own_setting(name, number, same, angles):
    def positions(group):
        alpha, beta, gamma = angles
        text = ONE_SITE.format(a=5, b=5, c=5, alpha=alpha, beta=beta, gamma=gamma, group=group)
        coords = (read_cif(text)[1] % 1).round(4) % 1
        return coords[np.lexsort(coords.T)]

    tag = "_symmetry_space_group_name_H-M"
    expected = positions(f"{tag} '{same}'")
    for way in (f"{tag} '{name}'", f"{tag}\n'{name}'", f"{tag.lower()} '{name}'"):
        np.testing.assert_allclose(positions(f"{way}\n_symmetry_Int_Tables_number {number}"), expected)


def test_a_hall_symbol_says_the_setting():
    cell = {"a": 5, "b": 5, "c": 5, "alpha": 90, "beta": 99, "gamma": 90}
    hall, name = "_space_group_name_Hall '-P 2yn'\n_space_group_IT_number 14", "_space_group_name_H-M_alt 'P 1 21/n 1'"
    one, other = (read_cif(ONE_SITE.format(group=group, **cell))[1] for group in (hall, name))
    np.testing.assert_allclose(one, other)


def test_a_name_that_is_not_known_is_not_read_by_the_number_beside_it():
    group = "_symmetry_space_group_name_H-M 'F 4/m m m'\n_symmetry_Int_Tables_number 139"
    with pytest.raises(RejectedRecord, match="'F 4/m m m'") as caught:
        read_cif(ONE_SITE.format(a=5, b=5, c=7, alpha=90, beta=90, gamma=90, group=group))
    assert caught.value.rule == "unknown symmetry"


@pytest.mark.parametrize("unknown", [".", "?"])
def test_an_atom_whose_occupancy_is_not_given_is_there(unknown):
    cif = str(CifWriter(CRYSTALS["salt"]))
    assert (
        read_any_cif(cif.replace("0.00000000  1\n", f"0.00000000  {unknown}\n", 1))[2].tolist()
        == read_any_cif(cif)[2].tolist()
    )


def test_what_pymatgen_found_wrong_is_said():
    cif = str(CifWriter(CRYSTALS["salt"])).replace("0.00000000  1\n", "0.00000000  1.2\n", 1)
    with pytest.raises(ValueError, match=r"no structures.*Occupancy 1\.2 exceeded tolerance"):
        read_any_cif(cif)


def test_what_cannot_be_used_is_named():
    with pytest.raises(RejectedRecord, match="full occupancy") as caught:
        read_cif(re.sub(r"(?m)^(  Na  Na0 .*)  \S+$", r"\1  0.5", SALT))
    assert caught.value.rule == "partial occupancy"
    structure = Structure(Lattice.cubic(4), ["Xx"], [[0, 0, 0]])
    with pytest.raises(RejectedRecord) as caught:
        read_cif(str(CifWriter(structure)))
    assert caught.value.rule == "unknown element"


@pytest.mark.parametrize("name", sorted(CRYSTALS))
@pytest.mark.parametrize("symprec", [None, 0.01])
def test_a_cif_that_was_cut_between_two_sites_is_refused(name, symprec):
    """Where that shows: the number of sites of an element alone may be anything."""
    lines = str(CifWriter(CRYSTALS[name], symprec=symprec)).splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if "_atom_site_occupancy" in line) + 1
    for end in range(first + 1, len(lines)):
        with pytest.raises(RejectedRecord, match=r"may have been cut off: its atoms are .*, its formula is") as caught:
            read_cif("".join(lines[:end]))
        assert caught.value.rule == "cut off"
    read_cif("".join(lines))


@pytest.mark.parametrize(
    ("formula", "lacking"),
    [
        ("'Na4 Cl4'", False),
        ("'Na Cl'", False),
        ("Na4 Cl4 H2", False),  # hydrogen that was not located
        ("'Na1.02 Cl0.98'", False),
        ("?", False),
        ("'Na4 K4'", False),  # another crystal, not a part of it
        ("'Na8 Cl8'", True),
        ("'Na1 Cl2'", True),
    ],
)
def test_atoms_are_missing_where_a_plain_formula_has_more_of_them(formula, lacking):
    cif = SALT.replace("'Na4 Cl4'", formula)
    atomic_numbers = read_simple_cif(SALT)[2].tolist()
    assert bool(missing_atoms(cif, atomic_numbers)) == lacking
    assert not missing_atoms(cif + "#END\n", atomic_numbers), "a file that has an end is whole"
    assert not missing_atoms(cif + "_note x\n", atomic_numbers)


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
