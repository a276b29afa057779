"""What DAO-G is told of its training crystals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dao_ase.data.batches import BucketedBatches, LabelledBatch
from dao_ase.data.shards import encode_texts
from dao_ase.data.store import CrystalStore
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.train.denoising import DenoisingObjective
from dao_ase.train.kinds import STABLE, UNKNOWN, UNSTABLE, kind_batches, kinds_of

TINY = DenoiserConfig(width=16, layers=1, heads=2, pair_width=8, frequencies=2, radial=4, kinds=3)


SIZES = [3.0, 4.0, 5.0, 6.0]  # Å
SOURCES = ["mp_pool_0.npz", "mp_pool_0.npz", "mp_pool_0.npz", "mp20_train.npz"]


@pytest.fixture(scope="module")
def store() -> CrystalStore:
    """Two atoms in a cube of its own size for each crystal."""
    texts, ends = encode_texts(SOURCES)
    shard = {
        "num_atoms": np.full(4, 2, np.int32),
        "atomic_numbers": np.ones(8, np.uint8),
        "frac_coords": np.random.default_rng(0).random((8, 3), np.float32),
        "lattice": np.einsum("c,xy->cxy", SIZES, np.eye(3)).astype(np.float32),
        "label.e_above_hull": np.array([0.0, 0.3, np.nan, np.nan]),
        "text.source": texts,
        "text_end.source": ends,
    }
    return CrystalStore(Path("nowhere"), [shard], {})


def test_kinds_follow_the_hull_and_mp20_is_stable(store):
    assert kinds_of(store).tolist() == [STABLE, UNSTABLE, UNKNOWN, STABLE]


def test_each_crystal_comes_with_its_kind_and_the_order_can_be_resumed(store):
    batches = kind_batches(store, crystals=3, seed=1)
    next(batches)
    state, expected = batches.state_dict(), next(batches)
    again = kind_batches(store, crystals=3, seed=1)
    again.load_state_dict(state)
    found = next(again)
    assert torch.equal(found.label, expected.label)
    places = found.crystals.lattice[:, 0, 0].round().long() - 3
    assert torch.equal(found.label, torch.from_numpy(kinds_of(store))[places])


@pytest.mark.parametrize("kind", [None, 0])
def test_nothing_said_is_stable(kind):
    denoiser, inputs = moved_denoiser(), geometry()
    said = None if kind is None else torch.full((2,), kind)
    expected = denoiser(*inputs, kind=torch.tensor([STABLE, STABLE]))
    torch.testing.assert_close(denoiser(*inputs, kind=said)[0], expected[0])
    assert not torch.allclose(denoiser(*inputs, kind=torch.tensor([UNSTABLE, UNKNOWN]))[0], expected[0])


def test_the_kind_reaches_the_loss(store):
    denoiser, crystals = moved_denoiser(), next(BucketedBatches(store, crystals=4))
    losses = [
        DenoisingObjective(denoiser).loss(denoiser, batch, torch.Generator().manual_seed(0))["loss"].item()
        for batch in (
            crystals,
            LabelledBatch(crystals, torch.zeros(4).long()),
            LabelledBatch(crystals, torch.ones(4).long()),
        )
    ]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] != pytest.approx(losses[2], rel=1e-6)


def moved_denoiser() -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(TINY)
    for parameter in denoiser.parameters():  # kinds start alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return denoiser


def geometry() -> tuple[torch.Tensor, ...]:
    lattice = 4 * torch.eye(3).repeat(2, 1, 1)
    return torch.tensor([[1, 2], [3, 4]]), torch.rand(2, 2, 3), torch.zeros(2, 6), lattice, torch.tensor([0.3, 0.8])
