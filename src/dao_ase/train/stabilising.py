"""The objective of DAO-P's stability model: denoising and the intermediate energy, on one process.

    L = L_denoising + w · D( exp(−β E_0), exp(−E_θ(M_t, t)) )

over the crystals whose energy above the hull is known; the others are only denoised. D is a divergence that is least, for
given M_t, where exp(−E_θ) is the mean of exp(−β E_0): then E_θ is the intermediate energy of Proposition 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dao_ase.data.batches import LabelledBatch, LabelledBatches
from dao_ase.data.store import CrystalStore
from dao_ase.processes import PROCESSES, Geometry
from dao_ase.stability import StabilityModel
from dao_ase.train.denoising import stratified_times

LABEL = "e_above_hull"
LARGEST_EXPONENT = 8.0
"""Beyond it the exponential goes on as its tangent: a wild prediction costs much, but nothing overflows."""


class HullBatches(LabelledBatches):
    """Batches with energies above the hull (eV/atom), NaN where not known.

    Of the crystals without one a share is kept, the same ones in every pass.
    """

    def __init__(
        self, store: CrystalStore, *, unlabelled: float = 1.0, max_e_hull: float = 1.0, seed: int = 0, **settings: Any
    ) -> None:
        if LABEL not in store.labels:
            raise ValueError(f"{str(store.path)!r} has no label {LABEL}, which the stability model learns")
        energies = store.labels[LABEL].astype(np.float32)
        energies[energies > max_e_hull] = np.nan
        lucky = np.random.Generator(np.random.PCG64(seed)).random(len(store)) < unlabelled
        super().__init__(store, energies, np.flatnonzero(np.isfinite(energies) | lucky), seed=seed, **settings)

    @property
    def known(self) -> Float[Tensor, "crystals"]:
        """All energies above the hull that are known (eV/atom)."""
        return self._labels[self._labels.isfinite()]


class StabilityObjective:
    """The loss above.

    ``clean_share`` of the labelled crystals is shown without noise, where E_θ is βE_0; these are not denoised.
    ``divergence`` is "square", the paper's (exp(−βE_0) − exp(−E_θ))², or "relative", e^d − d − 1 with d = E_θ − βE_0
    (Itakura and Saito's). Both have the same minimiser; "square" weighs a crystal by exp(−2βE_0) and therefore hardly sees
    unstable ones, "relative" asks for the same accuracy of E_θ everywhere.
    """

    def __init__(
        self,
        model: StabilityModel,
        process: str = "flow",
        *,
        lattice_weight: float = 0.5,
        energy_weight: float = 1.0,
        beta: float = 1.0,
        clean_share: float = 0.25,
        divergence: str = "square",
    ) -> None:
        if process not in PROCESSES:
            raise ValueError(f"process {process!r} is none of {sorted(PROCESSES)}")
        if divergence not in DIVERGENCES:
            raise ValueError(f"divergence {divergence!r} is none of {sorted(DIVERGENCES)}")
        self.model, self.process, self.divergence = model, PROCESSES[process](), DIVERGENCES[divergence]
        self.lattice_weight, self.energy_weight = lattice_weight, energy_weight
        self.beta, self.clean_share = beta, clean_share

    def loss(self, model: nn.Module, batch: LabelledBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch of `HullBatches`; ``e_hull_mae`` (eV/atom) is that of labelled crystals without noise."""
        crystals, device = batch.crystals, batch.crystals.device
        denoiser, count = self.model.denoiser, len(batch)
        atomic_numbers = crystals.atomic_numbers.view(count, -1)
        labelled = batch.label.isfinite()
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            code = denoiser.encode_lattice(crystals.lattice, crystals.num_atoms)
            shown = labelled & (torch.rand(count, generator=rng, device=device) < self.clean_share)
            time = torch.where(shown, self.process.CLEAN, stratified_times(count, rng, device))
            clean = Geometry(crystals.frac_coords.view(count, -1, 3), code)
            noisy, target = self.process.corrupt(clean, time, torch.ones_like(atomic_numbers, dtype=torch.bool), rng)
            lattice = denoiser.decode_lattice(noisy.code, crystals.num_atoms)
            energy = self.model.standardise(torch.where(labelled, batch.label, self.model.energy_mean))
        vectors, cell, predicted = model(atomic_numbers, noisy.coords, noisy.code, lattice, time)
        coordinates = _mean((vectors - target.coords).square().mean((1, 2)), ~shown)
        lattices = _mean((cell - target.code).square().mean(1), ~shown)
        divergence = _mean(self.divergence(predicted, self.beta * energy), labelled)
        mae = _mean((predicted / self.beta - energy).abs() * self.model.energy_std, shown)
        loss = coordinates + self.lattice_weight * lattices + self.energy_weight * divergence
        return {
            "loss": loss, "coordinates": coordinates, "lattice": lattices, "energy": divergence, "e_hull_mae": mae,
        }  # fmt: skip


def square_divergence(predicted: Float[Tensor, "crystals"], energy: Float[Tensor, "crystals"]) -> Tensor:
    """The paper's (exp(−energy) − exp(−predicted))²."""
    return ((-energy).exp() - _exp(-predicted)).square()


def relative_divergence(predicted: Float[Tensor, "crystals"], energy: Float[Tensor, "crystals"]) -> Tensor:
    """e^d − d − 1 with d = predicted − energy: y/ŷ − log(y/ŷ) − 1 of the two exponentials."""
    excess = predicted - energy
    return _exp(excess) - excess - 1


def _exp(values: Tensor) -> Tensor:
    """The exponential, as its tangent beyond `LARGEST_EXPONENT`; float32 throughout."""
    values = values.float()
    return values.clamp(max=LARGEST_EXPONENT).exp() + math.exp(LARGEST_EXPONENT) * (values - LARGEST_EXPONENT).relu()


def _mean(values: Float[Tensor, "crystals"], chosen: Tensor) -> Tensor:
    """The mean over the chosen crystals, zero where there is none."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp_min(1)


DIVERGENCES = {"square": square_divergence, "relative": relative_divergence}
"""Divergences by the name that configurations use; both are least at the mean."""
