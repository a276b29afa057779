"""Niggli reduction and the hand of a cell: another description of the same crystal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice

from dao_ase.convert import niggli_reduced, right_handed
from dao_ase.crystals import Crystals
from dao_ase.niggli import niggli_reduce, niggli_transformation


@st.composite
def crystals(draw) -> Crystals:
    """One to three crystals in skewed, also left-handed cells, coordinates outside [0, 1)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    lattices = []
    for _ in counts:
        skew = np.eye(3) + np.tril(rng.integers(-2, 3, (3, 3)), -1)
        rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        lattices.append(skew @ np.diag(rng.uniform(2.5, 9, 3)) @ rotation)
    total = sum(counts)
    return Crystals(
        torch.tensor(np.array(lattices)),
        torch.tensor(rng.uniform(-2, 2, (total, 3))),
        torch.tensor(rng.integers(1, 100, total)),
        torch.tensor(counts),
    )


@settings(max_examples=60, deadline=None)
@given(crystals())
def test_niggli_cell_is_the_same_crystal(batch):
    reduced = niggli_reduced(batch)
    torch.testing.assert_close(reduced.volume, batch.volume.abs())
    assert (reduced.frac_coords >= 0).all() and (reduced.frac_coords < 1).all()
    for before, after in zip(batch, reduced, strict=True):
        shift = (after.positions - before.positions) @ torch.linalg.inv(before.lattice[0])
        torch.testing.assert_close(shift, shift.round(), atol=1e-6, rtol=0)  # atoms moved by lattice vectors only
        ours = sorted(Lattice(after.lattice[0].numpy()).abc)
        np.testing.assert_allclose(
            ours, sorted(Lattice(before.lattice[0].numpy()).get_niggli_reduced_lattice().abc), rtol=1e-4
        )
        again = niggli_reduced(after)
        np.testing.assert_allclose(sorted(Lattice(again.lattice[0].numpy()).abc), ours, rtol=1e-5)


def test_niggli_of_what_has_no_reduction_is_the_cell_itself():
    lattice = np.diag([1e-9, 5.0, 5.0])
    matrix = niggli_transformation(lattice)
    assert abs(np.linalg.det(matrix)) == pytest.approx(1)
    _, coords = niggli_reduce(np.diag([4.0, 5, 6]), np.array([[1 - 1e-12, -1e-12, 7.25]]))
    assert (coords >= 0).all() and (coords < 1).all()


@settings(max_examples=30, deadline=None)
@given(crystals())
def test_right_handed_moves_no_atom(batch):
    after = right_handed(batch)
    assert (after.volume > 0).all()
    torch.testing.assert_close(after.positions, batch.positions)
