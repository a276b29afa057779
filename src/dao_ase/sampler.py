"""The reverse processes: from noise to a crystal, for a batch of compositions at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dao_ase.crystals import Crystals
from dao_ase.denoiser import Denoiser
from dao_ase.guidance import Guidance
from dao_ase.processes import Diffusion, Flow, Geometry, Predict, centre
from dao_ase.torus import wrap


@dataclass(frozen=True)
class SamplerSettings:
    """How the reverse process is integrated."""

    steps: int = 20
    anti_annealing: float = 5.0  # flow: velocities of coordinates are multiplied by 1 + anti_annealing · t
    lattice_noise: float = 1.0  # flow: spread of the lattice code at the start; below 1, typical cells come more often
    solver: str = "heun"  # diffusion: "heun" (probability flow) or "predictor-corrector" (the paper's)
    corrector_step: float = 1e-5  # of the predictor–corrector, in units of (σ_t/σ_1)²

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; the reverse process needs at least 1")
        for name in ("anti_annealing", "lattice_noise"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) < math.inf):
                raise ValueError(f"{name} is {value!r}; it must be a finite number, zero or more")
        if self.solver not in ("heun", "predictor-corrector"):
            raise ValueError(f"solver {self.solver!r} is none of 'heun', 'predictor-corrector'")

    def steps_from(self, begin: float) -> int:
        """Steps of a flow from the time ``begin`` to 1, about as long as ``steps`` from 0 to 1; at least one."""
        return max(1, round(self.steps * (1 - begin)))


@dataclass(frozen=True)
class Known:
    """Crystals that the reverse process of a flow begins from, at a time between 0 (all noise) and 1 (as they are)."""

    crystals: Crystals
    time: float


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    process: Flow | Diffusion,
    atomic_numbers: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplerSettings | None = None,
    on_step: Callable[[], None] | None = None,
    guidance: Guidance | None = None,
    known: Known | None = None,
) -> Crystals:
    """One crystal for each list of atomic numbers, from noise that is drawn from its own seed alone.

    The noise that the predictor–corrector adds on the way is drawn for the whole batch, from the first seed. The number of
    atoms may differ from crystal to crystal (the batch is padded). ``on_step`` is called before each evaluation of the
    network. ``guidance`` steers the predictions. ``known`` are crystals to begin from instead of noise, with their atoms in
    the order of ``atomic_numbers``; only a flow can do so.
    """
    settings = settings or SamplerSettings()
    batch = _Batch.of(denoiser, atomic_numbers)
    start = batch.noise(seeds)
    start = Geometry(start.coords, settings.lattice_noise * start.code) if isinstance(process, Flow) else start

    def unguided(geometry: Geometry, time: float) -> Geometry:
        if on_step is not None:
            on_step()
        return batch.predict(geometry, time)

    predict: Predict = unguided
    if guidance is not None and guidance.settings.scale > 0:
        predict = guidance.steer(unguided, process, batch.numbers, batch.num_atoms, batch.mask)
    if isinstance(process, Flow):
        begin = 0.0
        if known is not None:
            begin = known.time
            clean = batch.geometry(known.crystals)
            start, _ = process.path(clean, start, torch.full_like(start.code[:, 0], begin), batch.mask)
        final = integrate_flow(predict, start, settings, begin)
    elif known is not None:
        raise ValueError(
            f"the process {process.name!r} begins from noise alone; only a flow begins from known crystals"
        )
    elif settings.solver == "heun":
        final = integrate_diffusion(predict, process, start, settings)
    else:
        rng = torch.Generator(device=start.code.device).manual_seed(int(seeds[0]))
        final = predict_and_correct(predict, process, start, settings, batch.mask, rng)
    return batch.crystals(final)


def integrate_flow(predict: Predict, start: Geometry, settings: SamplerSettings, begin: float = 0.0) -> Geometry:
    """Euler steps from t = ``begin`` to 1, as long as those of ``settings.steps`` from 0 to 1.

    Coordinates follow the predicted velocity, sped up towards the end ("velocity anti-annealing", 1 + s′t) but never
    beyond the crystal that it points at, F̂₁ = F_t + (1 − t) v: without this bound the last of few steps overshoot.
    The lattice moves towards the predicted clean one, dk/dt = (k̂₁ − k)/(1 − t), and reaches it in the last step. It starts
    from noise of less spread than in training where ``lattice_noise`` is below 1, a lower temperature.
    """
    coords, code = start.coords, start.code
    steps = settings.steps_from(begin)
    step = (1 - begin) / steps
    for index in range(steps):
        time = begin + index * step
        prediction = predict(Geometry(coords, code), time)
        velocity = prediction.coords / Flow.SCALE
        left = 1 - time  # the way to the predicted crystal is left · velocity: no step may be longer
        coords = wrap(coords + min(left, step * (1 + settings.anti_annealing * time)) * velocity)
        code = code + min(1.0, step / left) * (prediction.code - code)
    return Geometry(coords, code)


def integrate_diffusion(predict: Predict, process: Diffusion, start: Geometry, settings: SamplerSettings) -> Geometry:
    """The probability-flow ODE: Heun's method for coordinates in σ, the exponential (DDIM) step for the lattice.

    dF/dσ = −σ ∇log q_σ(F). Times are spaced evenly, σ therefore geometrically. Two evaluations a step, one in the last.
    """
    times = torch.linspace(1, 0, settings.steps + 1, dtype=torch.float64).tolist()
    coords, code = start.coords, start.code
    for now, then in pairwise(times):
        prediction = predict(Geometry(coords, code), now)
        slope = _sigma_slope(process, prediction, now)
        width = _sigma(process, then) - _sigma(process, now)
        trial = Geometry(wrap(coords + width * slope), _lattice_step(process, code, prediction.code, now, then))
        if then > 0:
            corrected = predict(trial, then)
            slope = 0.5 * (slope + _sigma_slope(process, corrected, then))
            noise = 0.5 * (prediction.code + corrected.code)
            trial = Geometry(wrap(coords + width * slope), _lattice_step(process, code, noise, now, then))
        coords, code = trial.coords, trial.code
    return Geometry(coords, code)


def predict_and_correct(
    predict: Predict,
    process: Diffusion,
    start: Geometry,
    settings: SamplerSettings,
    mask: Bool[Tensor, "crystals atoms"],
    rng: torch.Generator,
) -> Geometry:
    """The paper's sampler: an ancestral step for coordinates and lattice, then a Langevin step for the coordinates."""
    times = torch.linspace(1, 0, settings.steps + 1, dtype=torch.float64).tolist()
    coords, code = start.coords, start.code
    for now, then in pairwise(times):
        prediction = predict(Geometry(coords, code), now)
        before, after = _sigma(process, now), _sigma(process, then) if then > 0 else 0.0
        score = prediction.coords * process.score_norm_at(now)
        spread = after * ((before**2 - after**2) ** 0.5) / before
        coords = wrap(coords + (before**2 - after**2) * score + spread * _normal(coords, rng))
        code = _ancestral_lattice_step(process, code, prediction.code, now, then, rng)
        if then > 0:
            score = predict(Geometry(coords, code), then).coords * process.score_norm_at(then)
            size = settings.corrector_step * (after / process.SIGMA_MIN) ** 2
            coords = wrap(coords + size * score + (2 * size) ** 0.5 * centre(_normal(coords, rng), mask))
    return Geometry(coords, code)


def _sigma(process: Diffusion, time: float) -> float:
    return process.SIGMA_MIN ** (1 - time) * process.SIGMA_MAX**time


def _sigma_slope(process: Diffusion, prediction: Geometry, time: float) -> Tensor:
    return -_sigma(process, time) * process.score_norm_at(time) * prediction.coords


def _lattice_step(process: Diffusion, code: Tensor, noise: Tensor, now: float, then: float) -> Tensor:
    """DDIM: the clean code that the noise implies, with the noise of the next time put back."""
    old, new = process.signal_at(now), process.signal_at(then)
    clean = ((code - (1 - old**2) ** 0.5 * noise) / old).clamp(-6, 6)
    return new * clean + (1 - new**2) ** 0.5 * noise


def _ancestral_lattice_step(
    process: Diffusion, code: Tensor, noise: Tensor, now: float, then: float, rng: torch.Generator
) -> Tensor:
    """The posterior q(k_then | k_now, k̂₀) of the variance-preserving process."""
    old, new = process.signal_at(now) ** 2, process.signal_at(then) ** 2
    clean = ((code - (1 - old) ** 0.5 * noise) / old**0.5).clamp(-6, 6)
    alpha = old / new
    mean = (new**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - new) * code) / (1 - old)
    variance = max((1 - alpha) * (1 - new) / (1 - old), 0.0)
    return mean + variance**0.5 * _normal(code, rng)


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class _Batch:
    """Compositions padded to one dense batch, and the network that reads it."""

    denoiser: Denoiser
    numbers: Int[Tensor, "crystals atoms"]
    num_atoms: Int[Tensor, "crystals"]
    mask: Bool[Tensor, "crystals atoms"]

    @classmethod
    def of(cls, denoiser: Denoiser, atomic_numbers: Sequence[Sequence[int]]) -> _Batch:
        device = denoiser.code_mean.device
        rows = [torch.as_tensor(numbers, dtype=torch.long, device=device) for numbers in atomic_numbers]
        num_atoms = torch.tensor([len(row) for row in rows], device=device)
        numbers = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(numbers.shape[1], device=device) < num_atoms.unsqueeze(1)
        return cls(denoiser, numbers, num_atoms, mask)

    def noise(self, seeds: Sequence[int]) -> Geometry:
        """The start of each crystal, drawn on the CPU from its own seed."""
        coords = torch.zeros(*self.numbers.shape, 3, dtype=torch.float32, device="cpu")
        code = torch.zeros(len(self.numbers), 6, dtype=torch.float32, device="cpu")
        for row, (seed, count) in enumerate(zip(seeds, self.num_atoms.tolist(), strict=True)):
            rng = torch.Generator().manual_seed(int(seed))
            coords[row, :count] = torch.rand(count, 3, generator=rng, dtype=torch.float32, device="cpu")
            code[row] = torch.randn(6, generator=rng, dtype=torch.float32, device="cpu")
        return Geometry(coords.to(self.mask.device), code.to(self.mask.device))

    def geometry(self, crystals: Crystals) -> Geometry:
        """Crystals with the atoms of this batch as the network sees them."""
        crystals = crystals.to(self.mask.device, torch.float32)
        coords = torch.zeros(*self.numbers.shape, 3, device=self.mask.device, dtype=torch.float32)
        coords[self.mask] = crystals.frac_coords
        return Geometry(coords, self.denoiser.encode_lattice(crystals.lattice, self.num_atoms))

    def predict(self, geometry: Geometry, time: float) -> Geometry:
        device = geometry.code.device
        padded = None if bool(self.mask.all()) else self.mask
        lattice = self.denoiser.decode_lattice(geometry.code, self.num_atoms)
        times = torch.full((len(geometry.code),), time, device=device, dtype=geometry.code.dtype)
        with torch.autocast(device.type, torch.bfloat16):
            vectors, code = self.denoiser(self.numbers, geometry.coords, geometry.code, lattice, times, padded)
        return Geometry(vectors * self.mask.unsqueeze(-1), code)

    def crystals(self, geometry: Geometry) -> Crystals:
        """The batch without its padding, float32 on the CPU."""
        lattice = self.denoiser.decode_lattice(geometry.code, self.num_atoms)
        crystals = Crystals(lattice, wrap(geometry.coords)[self.mask], self.numbers[self.mask], self.num_atoms)
        return crystals.to("cpu", torch.float32)


def batches_by_size(num_atoms: Sequence[int], atom_pairs: int = 40_000, crystals: int = 256) -> Iterator[list[int]]:
    """Splits crystals into batches of similar size whose padded pairs of atoms stay under a budget; gives indices."""
    order = sorted(range(len(num_atoms)), key=lambda index: num_atoms[index])
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) >= crystals or (len(batch) + 1) * num_atoms[index] ** 2 > atom_pairs):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
