"""The objective of DAO-G: predict what the process asks for, at a random time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dao_ase.crystals import Crystals
from dao_ase.data.batches import LabelledBatch
from dao_ase.denoiser import Denoiser
from dao_ase.processes import PROCESSES, Geometry


class DenoisingObjective:
    """Mean squared error of the coordinates' and the lattice's target.

        L = E_t [ ‖v_θ − v‖²/3N + w ‖k_θ − k‖²/6 ],   t uniform, stratified over the batch

    All crystals of a batch have the same number of atoms (`dao_ase.data.batches.BucketedBatches`); they may come with their
    kinds (`dao_ase.train.kinds.kind_batches`).
    """

    def __init__(self, denoiser: Denoiser, process: str = "flow", lattice_weight: float = 0.5) -> None:
        if process not in PROCESSES:
            raise ValueError(f"process {process!r} is none of {sorted(PROCESSES)}")
        self.denoiser, self.process, self.lattice_weight = denoiser, PROCESSES[process](), lattice_weight

    def loss(self, model: nn.Module, batch: Crystals | LabelledBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch; ``model`` is the (compiled) denoiser."""
        batch, kind = (batch.crystals, batch.label) if isinstance(batch, LabelledBatch) else (batch, None)
        crystals = len(batch)
        atomic_numbers = batch.atomic_numbers.view(crystals, -1)
        mask = torch.ones_like(atomic_numbers, dtype=torch.bool)
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            clean = Geometry(
                batch.frac_coords.view(crystals, -1, 3), self.denoiser.encode_lattice(batch.lattice, batch.num_atoms)
            )
            time = stratified_times(crystals, rng, batch.device)
            noisy, target = self.process.corrupt(clean, time, mask, rng)
            lattice = self.denoiser.decode_lattice(noisy.code, batch.num_atoms)
        vectors, code = model(atomic_numbers, noisy.coords, noisy.code, lattice, time, kind=kind)
        coordinates = (vectors - target.coords).square().mean()
        cell = (code - target.code).square().mean()
        return {"loss": coordinates + self.lattice_weight * cell, "coordinates": coordinates, "lattice": cell}


def stratified_times(count: int, rng: torch.Generator, device: torch.device | str = "cpu") -> Float[Tensor, "crystals"]:
    """Times uniform in [0, 1), one in each of ``count`` equal intervals, in random order: less noise in the loss."""
    offsets = torch.rand(count, generator=rng, device=device)
    order = torch.randperm(count, generator=rng, device=device)
    return (order + offsets) / count
