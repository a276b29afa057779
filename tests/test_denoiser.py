"""Symmetries of DAO-G's network."""

import pytest
import torch

from dao_ase.denoiser import PRESETS, Denoiser, DenoiserConfig, _summed_gaussians

CONFIGS = {
    "adaptive": DenoiserConfig(width=32, layers=2, heads=4, pair_width=16, frequencies=4, radial=6),
    "gated": DenoiserConfig(width=32, layers=2, heads=4, pair_width=0, frequencies=4, radial=0, block="gated"),
}


@pytest.fixture(params=sorted(CONFIGS))
def denoiser(request) -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(CONFIGS[request.param]).double()
    for parameter in network.parameters():  # AdaLN starts as the identity: move away from it
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def inputs(crystals: int = 2, atoms: int = 5):
    torch.manual_seed(1)
    numbers = torch.randint(1, 90, (crystals, atoms))
    coords, time = torch.rand(crystals, atoms, 3, dtype=torch.float64), torch.rand(crystals, dtype=torch.float64)
    return numbers, coords, torch.randn(crystals, 6, dtype=torch.float64), time


def evaluate(network: Denoiser, numbers, coords, code, time, mask=None):
    counts = torch.full((len(numbers),), numbers.shape[1]) if mask is None else mask.sum(1)
    return network(numbers, coords, code, network.decode_lattice(code, counts), time, mask)


def test_origin_shift_changes_nothing(denoiser):
    numbers, coords, code, time = inputs()
    vectors, cell = evaluate(denoiser, numbers, coords, code, time)
    shifted = evaluate(denoiser, numbers, (coords + torch.rand(3, dtype=torch.float64)) % 1, code, time)
    torch.testing.assert_close(shifted[0], vectors)
    torch.testing.assert_close(shifted[1], cell)


def test_permutation_permutes_the_vectors(denoiser):
    numbers, coords, code, time = inputs()
    vectors, cell = evaluate(denoiser, numbers, coords, code, time)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = evaluate(denoiser, numbers[:, order], coords[:, order], code, time)
    torch.testing.assert_close(permuted[0], vectors[:, order])
    torch.testing.assert_close(permuted[1], cell)


def test_rotation_does_not_reach_the_network(denoiser):
    lattice = 5 * torch.eye(3, dtype=torch.float64) + torch.rand(2, 3, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    counts = torch.tensor([5, 5])
    torch.testing.assert_close(
        denoiser.encode_lattice(lattice @ rotation, counts), denoiser.encode_lattice(lattice, counts)
    )


def test_padding_changes_nothing(denoiser):
    numbers, coords, code, time = inputs()
    vectors, cell = evaluate(denoiser, numbers, coords, code, time)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 5:] = False
    padded_numbers = torch.nn.functional.pad(numbers, (0, 2))
    padded_coords = torch.nn.functional.pad(coords, (0, 0, 0, 2), value=0.3)
    padded = evaluate(denoiser, padded_numbers, padded_coords, code, time, mask)
    torch.testing.assert_close(padded[0][:, :5], vectors)
    torch.testing.assert_close(padded[1], cell)


def test_vectors_have_zero_mean(denoiser):
    vectors, _ = evaluate(denoiser, *inputs())
    assert vectors.mean(1).abs().max() < 1e-6


def test_lattice_code_round_trip(denoiser):
    lattice, counts = (
        4 * torch.eye(3, dtype=torch.float64) + torch.rand(8, 3, 3, dtype=torch.float64),
        torch.arange(1, 9),
    )
    denoiser.fit_lattice(lattice, counts)
    code = denoiser.encode_lattice(lattice, counts)
    assert code.mean(0).abs().max() < 1e-9
    again = denoiser.decode_lattice(code, counts)
    torch.testing.assert_close(again @ again.mT, lattice @ lattice.mT)


def test_paper_preset_has_the_published_size():
    count = sum(parameter.numel() for parameter in Denoiser(PRESETS["paper"]).parameters())
    assert 24e6 < count < 27e6  # 25.2 M


@pytest.mark.parametrize("preset", ["small", "base"])
def test_shipped_presets_stay_small(preset):
    assert sum(parameter.numel() for parameter in Denoiser(PRESETS[preset]).parameters()) <= 10e6


@pytest.mark.parametrize(("spacing", "count"), [(1.0, 16), (15 / 14, 8), (0.9375, 1), (1.0, 11)])
def test_summed_gaussians_are_those_of_the_formula(spacing, count):
    distance = torch.rand(4, 5, 27) * 60 - 1
    distance[0, 0] = 0.0
    expected = torch.exp(-(distance.double().unsqueeze(-1) - spacing * torch.arange(count)).square()).sum(-2)
    found = _summed_gaussians(distance, spacing, count)
    assert found.shape == (4, 5, count) and torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-8)
