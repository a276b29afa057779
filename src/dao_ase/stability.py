"""DAO-P's stability model: how far above the hull a crystal will end, seen from any noise level.

Siamese to DAO-G: the same Crysformer over all pairs of the cell, started from DAO-G's weights, with its two denoising heads
kept and a third one, an MLP on the mean state of the atoms, that gives the intermediate energy

    E_t(M_t) = −log E[ exp(−β E_0(M_0)) | M_t ],    E_0 = (energy above the hull per atom − mean) / spread.

At the clean end of the process this is E_0 itself. All pairs are seen, without a cutoff, so that the model is smooth in
coordinates and lattice from pure noise on; it is no potential (a repeated cell is another input).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dao_ase import checkpoint
from dao_ase.crystals import Crystals
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.processes import PROCESSES, Geometry
from dao_ase.torus import wrap


class StabilityModel(nn.Module):
    """A denoiser with a third head; see the module's description."""

    energy_mean: Tensor
    energy_std: Tensor

    def __init__(self, config: DenoiserConfig | None = None) -> None:
        super().__init__()
        self.denoiser = Denoiser(config)
        width = self.denoiser.config.width
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.energy_head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)
        self.register_buffer("energy_mean", torch.zeros(()))
        self.register_buffer("energy_std", torch.ones(()))

    def fit_energies(self, e_above_hull: Float[Tensor, "crystals"]) -> None:
        """Sets the standardisation from the energies above the hull (eV/atom) that will be trained on."""
        self.energy_mean.copy_(e_above_hull.mean())
        self.energy_std.copy_(e_above_hull.std().clamp_min(1e-3))

    def standardise(self, e_above_hull: Float[Tensor, "crystals"]) -> Float[Tensor, "crystals"]:
        """E_0 of energies above the hull (eV/atom)."""
        return (e_above_hull - self.energy_mean) / self.energy_std

    def compile_layers(self) -> None:
        """Compiles the trunk, as for the denoiser."""
        self.denoiser.compile_layers()

    def forward(
        self,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        frac_coords: Float[Tensor, "crystals atoms 3"],
        code: Float[Tensor, "crystals 6"],
        lattice: Float[Tensor, "crystals 3 3"],
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"] | None = None,
    ) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals 6"], Float[Tensor, "crystals"]]:
        """What the denoiser predicts, and the intermediate energy E_t (standardised) of each crystal."""
        atoms, weight = self.denoiser.trunk(atomic_numbers, frac_coords, code, lattice, time, mask)
        vectors, cell = self.denoiser.read_out(atoms, weight, code.dtype)
        return vectors, cell, self.energy_head((atoms * weight).sum(1)).squeeze(-1).to(code.dtype)

    def gradient(
        self,
        geometry: Geometry,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        num_atoms: Int[Tensor, "crystals"],
        time: float,
        mask: Bool[Tensor, "crystals atoms"] | None = None,
    ) -> Geometry:
        """∂E_t/∂F and ∂E_t/∂k of each crystal, k being the standardised lattice code."""
        with torch.enable_grad():
            coords = geometry.coords.detach().requires_grad_()
            code = geometry.code.detach().requires_grad_()
            lattice = self.denoiser.decode_lattice(code, num_atoms)
            times = torch.full_like(code[:, 0], time)
            with torch.autocast(code.device.type, torch.bfloat16):
                atoms, weight = self.denoiser.trunk(atomic_numbers, coords, code, lattice, times, mask)
                energy = self.energy_head((atoms * weight).sum(1))
            slopes = torch.autograd.grad(energy.float().sum(), (coords, code))
        return Geometry(*slopes)

    def header(self, process: str) -> dict[str, Any]:
        """What a weight file must say for the model to be built again."""
        return {"model": "stability", "config": asdict(self.denoiser.config), "process": process}


@torch.inference_mode(False)
def load_stability(weights: str | Path | None = None, device: str = "cpu") -> tuple[StabilityModel, dict[str, Any]]:
    """The stability model in a weight file, by default the one installed with the package, and the file's header."""
    path = weights or checkpoint.default_weights("dao_p_stability")
    refuse_other_model(path)
    tensors, header = checkpoint.load(path, device)
    with checkpoint.described_by(path):
        model = StabilityModel(DenoiserConfig(**header["config"]))
        PROCESSES[header["process"]]  # which who ranks and who guides will ask for
    checkpoint.fill(model, {name: tensor.float() for name, tensor in tensors.items()}, path)
    return model.to(device, torch.float32).eval().requires_grad_(False), header


def refuse_other_model(path: str | Path) -> None:
    """An error if a weight file holds no stability model, by its header alone."""
    if checkpoint.read_header(path).get("model") != "stability":
        raise checkpoint.CheckpointError(f"{str(path)!r} holds no stability model")


@torch.no_grad()
def energies_above_hull(
    model: StabilityModel, crystals: Crystals, process: str = "flow", *, pairs: int = 40_000
) -> Float[Tensor, "crystals"]:
    """The energy above the hull (eV/atom) of each crystal as it is, in batches of about ``pairs`` pairs of atoms."""
    found = torch.empty(len(crystals), dtype=torch.float32, device="cpu")
    device = model.energy_mean.device
    clean = PROCESSES[process].CLEAN
    for count in crystals.num_atoms.unique().tolist():
        members = torch.nonzero(crystals.num_atoms == count).flatten()
        for part in members.split(max(1, pairs // count**2)):
            batch = crystals[part].to(device, torch.float32)
            code = model.denoiser.encode_lattice(batch.lattice, batch.num_atoms)
            lattice = model.denoiser.decode_lattice(code, batch.num_atoms)
            coords, times = wrap(batch.frac_coords.view(len(part), count, 3)), torch.full_like(code[:, 0], clean)
            with torch.autocast(device.type, torch.bfloat16):
                energy = model(batch.atomic_numbers.view(len(part), count), coords, code, lattice, times)[2]
            found[part] = (energy * model.energy_std + model.energy_mean).cpu()
    return found
