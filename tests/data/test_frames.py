"""A CIF is read as the standard means it, where ASE would find other atoms or none."""

import gzip
import json
import re
from io import StringIO

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from pymatgen.core import Lattice, Structure

from dao_ase.data.frames import frames_of
from dao_ase.data.sources import open_source
from dao_ase.data.sources import read as records_of

CELL = """data_salt
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Cl1 Cl 0.5 0.5 0.5
Na1 Na 0 0 0
"""
NAMED = "_space_group_name_H-M_alt 'F m -3 m'\n"
OPERATIONS = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x,y+1/2,z+1/2'\n'x+1/2,y,z+1/2'\n'x+1/2,y+1/2,z'\n"


def read(tmp_path, text):
    file = tmp_path / "salt.cif"
    file.write_text(text)
    return frames_of(file)


@pytest.mark.parametrize(
    "text",
    [
        CELL + NAMED + SITES,
        CELL + NAMED + SITES.replace(" Na ", " NA ").replace(" Cl ", " CL "),
        CELL + NAMED + SITES.replace(" Na ", " Na1+ ").replace(" Cl ", " Cl1- "),
        CELL + OPERATIONS + SITES,
    ],
    ids=["plain", "capitals", "charges", "operations without a name"],
)
def test_the_atoms_are_those_of_the_standard(tmp_path, text):
    frames, refused = read(tmp_path, text)
    assert not refused and frames[0].get_chemical_formula() == "Cl4Na4"
    distances = frames[0].get_all_distances(mic=True)
    assert np.isclose(distances[distances > 0].min(), 2.82, atol=1e-6)


def test_atoms_stand_where_the_named_setting_has_them(tmp_path):
    """ASE reads these by the number alone: as many atoms, at other places."""
    cell = CELL.replace("beta 90", "beta 99")
    site = SITES.replace("Na1 Na 0 0 0\n", "").replace("0.5 0.5 0.5", "0.275 0.04 0.208")
    group = "_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_symmetry_Int_Tables_number 14\n"
    frames, _ = read(tmp_path, cell + group + site)
    x, y, z = 0.275, 0.04, 0.208
    expected = np.array([[x, y, z], [-x, -y, -z], [0.5 - x, 0.5 + y, 0.5 - z], [0.5 + x, 0.5 - y, 0.5 + z]]) % 1
    found = frames[0].get_scaled_positions()
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], atol=1e-6)


def test_sites_stay_in_the_order_of_the_file(tmp_path):
    frames, _ = read(tmp_path, CELL + NAMED + SITES)
    assert frames[0].symbols[0] == "Cl" and frames[0].info["spacegroup"].no == 225


@pytest.mark.parametrize("name", ["_space_group_name_Hall '-F 4 2 9'\n", "_space_group_name_H-M_alt 'F m 3 q'\n"])
def test_a_symmetry_that_is_not_known_is_refused(tmp_path, name):
    frames, refused = read(tmp_path, CELL + name + SITES)
    assert not frames and len(refused) == 1 and "lists no symmetry operations" in refused[0]


MAGNETIC_GROUP = "_space_group_magn.name_BNS 'F S m -3 m'\n"
MAGNETIC_OPERATIONS = """loop_
_space_group_symop_magn_operation.xyz
x,y,z,+1
x,y+1/2,z+1/2,-1
x+1/2,y,z+1/2,-1
x+1/2,y+1/2,z,+1
"""


def test_a_magnetic_cif_has_the_atoms_of_its_magnetic_operations(tmp_path):
    file = tmp_path / "salt.mcif"
    for sites in (SITES, SITES.replace("Cl1 Cl", "D1 D")):
        file.write_text(CELL + MAGNETIC_GROUP + MAGNETIC_OPERATIONS + sites)
        frames, refused = frames_of(file)
        assert not refused and sorted(frames[0].symbols)[4:] == ["Na"] * 4
        assert next(iter(records_of(open_source(file)))).id == "salt"


@pytest.mark.parametrize(
    "head",
    [
        MAGNETIC_GROUP.replace("name_BNS", "ssg_name"),
        MAGNETIC_GROUP.replace("F S m -3 m", "no such group"),
        MAGNETIC_OPERATIONS.replace("x,y,z,+1", "x1,x2,x3,x4,+1"),
        "_cell_modulation_dimension 1\n" + MAGNETIC_OPERATIONS,
    ],
    ids=["superspace", "unknown", "four dimensions", "modulated"],
)
def test_magnetic_symmetry_that_cannot_be_read_is_not_taken_for_none(tmp_path, head):
    frames, refused = read(tmp_path, CELL + head + SITES)
    assert not frames and len(refused) == 1 and "magnetic" in refused[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [("<html>\n", "holds no atoms"), (CELL, "holds no atoms"), (CELL + SITES.split("Cl1")[0], "is the file complete")],
    ids=["a web page", "no sites", "no site"],
)
def test_a_cif_without_atoms_is_said_to_have_none(tmp_path, text, said):
    frames, refused = read(tmp_path, text)
    assert not frames and len(refused) == 1 and said in refused[0]


def test_an_index_beyond_the_last_frame_is_said_to_be_so(tmp_path):
    write(tmp_path / "one.extxyz", Atoms("H"))
    frames, refused = frames_of(tmp_path / "one.extxyz@7")
    assert not frames and refused[0].endswith("the file does not have so many structures")


def test_other_blocks_are_read_beside_one_that_cannot_be(tmp_path):
    broken = (CELL + SITES).replace("data_salt", "data_broken").replace("0.5 0.5 0.5", "x y z")
    frames, refused = read(tmp_path, CELL + NAMED + SITES + broken)
    assert list(frames) == [0] and len(refused) == 1 and refused[0].startswith(f"{tmp_path / 'salt.cif'}#1: ")


@pytest.mark.parametrize("isotope", ["D", "T"])
@pytest.mark.parametrize("name", ["a.xyz", "POSCAR", "a.vasp.gz"])
def test_isotopes_are_hydrogen_with_their_masses(tmp_path, name, isotope):
    hydride = Atoms("LiHHLi", cell=[4, 4, 8], pbc=True, positions=[[0, 0, 0], [2, 2, 2], [2, 2, 6], [0, 0, 4]])
    text = StringIO()
    write(text, hydride, format="extxyz" if name == "a.xyz" else "vasp")
    heavy = re.sub(r"(?<![A-Za-z])H(?= )", isotope, text.getvalue())
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt") as file:
        file.write(heavy)
    frames, refused = frames_of(tmp_path / name)
    assert not refused and frames[0].numbers.tolist() == [3, 1, 1, 3]
    mass = {"D": 2.014, "T": 3.016}[isotope]
    np.testing.assert_allclose(frames[0].get_masses(), [6.94, mass, mass, 6.94], atol=1e-3)


@pytest.mark.parametrize("chosen", ["", "@0"])
def test_an_xyz_file_that_claims_more_atoms_than_it_has_is_refused(tmp_path, chosen):
    (tmp_path / "a.xyz").write_text("100000000000\n\nH 0 0 0\n")
    frames, (reason,) = frames_of(tmp_path / f"a.xyz{chosen}")
    assert not frames and "the file ends in a frame of 100000000000 atoms; it is truncated" in reason
    (tmp_path / "a.xyz").write_text("1" * 30 + "\n\nH 0 0 0\n")
    assert "it is truncated" in frames_of(tmp_path / "a.xyz")[1][0]
    (tmp_path / "table.csv").write_text("file\na.xyz\n")
    rejected = []
    assert not list(records_of(open_source(tmp_path / "table.csv"), rejected.append))
    assert "it is truncated" in rejected[0].reason


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"@module": ' * 100_000)
    frames, (reason,) = frames_of(tmp_path / "a.json")
    assert not frames and "nested too deeply" in reason


def test_documents_of_the_materials_project_are_structures(tmp_path):
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "a.json").write_text(json.dumps([{"material_id": "mp-22862", "structure": salt.as_dict()}]))
    frames, refused = frames_of(tmp_path / "a.json")
    assert not refused and frames[0].get_chemical_formula() == "Cl4Na4"
