"""The noise processes: their ends, their targets, and that an oracle brings every crystal back."""

import pytest
import torch

from dao_ase.processes import Diffusion, Flow, Geometry, centre
from dao_ase.sampler import SamplerSettings, integrate_diffusion, integrate_flow, predict_and_correct
from dao_ase.torus import shortest, wrapped_normal_score


def clean_geometry(crystals: int = 16, atoms: int = 6) -> tuple[Geometry, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    geometry = Geometry(
        torch.rand(crystals, atoms, 3, generator=rng, dtype=torch.float64),
        torch.randn(crystals, 6, generator=rng, dtype=torch.float64),
    )
    return geometry, torch.ones(crystals, atoms, dtype=torch.bool)


def distance(found: Geometry, wanted: Geometry, mask: torch.Tensor) -> float:
    """Largest coordinate error after the best shift of the origin, to first order."""
    error = shortest(found.coords - wanted.coords)
    error = shortest(error - error[:, :1])
    return float(centre(error, mask).abs().max())


def test_flow_ends_at_the_crystal():
    clean, mask = clean_geometry()
    noisy, target = Flow().corrupt(clean, torch.ones(16, dtype=torch.float64), mask, torch.Generator().manual_seed(0))
    assert shortest(noisy.coords - clean.coords).abs().max() < 1e-12
    torch.testing.assert_close(noisy.code, clean.code)
    torch.testing.assert_close(target.code, clean.code)


def test_flow_target_is_the_velocity_of_the_path():
    clean, mask = clean_geometry()
    early, late = (
        Flow().corrupt(clean, torch.full((16,), t, dtype=torch.float64), mask, torch.Generator().manual_seed(0))
        for t in (0.4, 0.5)
    )
    velocity = shortest(late[0].coords - early[0].coords) / 0.1
    torch.testing.assert_close(velocity * Flow.SCALE, early[1].coords)


def test_targets_have_unit_scale():
    clean, mask = clean_geometry(512, 8)
    rng = torch.Generator().manual_seed(0)
    for process in (Flow(), Diffusion()):
        for value in (0.1, 0.5, 0.9):
            _, target = process.corrupt(clean, torch.full((512,), value, dtype=torch.float64), mask, rng)
            assert 0.7 < float(target.coords.square().mean()) < 1.2


def test_padding_stays_out_of_the_targets():
    clean, mask = clean_geometry()
    mask[:, 4:] = False
    for process in (Flow(), Diffusion()):
        _, target = process.corrupt(clean, torch.rand(16, dtype=torch.float64), mask, torch.Generator().manual_seed(0))
        assert target.coords[:, 4:].abs().max() == 0
        assert target.coords[:, :4].mean(1).abs().max() < 1e-12


@pytest.mark.parametrize("anti_annealing", [0.0, 5.0])
def test_oracle_flow_recovers_the_crystal(anti_annealing):
    clean, mask = clean_geometry()
    start, _ = Flow().corrupt(clean, torch.zeros(16, dtype=torch.float64), mask, torch.Generator().manual_seed(1))

    def oracle(geometry: Geometry, time: float) -> Geometry:
        way = centre(shortest(clean.coords - geometry.coords), mask)
        return Geometry(Flow.SCALE * way / max(1 - time, 1 / 50), clean.code)

    found = integrate_flow(oracle, start, SamplerSettings(steps=50, anti_annealing=anti_annealing))
    assert distance(found, clean, mask) < 0.02
    torch.testing.assert_close(found.code, clean.code)


def diffusion_oracle(process: Diffusion, clean: Geometry):
    """The exact score of one crystal under the process."""

    def predict(geometry: Geometry, time: float) -> Geometry:
        now = torch.tensor(time, dtype=torch.float64)
        sigma = torch.full((1, 1, 1), float(process.sigma(now)), dtype=torch.float64)
        score = wrapped_normal_score(geometry.coords - clean.coords, sigma) / process.score_norm(now)
        signal = process.signal(now)
        return Geometry(score, (geometry.code - signal * clean.code) / (1 - signal**2).clamp_min(1e-9).sqrt())

    return predict


def test_oracle_probability_flow_recovers_the_crystal():
    clean, _ = clean_geometry()
    process, rng = Diffusion(), torch.Generator().manual_seed(0)
    start = Geometry(
        torch.rand(clean.coords.shape, generator=rng, dtype=torch.float64),
        torch.randn(clean.code.shape, generator=rng, dtype=torch.float64),
    )
    found = integrate_diffusion(diffusion_oracle(process, clean), process, start, SamplerSettings(steps=30))
    # on the whole torus a few coordinates may start at the far side, where the score is zero by symmetry
    error = shortest(found.coords - clean.coords).abs()
    assert float((error > 0.05).double().mean()) < 0.02
    assert (found.code - clean.code).abs().max() < 0.05


def test_oracle_predictor_corrector_recovers_the_crystal():
    clean, mask = clean_geometry()
    process, rng = Diffusion(), torch.Generator().manual_seed(0)
    start = Geometry(
        torch.rand(clean.coords.shape, generator=rng, dtype=torch.float64),
        torch.randn(clean.code.shape, generator=rng, dtype=torch.float64),
    )
    settings = SamplerSettings(steps=200, solver="predictor-corrector")
    found = predict_and_correct(diffusion_oracle(process, clean), process, start, settings, mask, rng)
    assert float((shortest(found.coords - clean.coords).abs() > 0.05).double().mean()) < 0.01
    assert (found.code - clean.code).abs().max() < 0.1


def test_score_norm_is_the_root_mean_square_score():
    process, rng = Diffusion(), torch.Generator().manual_seed(0)
    for time in (0.1, 0.5, 0.9, 1.0):
        sigma = process.sigma(torch.tensor([time], dtype=torch.float64))
        drawn = sigma * torch.randn(20_000, generator=rng, dtype=torch.float64)
        expected = wrapped_normal_score(drawn, sigma.expand(20_000)).square().mean().sqrt()
        assert float(process.score_norm(torch.tensor(time, dtype=torch.float64)) / expected) == pytest.approx(
            1, abs=0.05
        )
