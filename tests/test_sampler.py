"""Sampling a padded batch."""

import pytest
import torch

from dao_ase.denoiser import Denoiser
from dao_ase.processes import Diffusion, Flow
from dao_ase.sampler import SamplerSettings, batches_by_size, sample
from generation import TINY


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(TINY).eval()


CELLS = [[11, 17], [26, 8, 8, 8], [14] * 7]


@pytest.mark.parametrize(
    ("process", "settings"),
    [
        (Flow(), SamplerSettings(steps=4)),
        (Diffusion(), SamplerSettings(steps=4)),
        (Diffusion(), SamplerSettings(steps=4, solver="predictor-corrector")),
    ],
)
def test_crystals_have_the_atoms_that_were_asked_for(denoiser, process, settings):
    crystals = sample(denoiser, process, CELLS, [0, 1, 2], settings)
    assert [one.atomic_numbers.tolist() for one in crystals] == CELLS
    assert torch.isfinite(crystals.lattice).all() and (crystals.volume > 0).all()
    assert ((crystals.frac_coords >= 0) & (crystals.frac_coords < 1)).all()


def test_a_seed_gives_the_same_crystal_in_any_batch(denoiser):
    alone = sample(denoiser, Flow(), CELLS[1:2], [7], SamplerSettings(steps=3))
    together = sample(denoiser, Flow(), CELLS, [3, 7, 5], SamplerSettings(steps=3))[1]
    difference = (alone.frac_coords - together.frac_coords).abs()
    assert torch.minimum(difference, 1 - difference).max() < 0.02  # bfloat16 products of another shape
    torch.testing.assert_close(alone.lattice, together.lattice, rtol=0.02, atol=0.02)


def test_on_step_is_called_for_each_evaluation(denoiser):
    calls = []
    sample(denoiser, Flow(), CELLS, [0, 1, 2], SamplerSettings(steps=5), on_step=lambda: calls.append(1))
    assert len(calls) == 5


def test_batches_stay_within_the_budget():
    sizes = [5, 30, 2, 2, 30, 17, 9] * 20
    batches = list(batches_by_size(sizes, atom_pairs=3000, crystals=16))
    assert sorted(index for batch in batches for index in batch) == list(range(140))
    for batch in batches:
        assert len(batch) <= 16
        assert len(batch) == 1 or len(batch) * max(sizes[index] for index in batch) ** 2 <= 3000


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"solver": "euler"}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplerSettings(**wrong)
