"""The two noise processes of DAO-G: how a crystal is turned into noise, and what the network learns from it.

Both act on a `Geometry`, fractional coordinates on the torus and six standardised lattice numbers, and share one interface:
``corrupt`` draws a noisy geometry and the target that the network must predict there. How the noise is undone step by
step is the matter of `dao_ase.sampler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dao_ase.torus import shortest, wrap, wrapped_normal_score


@dataclass(frozen=True)
class Geometry:
    """Where the atoms are and what the cell is, padded to the largest crystal; also a pair of predictions for them."""

    coords: Float[Tensor, "crystals atoms 3"]
    code: Float[Tensor, "crystals 6"]


Predict = Callable[[Geometry, float], Geometry]
"""The network at one time: what it predicts for a noisy geometry."""


@runtime_checkable
class Process(Protocol):
    """What training and sampling need to know of a process."""

    name: str
    CLEAN: float
    """The time of the crystal itself."""

    def corrupt(
        self,
        clean: Geometry,
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"],
        rng: torch.Generator,
    ) -> tuple[Geometry, Geometry]:
        """A noisy geometry at ``time`` and the target of the network there."""

    def clean(self, geometry: Geometry, prediction: Geometry, time: float) -> Geometry:
        """The crystal without noise that a prediction at ``time`` points at; coordinates may lie outside the cell."""


def centre(vectors: Float[Tensor, "crystals atoms 3"], mask: Bool[Tensor, "crystals atoms"]) -> Tensor:
    """Vectors with zero mean over the real atoms of each crystal, and zero on the padding."""
    real = mask.unsqueeze(-1).to(vectors.dtype)
    mean = (vectors * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
    return (vectors - mean) * real


def noise_like(geometry: Geometry, rng: torch.Generator) -> Geometry:
    """Uniform coordinates and a normal lattice code: where every reverse process starts."""
    like: dict[str, Any] = {"generator": rng, "device": geometry.code.device, "dtype": geometry.code.dtype}
    return Geometry(torch.rand(geometry.coords.shape, **like), torch.randn(geometry.code.shape, **like))


class Flow:
    """Straight paths from noise (t = 0) to the crystal (t = 1): conditional flow matching.

    Coordinates go along the shortest way on the torus, u = log_{F₀}(F₁) without its mean over the atoms (a shift of the
    origin is no motion), F_t = F₁ − (1 − t) u; the network predicts √12 u, of unit variance. The lattice code goes along
    k_t = t k₁ + (1 − t) ε, and the network predicts the clean k₁.
    """

    name = "flow"
    CLEAN = 1.0
    SCALE = math.sqrt(12.0)
    """Inverse standard deviation of a uniform displacement in [−½, ½]."""

    def corrupt(
        self,
        clean: Geometry,
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"],
        rng: torch.Generator,
    ) -> tuple[Geometry, Geometry]:
        """The point at ``time`` on a path from fresh noise to ``clean``, and the target there."""
        return self.path(clean, noise_like(clean, rng), time, mask)

    def path(
        self,
        clean: Geometry,
        noise: Geometry,
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"],
    ) -> tuple[Geometry, Geometry]:
        """The point at ``time`` on the path from ``noise`` to ``clean``, and the target there."""
        velocity = centre(shortest(clean.coords - noise.coords), mask)
        left = 1 - time
        coords = wrap(clean.coords - left[:, None, None] * velocity)
        code = time[:, None] * clean.code + left[:, None] * noise.code
        return Geometry(coords, code), Geometry(self.SCALE * velocity, clean.code)

    def clean(self, geometry: Geometry, prediction: Geometry, time: float) -> Geometry:
        """F̂₁ = F_t + (1 − t) v, and the predicted code."""
        return Geometry(geometry.coords + (1 - time) / self.SCALE * prediction.coords, prediction.code)


class Diffusion:
    """The paper's process: wrapped-normal noise on coordinates, variance-preserving noise on the lattice code.

    Coordinates: F_t = F₀ + σ(t) ε with σ(t) = 0.005^(1−t) 0.5^t, t = 0 the crystal; the network predicts the score of the
    wrapped normal divided by sqrt(E‖score‖²). Lattice: k_t = √ᾱ k₀ + √(1−ᾱ) ε with the cosine schedule (s = 0.008); the
    network predicts ε.
    """

    name = "diffusion"
    CLEAN = 0.0
    SIGMA_MIN, SIGMA_MAX = 0.005, 0.5
    COSINE_OFFSET = 0.008
    _GRID = 256

    def __init__(self) -> None:
        times = torch.linspace(0, 1, self._GRID, dtype=torch.float64)
        self._score_norms = torch.stack([_mean_square_score(float(sigma)) for sigma in self.sigma(times)]).sqrt()

    def sigma(self, time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Standard deviation of the coordinates' noise (fractional units)."""
        return self.SIGMA_MIN ** (1 - time) * self.SIGMA_MAX**time

    def signal(self, time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """√ᾱ(t), the share of the clean lattice code that is left."""
        offset = self.COSINE_OFFSET
        angle = (time + offset) / (1 + offset) * math.pi / 2
        return (angle.cos() / math.cos(offset / (1 + offset) * math.pi / 2)).clamp(1e-3, 1.0)

    def score_norm(self, time: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """sqrt(E‖score‖²) of the wrapped normal at σ(t), interpolated from a table."""
        table = self._score_norms.to(time)
        place = (time * (self._GRID - 1)).clamp(0, self._GRID - 1 - 1e-4)
        index = place.long()
        return torch.lerp(table[index], table[index + 1], place - index)

    def signal_at(self, time: float) -> float:
        """`signal` at one time."""
        return float(self.signal(torch.tensor(time, dtype=torch.float64)))

    def score_norm_at(self, time: float) -> float:
        """`score_norm` at one time."""
        return float(self.score_norm(torch.tensor(time, dtype=torch.float64)))

    def corrupt(
        self,
        clean: Geometry,
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"],
        rng: torch.Generator,
    ) -> tuple[Geometry, Geometry]:
        """``clean`` with the noise of ``time``, and the target there."""
        like: dict[str, Any] = {"generator": rng, "device": clean.code.device, "dtype": clean.code.dtype}
        sigma = self.sigma(time)[:, None, None]
        displacement = sigma * torch.randn(clean.coords.shape, **like)
        score = wrapped_normal_score(displacement, sigma) / self.score_norm(time)[:, None, None]
        noise, signal = torch.randn(clean.code.shape, **like), self.signal(time)[:, None]
        code = signal * clean.code + (1 - signal**2).sqrt() * noise
        return Geometry(wrap(clean.coords + displacement), code), Geometry(centre(score, mask), noise)

    def clean(self, geometry: Geometry, prediction: Geometry, time: float) -> Geometry:
        """Tweedie's F̂₀ = F_t + σ² ∇log q_t, and k̂₀ = (k_t − √(1−ᾱ) ε)/√ᾱ."""
        sigma, signal = float(self.sigma(torch.tensor(time, dtype=torch.float64))), self.signal_at(time)
        coords = geometry.coords + sigma**2 * self.score_norm_at(time) * prediction.coords
        return Geometry(coords, (geometry.code - (1 - signal**2) ** 0.5 * prediction.code) / signal)


def _mean_square_score(sigma: float, points: int = 4001) -> Tensor:
    """E[score²] of the wrapped normal, by quadrature over one period."""
    place = torch.linspace(-0.5, 0.5, points, dtype=torch.float64)
    width = torch.full_like(place, sigma)
    images = place.unsqueeze(-1) + torch.arange(-3, 4, dtype=torch.float64)
    density = torch.exp(-(images**2) / (2 * sigma**2)).sum(-1)
    return (wrapped_normal_score(place, width) ** 2 * density).sum() / density.sum()


PROCESSES: dict[str, type[Flow] | type[Diffusion]] = {"flow": Flow, "diffusion": Diffusion}
"""Processes by the name that configurations use."""
