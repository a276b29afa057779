"""Guidance: exact where the theory is, off when it is off, and within its window."""

import math

import pytest
import torch
from torch import nn

from dao_ase.denoiser import Denoiser
from dao_ase.guidance import Guidance, GuidanceSettings
from dao_ase.processes import Diffusion, Flow, Geometry
from dao_ase.sampler import SamplerSettings, integrate_diffusion, integrate_flow, sample
from dao_ase.stability import StabilityModel
from generation import TINY

STABLE, UNSTABLE = 1.0, -1.0
"""The lattice codes (all six numbers) of two equally likely crystals, of which the second is higher by `GAP`."""
GAP = 1.5


class KnownEnergies(nn.Module):
    """The exact intermediate energy of the two crystals above, in place of a trained model."""

    def __init__(self, process: Flow | Diffusion) -> None:
        super().__init__()
        self.process = process

    def weights(self, code, time):
        """Posterior shares of the two crystals at a noisy code."""
        signal, spread = amplitudes(self.process, time)
        return torch.stack(
            [-((code - signal * clean) ** 2).sum(-1) / (2 * spread**2) for clean in (STABLE, UNSTABLE)], -1
        ).softmax(-1)

    def gradient(self, geometry, atomic_numbers, num_atoms, time, mask=None):
        """The gradient of −log Σ w_c exp(−E_c)."""
        with torch.enable_grad():
            code = geometry.code.detach().requires_grad_()
            weights = self.weights(code, time)
            energy = -torch.log(weights[:, 0] + weights[:, 1] * math.exp(-GAP))
            (slope,) = torch.autograd.grad(energy.sum(), code)
        return Geometry(torch.zeros_like(geometry.coords), slope)


def amplitudes(process, time):
    if isinstance(process, Flow):
        return time, max(1 - time, 1e-6)
    signal = process.signal_at(time)
    return signal, max((1 - signal**2) ** 0.5, 1e-6)


@pytest.mark.parametrize("process", [Flow(), Diffusion()])
def test_guided_samples_have_boltzmann_shares(process):
    """An exact denoiser of two crystals, guided, ends at them in the ratio 1 : exp(−GAP)."""
    known = KnownEnergies(process)

    def predict(geometry, time):
        weights = known.weights(geometry.code, time)
        clean = (weights[:, :1] * STABLE + weights[:, 1:] * UNSTABLE).expand(-1, 6)
        signal, spread = amplitudes(process, time)
        noise = (geometry.code - signal * clean) / spread
        return Geometry(torch.zeros_like(geometry.coords), clean if isinstance(process, Flow) else noise)

    count = 2500
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 6, generator=rng, dtype=torch.float64)
    start = Geometry(torch.zeros(count, 1, 3, dtype=torch.float64), noise)
    everything = GuidanceSettings(scale=1.0, start=0.0, stop=1.0, every=1, cap=1e3)
    arguments = (torch.ones(count, 1, dtype=torch.long), torch.ones(count, dtype=torch.long))
    guided = Guidance(known, everything).steer(predict, process, *arguments, torch.ones(count, 1, dtype=torch.bool))
    for how, share in ((predict, 0.5), (guided, 1 / (1 + math.exp(-GAP)))):
        if isinstance(process, Flow):
            found = integrate_flow(how, start, SamplerSettings(steps=150, anti_annealing=0.0))
        else:
            found = integrate_diffusion(how, process, start, SamplerSettings(steps=100))
        assert float((found.code.mean(1) > 0).double().mean()) == pytest.approx(share, abs=0.04)


@pytest.fixture(scope="module")
def models() -> tuple[Denoiser, StabilityModel]:
    torch.manual_seed(0)
    stability = StabilityModel(TINY)
    for parameter in stability.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return stability.denoiser.eval(), stability.eval().requires_grad_(False)


CELLS = [[11, 17], [26, 8, 8, 8], [14] * 7]
PROCESSES = [
    (Flow(), SamplerSettings(steps=6)),
    (Diffusion(), SamplerSettings(steps=6)),
    (Diffusion(), SamplerSettings(steps=6, solver="predictor-corrector")),
]


@pytest.mark.parametrize(("process", "settings"), PROCESSES)
def test_scale_zero_is_off_to_the_last_bit(models, process, settings):
    denoiser, stability = models
    plain = sample(denoiser, process, CELLS, [0, 1, 2], settings)
    off = sample(
        denoiser, process, CELLS, [0, 1, 2], settings, guidance=Guidance(stability, GuidanceSettings(scale=0.0))
    )
    assert off.lattice.equal(plain.lattice) and off.frac_coords.equal(plain.frac_coords)
    on = sample(denoiser, process, CELLS, [0, 1, 2], settings, guidance=Guidance(stability, GuidanceSettings(5.0)))
    assert not on.lattice.equal(plain.lattice) and not on.frac_coords.equal(plain.frac_coords)


def test_guidance_acts_in_its_window_and_shares_gradients(models):
    times = []

    class Counting(KnownEnergies):
        def gradient(self, geometry, atomic_numbers, num_atoms, time, mask=None):
            times.append(time)
            return super().gradient(geometry, atomic_numbers, num_atoms, time, mask)

    settings = GuidanceSettings(scale=1.0, start=0.25, stop=0.75, every=2)
    sample(
        models[0], Flow(), CELLS, [0, 1, 2], SamplerSettings(steps=20), guidance=Guidance(Counting(Flow()), settings)
    )
    assert times == pytest.approx([0.25, 0.35, 0.45, 0.55, 0.65, 0.75])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scale": -1.0}, "from 0 to 1e\\+06"),
        ({"scale": 1e30}, "from 0 to 1e\\+06"),
        ({"scale": float("inf")}, "must be a number"),
        ({"start": 0.8, "stop": 0.2}, "window"),
        ({"every": 0}, "every"),
    ],
)
def test_settings_are_checked(settings, reason):
    with pytest.raises(ValueError, match=reason):
        GuidanceSettings(**settings)
