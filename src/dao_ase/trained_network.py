"""A weight file of DAO-G at work: from the content of cells and seeds to structures, with or without guidance."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dao_ase import checkpoint
from dao_ase.calculator import load_potential
from dao_ase.clean_energy import CleanEnergy
from dao_ase.composition import Composition
from dao_ase.convert import to_structures
from dao_ase.crystals import Crystals
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.guidance import Guidance, GuidanceSettings
from dao_ase.memory import bound_compiled_operations
from dao_ase.processes import PROCESSES, Flow
from dao_ase.sampler import Known, SamplerSettings, batches_by_size, sample
from dao_ase.stability import load_stability, refuse_other_model

if TYPE_CHECKING:
    from pymatgen.core import Structure

ADAPTED_FROM = 0.9
"""The time of the flow at which known crystals enter: a tenth of the noise, a tenth of the steps."""


class TrainedNetwork:
    """A network, its process and the settings of its sampler.

    ``changes`` are fields of `dao_ase.sampler.SamplerSettings` that replace what the weight file says; None changes nothing.
    ``stability`` is the weight file of the model that guides, by default the installed one.
    """

    @torch.inference_mode(False)
    def __init__(
        self, weights: str | Path, *, device: str = "cpu", stability: str | None = None, **changes: float | None
    ) -> None:
        bound_compiled_operations()
        self._device, self._stability = device, stability
        if stability is not None:
            refuse_other_model(stability)
        tensors, self.header = checkpoint.load(weights, device)
        if self.header.get("model") != "denoiser":
            raise checkpoint.CheckpointError(f"{str(weights)!r} holds no denoiser; DAO-G needs one")
        with checkpoint.described_by(weights):
            self._denoiser = Denoiser(DenoiserConfig(**self.header["config"]))
            self._process = PROCESSES[self.header["process"]]()
            advised = SamplerSettings(**self.header.get("sampler", {}))
            list(map(self.header.__getitem__, ("elements", "max_atoms", "formula_units")))  # all that will be asked for
        checkpoint.fill(self._denoiser, {name: tensor.float() for name, tensor in tensors.items()}, weights)
        self._denoiser.to(device, torch.float32).eval()
        known: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        self.settings = replace(advised, **known)
        self._guide: Guidance | None = None

    @property
    def adapts(self) -> bool:
        """Whether it can begin from known crystals; a diffusion begins from noise alone."""
        return isinstance(self._process, Flow)

    @property
    def steps_to_adapt(self) -> int:
        """Evaluations that a known crystal takes."""
        return self.settings.steps_from(ADAPTED_FROM)

    def tries(self, count: int, most: int) -> int:
        """Tries at each of ``count`` structures that the weight file advises, so that ``most`` are made in all."""
        return max(1, min(int(self.header.get("tries", 1)), most // max(count, 1)))

    def digest(self) -> bytes:
        """What tells these weights from others."""
        digest = hashlib.sha256()
        for tensor in self._denoiser.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.digest()

    def guide(self, scale: float | Real) -> Guidance | None:
        """Guidance of this strength, with the window that validation found best; None where the strength is 0."""
        if not isinstance(scale, Real) or not math.isfinite(scale):
            raise ValueError(f"guidance is {scale!r}; it must be a finite number")
        if scale == 0:
            return None
        if self._guide is None:
            model, header = load_stability(self._stability, self._device)
            if header["process"] != self._process.name:
                raise checkpoint.CheckpointError(
                    f"the stability model was trained on the process {header['process']!r}, DAO-G on "
                    f"{self._process.name!r}; one cannot guide the other"
                )
            if not model.denoiser.same_code(self._denoiser):
                raise checkpoint.CheckpointError(
                    "the stability model standardises lattices otherwise than DAO-G; train it from these weights of DAO-G"
                )
            potential = CleanEnergy(load_potential(), self._denoiser, float(model.energy_std))
            self._guide = Guidance(model, GuidanceSettings(**header.get("guidance", {})), potential)
        return replace(self._guide, settings=replace(self._guide.settings, scale=float(scale)))

    @torch.inference_mode(False)
    def draw(
        self, cells: Sequence[Composition], seeds: Sequence[int], guidance: float, known: Sequence[Crystals] = ()
    ) -> list[Structure]:
        """One structure for each cell and seed, from noise or from a known crystal with its atoms; nothing is refused."""
        guide = self.guide(guidance)
        made: dict[int, Structure] = {}
        for indices in batches_by_size([cell.num_atoms for cell in cells]):
            numbers = [cells[index].atomic_numbers for index in indices]
            begin = Known(Crystals.concatenate([known[index] for index in indices]), ADAPTED_FROM) if known else None
            crystals = sample(
                self._denoiser, self._process, numbers, [seeds[index] for index in indices], self.settings,
                guidance=guide, known=begin,
            )  # fmt: skip
            made.update(zip(indices, to_structures(crystals), strict=True))
        return [made[index] for index in range(len(cells))]
