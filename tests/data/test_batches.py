"""Bucketed batches: equal sizes, every crystal equally often, exact resume."""

import json

import numpy as np
import pytest
import torch

from dao_ase.crystals import Crystals
from dao_ase.data.batches import BucketedBatches


class Source:
    """Crystals whose volume is their index + 1."""

    def __init__(self, num_atoms) -> None:
        self.num_atoms = np.asarray(num_atoms)

    def batch(self, indices: np.ndarray) -> Crystals:
        counts = torch.from_numpy(self.num_atoms[indices])
        size = torch.from_numpy(indices + 1.0) ** (1 / 3)
        total = int(counts.sum())
        return Crystals(size[:, None, None] * torch.eye(3), torch.zeros(total, 3), torch.ones(total).long(), counts)


@pytest.fixture
def source() -> Source:
    return Source(np.random.default_rng(0).integers(1, 9, 500))


def test_crystals_of_a_batch_are_of_one_size(source):
    batches = BucketedBatches(source, crystals=16)
    for _ in range(20):
        assert len(next(batches).num_atoms.unique()) == 1


def test_every_crystal_comes_equally_often(source):
    batches = BucketedBatches(source, crystals=16)
    seen = np.bincount(np.concatenate([batches.next_indices() for _ in range(3000)]), minlength=500)
    assert seen.min() > 0.6 * seen.mean()
    assert seen.max() < 1.5 * seen.mean()


def test_large_cells_can_come_less_often():
    batches = BucketedBatches(Source([2] * 50 + [8] * 50), crystals=10, size_bias=1.5)
    drawn = np.concatenate([batches.next_indices() for _ in range(3000)])
    assert np.mean(drawn >= 50) == pytest.approx(1 / (1 + 4**1.5), abs=0.02)


def test_one_pass_of_a_stream_repeats_nothing():
    batches = BucketedBatches(Source(np.full(100, 4)), crystals=30)
    first = np.concatenate([batches.next_indices() for _ in range(10)])
    for epoch in range(3):
        assert len(set(first[100 * epoch : 100 * (epoch + 1)])) == 100


def test_pairs_bound_the_batch():
    assert len(BucketedBatches(Source(np.full(100, 20)), crystals=64, pairs=4000).next_indices()) == 10


def test_resumed_order_is_the_uninterrupted_one(source):
    whole = BucketedBatches(source, crystals=16, seed=3)
    expected = [whole.next_indices() for _ in range(100)]
    part = BucketedBatches(source, crystals=16, seed=3)
    for _ in range(40):
        part.next_indices()
    state = json.loads(json.dumps(part.state_dict()))
    resumed = BucketedBatches(source, crystals=16, seed=3)
    resumed.load_state_dict(state)
    for indices in expected[40:]:
        assert np.array_equal(resumed.next_indices(), indices)


def test_no_crystal_small_enough_is_an_error(source):
    with pytest.raises(ValueError, match="at most 0 atoms"):
        BucketedBatches(source, max_atoms=0)


@pytest.mark.parametrize("settings", [{"crystals": 0}, {"pairs": -1}])
def test_batches_of_nothing_are_an_error(source, settings):
    with pytest.raises(ValueError, match="give at least 1 of both"):
        BucketedBatches(source, **settings)


def test_other_crystals_can_follow(source):
    before = BucketedBatches(Source([2, 2, 3]), crystals=1)
    for _ in range(5):
        next(before)
    after = BucketedBatches(source, crystals=4)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert {len(set(next(after).num_atoms.tolist())) for _ in range(50)} == {1}
