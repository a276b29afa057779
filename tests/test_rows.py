"""Crystals evaluated together get the answers that they get alone, whatever the grouping, and layouts are reused."""

import numpy as np
import torch
from ase.build import bulk

from dao_ase import rows
from dao_ase.derivatives import predict_crystals
from dao_ase.rows import Rows, alike
from dao_ase.verlet import VerletList
from named import NAMED, random_potential, rattled, to_crystals

MODEL = random_potential()


class Walker:
    """A crystal with a list of neighbours."""

    def __init__(self, atoms):
        self.numbers = torch.tensor(atoms.numbers).long()
        self.positions, self.lattice = atoms.positions.copy(), atoms.cell.array.copy()
        self.verlet = VerletList(MODEL, self.numbers)
        self.verlet.update(self.positions, self.lattice)


def test_groups_waste_little_and_lose_nobody():
    rng = np.random.default_rng(0)
    sizes, degrees = rng.integers(1, 30, 200).tolist(), rng.integers(5, 120, 200).tolist()
    groups = alike(sizes, degrees, waste=500)
    assert sorted(place for group in groups for place in group) == list(range(200))
    for group in groups:
        widest = max(degrees[place] for place in group)
        assert sum(sizes[place] * (widest - degrees[place]) for place in group) <= 500
    assert 1 < len(groups) < 100
    assert alike([], []) == []
    assert alike([5, 5], [10, 1000], waste=10**6) == [[1, 0]]


def test_answers_do_not_depend_on_the_groups(monkeypatch):
    atoms = [rattled(one) for one in NAMED.values()] + [bulk("Cu") * (2, 1, 1)]
    walkers = [Walker(one) for one in atoms]
    alone = [predict_crystals(MODEL, to_crystals(one)) for one in atoms]
    for waste in (0, 200, 10**9):
        monkeypatch.setattr(rows, "alike", lambda sizes, degrees, waste=waste: alike(sizes, degrees, waste))
        for answer, expected in zip(Rows(MODEL).evaluate(walkers), alone, strict=True):
            assert abs(answer.energy - float(expected.energy)) < 1e-9
            assert np.allclose(answer.forces, expected.forces, atol=1e-9)
            assert np.allclose(answer.stress, expected.stress[0], atol=1e-9)
    assert Rows(MODEL).evaluate([]) == []


def test_layouts_are_kept_until_a_list_changes(monkeypatch):
    walkers, evaluation = [Walker(NAMED["salt"]), Walker(NAMED["silicon"])], Rows(MODEL)
    built = []
    real = Rows._lay_out
    monkeypatch.setattr(Rows, "_lay_out", lambda self, members: built.append(len(members)) or real(self, members))
    for _ in range(3):
        evaluation.evaluate(walkers)
        for walker in walkers:
            walker.positions = walker.positions + 0.01
            walker.verlet.update(walker.positions, walker.lattice)
    assert len(built) == 1
    walkers[0].lattice, walkers[0].positions = walkers[0].lattice * 0.9, walkers[0].positions * 0.9
    walkers[0].verlet.update(walkers[0].positions, walkers[0].lattice)
    evaluation.evaluate(walkers)
    assert len(built) == 2


def test_a_crystal_that_is_gone_leaves_no_layout_to_another():
    rows, gone = Rows(MODEL), Walker(bulk("Cs"))
    rows.evaluate([gone])
    place = id(gone)
    del gone
    blank = [Walker.__new__(Walker) for _ in range(1000)]  # one of them gets the place in memory that became free
    other = next((one for one in blank if id(one) == place), blank[0])
    other.__init__(bulk("Cu"))
    expected = float(predict_crystals(MODEL, to_crystals(bulk("Cu"))).energy)
    assert abs(rows.evaluate([other])[0].energy - expected) < 1e-9
