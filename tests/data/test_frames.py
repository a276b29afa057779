"""A CIF is read as the standard means it, where ASE would find other atoms or none."""

import numpy as np
import pytest

from dao_ase.data.frames import frames_of

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


def test_sites_stay_in_the_order_of_the_file(tmp_path):
    frames, _ = read(tmp_path, CELL + NAMED + SITES)
    assert frames[0].symbols[0] == "Cl" and frames[0].info["spacegroup"].no == 225


@pytest.mark.parametrize("name", ["_space_group_name_Hall '-F 4 2 3'\n", "_space_group_name_H-M_alt 'F m 3 q'\n"])
def test_a_symmetry_that_is_not_known_is_refused(tmp_path, name):
    frames, refused = read(tmp_path, CELL + name + SITES)
    assert not frames and len(refused) == 1 and "lists no symmetry operations" in refused[0]


def test_other_blocks_are_read_beside_one_that_cannot_be(tmp_path):
    broken = (CELL + SITES).replace("data_salt", "data_broken").replace("0.5 0.5 0.5", "x y z")
    frames, refused = read(tmp_path, CELL + NAMED + SITES + broken)
    assert list(frames) == [0] and len(refused) == 1 and refused[0].startswith(f"{tmp_path / 'salt.cif'}#1: ")
