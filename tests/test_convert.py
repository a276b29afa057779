"""Crystals to and from ASE and pymatgen: nothing is reordered, rotated or rounded."""

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from dao_ase.convert import atoms_from_structure, from_atoms, from_structures, niggli_reduced, to_atoms, to_structures
from named import NAMED


def random_atoms(seed: int) -> Atoms:
    """One to nine atoms anywhere, in a skewed cell of either hand."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 10)
    cell = 4 * np.eye(3) + rng.normal(size=(3, 3))
    return Atoms(
        numbers=rng.integers(1, 90, count), scaled_positions=rng.uniform(-2, 2, (count, 3)), cell=cell, pbc=True
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_atoms_come_back_as_they_were(seed):
    atoms = random_atoms(seed)
    (again,) = to_atoms(from_atoms([atoms]))
    assert again.numbers.tolist() == atoms.numbers.tolist()
    np.testing.assert_allclose(again.cell, atoms.cell, rtol=0, atol=1e-12)
    np.testing.assert_allclose(again.positions, atoms.positions, rtol=0, atol=1e-10)
    assert again.pbc.all()


def test_structures_come_back_as_they_were():
    structures = [
        Structure(
            Lattice.from_parameters(3, 4, 5, 70, 80, 100), ["Cl", "Na", "Cl"], [[0.1, 1.2, -0.3], [0, 0, 0], [0.9] * 3]
        ),
        Structure(Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]), ["Si"], [[0.25, 0.25, 0.25]]),
    ]
    assert to_structures(from_structures(structures)) == structures


def test_both_roads_lead_to_the_same_crystals():
    from pymatgen.io.ase import AseAtomsAdaptor

    images = list(NAMED.values())
    by_ase = from_atoms(images)
    by_pymatgen = from_structures([AseAtomsAdaptor.get_structure(atoms) for atoms in images])
    assert by_ase.num_atoms.tolist() == by_pymatgen.num_atoms.tolist()
    np.testing.assert_allclose(by_ase.positions, by_pymatgen.positions, atol=1e-10)


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (Atoms(cell=np.eye(3), pbc=True), "no atoms"),
        (Atoms("H", positions=[[np.nan, 0, 0]], cell=4 * np.eye(3), pbc=True), "not finite"),
        (Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=[True, True, False]), "pbc"),
        (Atoms("H", cell=4 * np.eye(3), pbc=False), "pbc"),
    ],
)
def test_what_is_no_crystal_is_refused(atoms, reason):
    with pytest.raises(ValueError, match=reason):
        from_atoms([atoms])


def test_flat_cells_and_partial_occupancy_are_refused():
    flat = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 0]]), ["H"], [[0, 0, 0]])
    with pytest.raises(ValueError, match="rows are dependent"):
        from_structures([flat])
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match="partly occupied"):
        from_structures([mixed])


def test_structures_that_are_not_periodic_are_refused_as_atoms_are():
    slab = Structure(Lattice(10 * np.eye(3), pbc=(True, True, False)), ["Cu"], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"structure 0 \(Cu\) has pbc \[True, True, False\]"):
        from_structures([slab])


@pytest.mark.parametrize("converted", [lambda one: from_structures([one]), atoms_from_structure])
def test_dummy_species_are_refused(converted):
    holes = Structure(Lattice.cubic(4), ["D", "X", "Q2+"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0]])
    with pytest.raises(ValueError, match="has sites of Q, X, which is no element"):
        converted(holes)
    assert len(converted(Structure.from_sites(holes[:1]))) == 1  # deuterium is hydrogen


def test_an_empty_batch_is_a_batch():
    nothing = from_structures([])
    assert len(nothing) == len(niggli_reduced(nothing)) == 0
    assert to_atoms(nothing) == to_structures(nothing) == []
