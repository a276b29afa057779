"""Guidance: DAO-P steers DAO-G towards what is stable.

To draw from p(M) ∝ q(M) e^{−sE_0(M)} in place of q, the score gains −s ∇E_t at every noise level (Proposition 1). What the
network predicts changes accordingly. With x_t = a x_1 + b ε and noise of variance ω²,

    flow, a = t, b = 1 − t        v −= ω² (1 − t)/t · s ∇E_t,  and for the clean lattice  k̂_1 −= (1 − t)²/t · s ∇E_t
    diffusion, variance σ², b²    score −= s ∇E_t,             and for the lattice's noise  ε += b · s ∇E_t

This is exact for the lattice code, whose noise is normal, and for the scores of the diffusion. On the torus the flow's
noise is uniform, no such formula exists, and that of a normal distribution with the same variance, ω² = 1/12, is used: a
heuristic. (1 − t)/t has no bound at t = 0 and is capped.

What E_t is depends on the time. At first the stability model says it, in a window of time. Later it is all but decided what
will become of the crystal, and DAO-P's potential says it better, as the energy of the crystal that is predicted; its forces
can be large, so that no prediction is moved by more than a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from dao_ase.clean_energy import CleanEnergy
from dao_ase.processes import Diffusion, Flow, Geometry, Predict

STRONGEST = 1e6
"""The largest scale s: beyond it nothing decides but the bounds on what one step may move."""


@runtime_checkable
class IntermediateEnergy(Protocol):
    """What can guide; `dao_ase.stability.StabilityModel` is one."""

    def gradient(
        self,
        geometry: Geometry,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        num_atoms: Int[Tensor, "crystals"],
        time: float,
        mask: Bool[Tensor, "crystals atoms"] | None = None,
    ) -> Geometry:
        """∂E_t/∂F and ∂E_t/∂k of each crystal."""


@dataclass(frozen=True)
class GuidanceSettings:
    """How strongly (``scale`` is s), and how far from the clean end, as a share of the way, guidance acts.

    ``start``, ``stop`` and ``late`` are shares of the way from noise (0) to the crystal (1): the stability model guides from
    ``start`` to ``stop``, the potential from ``late`` on. ``every`` says how many predictions share one gradient of
    the stability model, which costs about two of them; ``cap`` bounds (1 − t)/t. The potential moves an atom of the
    predicted crystal by at most ``furthest`` Å, and its lattice code by at most ``furthest_code``.
    """

    scale: float = 1.0
    start: float = 0.3
    stop: float = 0.7
    every: int = 3
    cap: float = 2.0
    late: float = 0.7
    furthest: float = 0.1
    furthest_code: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= STRONGEST:
            raise ValueError(f"guidance is {self.scale}; it must be a number from 0 to {STRONGEST:g}")
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(f"the window of guidance is {self.start} to {self.stop}; it must lie within 0 to 1")
        if self.every < 1 or min(self.cap, self.furthest, self.furthest_code) <= 0:
            raise ValueError(
                f"every is {self.every}, cap {self.cap}, furthest {self.furthest} and furthest_code {self.furthest_code}; "
                "all must be positive"
            )


@dataclass(frozen=True)
class Guidance:
    """A stability model, a potential where there is one, and how they are used."""

    model: IntermediateEnergy
    settings: GuidanceSettings
    potential: CleanEnergy | None = None

    def steer(
        self,
        predict: Predict,
        process: Flow | Diffusion,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        num_atoms: Int[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"],
    ) -> Predict:
        """The predictions of the denoiser, steered; for one run of a sampler over these crystals."""
        slopes: Geometry | None = None
        calls = 0
        padded = None if bool(mask.all()) else mask

        def steered(geometry: Geometry, time: float) -> Geometry:
            nonlocal slopes, calls
            prediction = predict(geometry, time)
            progress = time if process.CLEAN == 1 else 1 - time
            if self.potential is not None and progress >= self.settings.late:
                clean = process.clean(geometry, prediction, time)
                late = self.potential.gradient(clean, atomic_numbers, num_atoms, mask)
                moved = self._moved(prediction, late, process, time, mask)
                reached = process.clean(geometry, moved, time)
                lattice = self.potential.lattice(clean.code, num_atoms)
                return self._bounded(prediction, moved, clean, reached, lattice)
            if not self.settings.start <= progress <= self.settings.stop:
                return prediction
            if slopes is None or calls % self.settings.every == 0:
                slopes = self.model.gradient(geometry, atomic_numbers, num_atoms, time, padded)
            calls += 1
            return self._moved(prediction, slopes, process, time, mask)

        return steered

    def _moved(
        self, prediction: Geometry, slopes: Geometry, process: Flow | Diffusion, time: float, mask: Tensor
    ) -> Geometry:
        """A prediction, changed by the gradient as the theory has it."""
        coords, code = self._strengths(process, time)
        return Geometry(
            prediction.coords + coords * slopes.coords * mask.unsqueeze(-1), prediction.code + code * slopes.code
        )

    def _bounded(
        self, prediction: Geometry, moved: Geometry, clean: Geometry, reached: Geometry, lattice: Tensor
    ) -> Geometry:
        """A moved prediction, drawn back where the crystal that it points at is further than allowed from that before."""
        by_atom = ((reached.coords - clean.coords) @ lattice).norm(dim=-1, keepdim=True)
        by_cell = (reached.code - clean.code).norm(dim=-1, keepdim=True)
        coords, code = (
            (bound / distance.clamp_min(1e-12)).clamp_max(1.0)
            for bound, distance in ((self.settings.furthest, by_atom), (self.settings.furthest_code, by_cell))
        )
        return Geometry(
            prediction.coords + coords * (moved.coords - prediction.coords),
            prediction.code + code * (moved.code - prediction.code),
        )

    def _strengths(self, process: Flow | Diffusion, time: float) -> tuple[float, float]:
        """What the gradients by coordinates and by lattice code are multiplied with, in the units of the predictions."""
        scale = self.settings.scale
        if isinstance(process, Flow):
            ratio = min((1 - time) / max(time, 1e-9), self.settings.cap)
            # √12 v is predicted, and ω² is 1/12
            return -scale * ratio / Flow.SCALE, -scale * ratio * (1 - time)
        return -scale / process.score_norm_at(time), scale * (1 - process.signal_at(time) ** 2) ** 0.5
