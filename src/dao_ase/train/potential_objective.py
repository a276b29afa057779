"""The objective of DAO-P: energy, forces and stress at once, as absolute errors, which outliers cannot bend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dao_ase.derivatives import predict
from dao_ase.train.labelled import LabelledBatch


class PotentialObjective:
    """Weighted sum of mean absolute errors of the energy per atom, the force vectors and the stress.

        L = w_E ⟨|ΔE|/N⟩ + w_F ⟨‖ΔF‖ / (1 + F̄/f)⟩ + w_σ ⟨‖Δσ‖ / (1 + ‖σ‖/s)⟩

    The weights are 1/eV, Å/eV and Å³/eV. Means over crystals with a known energy, over atoms, and over crystals with a known
    stress. F̄ is the mean force of the crystal: an error of 0.1 eV/Å matters in a crystal at rest, where relaxations end,
    more than in one that is torn apart; ``force_scale`` f (eV/Å) says from where on, ``stress_scale`` s (eV/Å³) the same of
    the stress. ``per_crystal`` is the share of a mean over crystals in that of the forces, where two atoms of a small cell
    count as much as a hundred of a large one.
    """

    def __init__(
        self,
        energy_weight: float = 4.0,
        force_weight: float = 1.0,
        stress_weight: float = 10.0,
        force_scale: float = float("inf"),
        stress_scale: float = float("inf"),
        per_crystal: float = 0.0,
    ) -> None:
        self.energy_weight, self.force_weight, self.stress_weight = energy_weight, force_weight, stress_weight
        self.force_scale, self.stress_scale, self.per_crystal = force_scale, stress_scale, per_crystal

    def loss(self, model: nn.Module, batch: LabelledBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch, and the mean absolute errors (eV/atom, eV/Å, eV/Å³) by their names."""
        predicted = predict(
            model,  # type: ignore[arg-type]
            batch.atomic_numbers,
            batch.vectors,
            batch.neighbors,
            batch.crystal_index,
            batch.volume,
            differentiable=True,
        )
        known = torch.isfinite(batch.energy)
        energy = _mean(((predicted.energy - batch.energy) / batch.num_atoms)[known].abs()).float()
        difference = predicted.forces - batch.forces
        stress = batch.stress.flatten(1)
        strained = torch.isfinite(stress).all(1)
        stress, strain = stress[strained], predicted.stress.flatten(1)[strained] - stress[strained]
        strength = _mean_over_crystals(_length(batch.forces), batch.crystal_index, len(batch))
        importance = 1 / (1 + strength / self.force_scale)
        evened = len(batch.forces) / (len(batch) * batch.num_atoms)  # makes the mean over atoms one over crystals
        importance = importance * (1 + self.per_crystal * (evened - 1))
        total = self.energy_weight * energy
        total = total + self.force_weight * (_length(difference) * importance[batch.crystal_index]).mean()
        total = total + self.stress_weight * _mean(_length(strain) / (1 + _length(stress) / self.stress_scale))
        errors = {"energy": energy, "forces": difference.abs().mean(), "stress": _mean(strain.abs())}
        return {"loss": total} | {name: value.detach() for name, value in errors.items()}


def _mean(values: Tensor) -> Tensor:
    """The mean, and zero of no values."""
    return values.sum() / max(values.numel(), 1)


def _mean_over_crystals(values: Tensor, crystal_index: Tensor, crystals: int) -> Tensor:
    """The mean of the atoms' values for each crystal."""
    sums = values.new_zeros(crystals).index_add(0, crystal_index, values)
    return sums / torch.bincount(crystal_index, minlength=crystals)


def _length(vectors: Tensor) -> Tensor:
    """The length of each row, with a gradient also at zero."""
    return (vectors.square().sum(-1) + 1e-12).sqrt()
