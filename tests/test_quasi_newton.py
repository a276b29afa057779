"""Quasi-Newton steps find the bottom of bowls, in bounded steps, and are not led uphill."""

import numpy as np

from dao_ase.quasi_newton import LONGEST, QuasiNewton


def bowl(atoms: int, lowest: float, highest: float) -> np.ndarray:
    """A symmetric stiffness (eV/Å²) with eigenvalues from ``lowest`` to ``highest``."""
    axes, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3 * atoms, 3 * atoms)))
    return axes * np.geomspace(lowest, highest, 3 * atoms) @ axes.T


def walk(
    stiffness: np.ndarray, start: np.ndarray, steps: int, fmax: float = 1e-4
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where the walk ends, and its steps."""
    optimizer, place, taken = QuasiNewton(), start, []
    while len(taken) < steps and np.abs(force := -(stiffness @ place.ravel()).reshape(-1, 3)).max() > fmax:
        taken.append(optimizer.step(force))
        place = place + taken[-1]
    return place, taken


def test_ends_at_the_bottom_in_few_steps():
    start = np.random.default_rng(1).normal(scale=0.1, size=(4, 3))
    place, taken = walk(bowl(4, 1.0, 40.0), start, 100)
    assert np.abs(place).max() < 1e-3
    assert len(taken) < 40


def test_soft_directions_take_no_hundreds_of_steps():
    start = np.random.default_rng(1).normal(scale=0.1, size=(4, 3))
    place, taken = walk(bowl(4, 0.02, 20.0), start, 200)
    assert np.abs(place).max() < 0.01
    assert len(taken) < 60


def test_no_atom_moves_further_than_the_longest_step():
    start = np.zeros((4, 3))
    start[2, 0] = 3.0
    _, taken = walk(bowl(4, 5.0, 20.0), start, 100)
    lengths = [np.sqrt((step**2).sum(1).max()) for step in taken]
    assert max(lengths) <= LONGEST + 1e-12
    assert lengths[0] > 0.99 * LONGEST


def test_goes_downhill_where_there_is_no_minimum():
    """On a saddle the step still goes the way of the force."""
    saddle = np.diag([10.0, 10.0, -10.0])
    place, taken = walk(saddle, np.array([[0.05, 0.05, 0.01]]), 12)
    assert abs(place[0, 2]) > 1
    assert np.abs(place[0, :2]).max() < 0.05
    assert all(step[0, 2] > 0 for step in taken)
