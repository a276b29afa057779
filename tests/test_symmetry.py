"""The space group: found within the tolerance, and in silence."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from dao_ase.symmetry import GENERATED, generated_space_group, idealized

CSPBI3 = Structure(
    Lattice([[4.6157, -0.8171, -0.0348], [-0.8757, 8.6231, 0.011], [-0.0136, 0.0075, 12.3661]]),
    ["Cs"] * 2 + ["Pb"] * 2 + ["I"] * 6,
    [
        [0.2346, 0.4752, 0.2506],
        [0.7638, 0.5237, 0.7505],
        [0.5015, 0.0013, 0.5002],
        [0.501, 0.9995, 0.9997],
        [0.8646, 0.7352, 0.4485],
        [0.1353, 0.2685, 0.5516],
        [0.8649, 0.7323, 0.0503],
        [0.1343, 0.2664, 0.9493],
        [0.5513, 0.1052, 0.2497],
        [0.4486, 0.8927, 0.7495],
    ],
)
"""As it comes out of a relaxation: spglib tries several tolerances, and fails with the first."""


def test_attempts_that_fail_are_not_heard_of(capfd, monkeypatch):
    monkeypatch.delenv("SPGLIB_WARNING", raising=False)
    assert generated_space_group(CSPBI3)[1] > 1
    assert capfd.readouterr().err == ""


def test_a_structure_without_symmetry_is_p1():
    atoms = np.random.default_rng(0).random((8, 3))
    assert generated_space_group(Structure(Lattice.from_parameters(5, 6, 7, 80, 85, 95), ["Si"] * 8, atoms)) == (
        "P1",
        1,
    )


def test_what_is_not_finite_is_p1():
    lost = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[np.nan, 0, 0], [0.5, 0.5, 0.5]])
    assert generated_space_group(lost) == ("P1", 1)


QUARTZ = Structure.from_spacegroup(
    "P3_221", Lattice.hexagonal(4.91, 5.4), ["Si", "O"], [[0.47, 0, 2 / 3], [0.413, 0.266, 0.786]]
)
HALITE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


CELLS = [np.eye(3), np.diag([1, 1, 2]), np.diag([-1, 1, 1]), [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("crystal", [QUARTZ, HALITE, HALITE.get_primitive_structure()])
def test_any_cell_gets_its_symmetry_exactly(crystal, cell):
    shaken = crystal.make_supercell(cell, in_place=False).perturb(0.02)
    numbers = np.array(shaken.atomic_numbers)
    lattice, coords = idealized(shaken.lattice.matrix, shaken.frac_coords, numbers, GENERATED)
    exact = Structure(lattice, numbers, coords)
    assert exact.get_space_group_info(symprec=1e-5) == crystal.get_space_group_info()
    assert exact.volume == pytest.approx(shaken.volume, rel=0.02)
    # else quartz would become its mirror image
    assert np.linalg.det(lattice) * np.linalg.det(shaken.lattice.matrix) > 0
    np.testing.assert_allclose(exact.distance_matrix, shaken.distance_matrix, atol=0.15)


def test_the_origin_becomes_the_standard_one():
    # else the operations have translations that fit no grid of pw.x, which then leaves them out
    shaken = HALITE.copy().translate_sites(range(8), [0.1, 0.2, 0.3]).perturb(0.02)
    _, coords = idealized(shaken.lattice.matrix, shaken.frac_coords, np.array(shaken.atomic_numbers), GENERATED)
    np.testing.assert_allclose(2 * coords, np.round(2 * coords), atol=1e-9)
    assert coords.min() > -1e-5 and coords.max() < 1
