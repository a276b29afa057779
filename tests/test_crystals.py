"""The batch of crystals: bookkeeping of atoms and crystals."""

import numpy as np
import pytest
import torch

from dao_ase.crystals import Crystals, parts_within


def three_crystals() -> Crystals:
    torch.manual_seed(0)
    num_atoms = torch.tensor([2, 1, 3])
    return Crystals(torch.randn(3, 3, 3), torch.rand(6, 3), torch.tensor([11, 17, 29, 1, 8, 1]), num_atoms)


def test_each_atom_knows_its_crystal():
    batch = three_crystals()
    assert batch.crystal_index.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.first_atom.tolist() == [0, 2, 3]


def test_positions_are_fractions_of_the_lattice_rows():
    batch = three_crystals()
    torch.testing.assert_close(batch.positions[3], batch.frac_coords[3] @ batch.lattice[2])


@pytest.mark.parametrize(
    "selection", [[2, 0], [1], slice(1, 3), torch.tensor([True, False, True]), np.argsort([3, 1, 2])[0]]
)
def test_selection_and_concatenation(selection):
    batch = three_crystals()
    chosen = batch[selection]
    again = Crystals.concatenate(list(chosen))
    assert torch.equal(again.frac_coords, chosen.frac_coords)
    order = torch.arange(3)[selection].reshape(-1)
    assert chosen.num_atoms.tolist() == batch.num_atoms[order].tolist()
    assert torch.equal(chosen[-1].atomic_numbers, batch[int(order[-1])].atomic_numbers)


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        Crystals(torch.eye(3)[None], torch.zeros(2, 3), torch.tensor([1, 1]), torch.tensor([3]))


def test_parts_stay_within_the_budget_or_hold_one():
    assert parts_within([8, 2, 30, 5, 5], 10) == [[0, 1], [2], [3, 4]]
    assert parts_within([0, 0, 11], 10) == [[0, 1], [2]]
    assert parts_within([], 10) == []
