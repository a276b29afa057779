"""A neighbour list with a skin: reused while it holds, right whenever it is reused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_ase.neighbors import find_pairs
from dao_ase.verlet import VerletList
from named import NAMED, random_potential

MODEL = random_potential()


def exact(atoms, positions, lattice) -> set:
    numbers, x, cell = torch.tensor(atoms.numbers).long(), torch.tensor(positions), torch.tensor(lattice)
    pairs = MODEL.within_cutoff(numbers, x, cell, find_pairs(x, cell, MODEL.max_cutoff(numbers)))
    return {(int(i), int(j), *s.tolist()) for i, j, s in zip(*pairs, strict=True)}


def inside(verlet, atoms, positions, lattice) -> set:
    numbers, x, cell = torch.tensor(atoms.numbers).long(), torch.tensor(positions), torch.tensor(lattice)
    pairs = MODEL.within_cutoff(numbers, x, cell, verlet.pairs)
    return {(int(i), int(j), *s.tolist()) for i, j, s in zip(*pairs, strict=True)}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["salt", "skewed", "silicon"]), st.integers(0, 1000), st.floats(0.0, 0.1), st.floats(0.0, 0.04))
def test_list_holds_every_pair_after_any_walk(name, seed, size, strain):
    atoms, rng = NAMED[name], np.random.default_rng(seed)
    verlet = VerletList(MODEL, torch.tensor(atoms.numbers).long(), skin=0.6)
    positions, lattice = atoms.positions.copy(), atoms.cell.array.copy()
    for _ in range(6):
        verlet.update(positions, lattice)
        assert exact(atoms, positions, lattice) == inside(verlet, atoms, positions, lattice)
        growth = np.eye(3) + strain * rng.normal(size=(3, 3))
        positions, lattice = (positions + size * rng.normal(size=positions.shape)) @ growth, lattice @ growth


def test_small_steps_reuse_the_list():
    atoms = NAMED["salt"]
    verlet = VerletList(MODEL, torch.tensor(atoms.numbers).long(), skin=0.5)
    for step in range(10):
        verlet.update(atoms.positions + 0.01 * step, atoms.cell.array * (1 + 0.001 * step))
    assert verlet.builds == 1
    verlet.update(atoms.positions * 1.2, atoms.cell.array * 1.2)
    assert verlet.builds == 1  # everything moves apart: nothing can have come closer
    verlet.update(atoms.positions * 0.9, atoms.cell.array * 0.9)
    assert verlet.builds == 2


def test_an_interrupted_search_is_made_again(monkeypatch):
    atoms = NAMED["salt"]
    verlet = VerletList(MODEL, torch.tensor(atoms.numbers).long(), skin=0.5)
    verlet.update(atoms.positions, atoms.cell.array)
    with monkeypatch.context() as patch:
        patch.setattr(verlet, "_refuse", lambda slots: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            verlet.update(atoms.positions + 1.5 * np.array([[1], *[[-1]] * (len(atoms) - 1)]), atoms.cell.array)
    verlet.update(atoms.positions, atoms.cell.array)
    assert inside(verlet, atoms, atoms.positions, atoms.cell.array) == exact(atoms, atoms.positions, atoms.cell.array)


def test_coincident_atoms_are_named():
    numbers = torch.tensor([14, 14, 14])
    with pytest.raises(ValueError, match=r"atoms 1 and 2 are 0\.01 Å apart"):
        VerletList(MODEL, numbers).update(np.array([[0, 0, 0], [2, 2, 2], [2, 2, 2.01]]), 5 * np.eye(3))
