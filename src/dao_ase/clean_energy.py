"""DAO-P's potential as what guides: the energy of the crystal that DAO-G is heading for.

Near the clean end of the process the noise that is left decides little, and the intermediate energy is that of the one
crystal M̂ which the network predicts, E_t(M_t) ≈ E_0(M̂(M_t)). Its slopes are forces and stress, with E_0 the energy per
atom in units of ``spread``:

    ∂E_0/∂f_i = −F_i Lᵀ / (N · spread),     ∂E_0/∂L = L⁻ᵀ V / (N · spread),    V the virial.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dao_ase.crystals import Crystals
from dao_ase.denoiser import Denoiser
from dao_ase.derivatives import predict_crystals
from dao_ase.potential import Potential
from dao_ase.processes import Geometry
from dao_ase.torus import wrap

DENSEST = 1.0
"""Å³ per atom; nothing is asked of crystals that are denser, in which an atom has a thousand neighbours."""


@dataclass(frozen=True)
class CleanEnergy:
    """A potential, the denoiser whose lattice codes it reads, and the energy (eV/atom) that counts as one."""

    potential: Potential
    denoiser: Denoiser
    spread: float

    def lattice(
        self, code: Float[Tensor, "crystals 6"], num_atoms: Int[Tensor, "crystals"]
    ) -> Float[Tensor, "crystals 3 3"]:
        """The lattice matrices (Å) of codes."""
        return self.denoiser.decode_lattice(code, num_atoms)

    def gradient(
        self,
        clean: Geometry,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        num_atoms: Int[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"],
    ) -> Geometry:
        """∂E_0/∂F and ∂E_0/∂k of crystals without noise; zero where there is no sensible energy."""
        lattice = self.lattice(clean.code, num_atoms)
        fine = torch.linalg.det(lattice).abs() > DENSEST * num_atoms
        coords, slope = torch.zeros_like(clean.coords), torch.zeros_like(lattice)
        if fine.any():
            known = mask & fine.unsqueeze(1)
            crystals = Crystals(lattice[fine], wrap(clean.coords[known]), atomic_numbers[known], num_atoms[fine])
            found = predict_crystals(self.potential, crystals)
            unit = (num_atoms[fine] * self.spread).to(lattice).view(-1, 1, 1)
            forces = torch.zeros_like(clean.coords)
            forces[known] = found.forces.to(lattice)
            coords[fine] = -forces[fine] @ lattice[fine].transpose(1, 2) / unit
            slope[fine] = torch.linalg.inv(lattice[fine]).transpose(1, 2) @ found.virial.to(lattice) / unit
        with torch.enable_grad():
            code = clean.code.detach().requires_grad_()
            (by_code,) = torch.autograd.grad((self.lattice(code, num_atoms) * slope).sum(), code)
        finite = coords.isfinite().all(-1).all(-1) & by_code.isfinite().all(-1)
        return Geometry(torch.where(finite[:, None, None], coords, 0.0), torch.where(finite.unsqueeze(1), by_code, 0.0))
