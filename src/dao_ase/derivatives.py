"""From one energy to forces and stress, exactly.

The energy of a crystal depends on its geometry through the pair vectors r_ij = x_j + S·L − x_i alone. With g_ij = ∂E/∂r_ij,

    F_i = Σ_j (g_ij − g_ji)   (eV/Å),      σ = 1/V Σ_ij ½ (r_ij ⊗ g_ij + g_ij ⊗ r_ij)   (eV/Å³)

which is the gradient by positions, and by a strain ε of the whole crystal, r → r (1 + ε). A crystal under compression has
a negative trace of σ: ASE's sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dao_ase.neighbor_attention import collect
from dao_ase.neighbors import Neighbors
from dao_ase.potential import Potential


@dataclass(frozen=True)
class Prediction:
    """Energies (eV), forces (eV/Å) and stresses (eV/Å³, ASE's sign) of a batch of crystals."""

    energy: Float[Tensor, "crystals"]
    energies: Float[Tensor, "atoms"]
    forces: Float[Tensor, "atoms 3"]
    virial: Float[Tensor, "crystals 3 3"]
    volume: Float[Tensor, "crystals"]

    @property
    def stress(self) -> Float[Tensor, "crystals 3 3"]:
        """The virial divided by the volume."""
        return self.virial / self.volume.abs()[:, None, None]


def predict(
    model: Potential,
    atomic_numbers: Int[Tensor, "atoms"],
    vectors: Float[Tensor, "atoms slots 3"],
    neighbors: Neighbors,
    crystal_index: Int[Tensor, "atoms"],
    volume: Float[Tensor, "crystals"],
    *,
    differentiable: bool = False,
) -> Prediction:
    """Energy, forces and stress of a batch, given the pair vectors (Å); differentiable again when training.

    Energies are summed in float64, for a total of a thousand atoms has no room in float32 for what a force needs.
    """
    with torch.enable_grad():
        vectors = vectors.detach().requires_grad_()
        atomic = model(atomic_numbers, vectors, neighbors)
        (gradient,) = torch.autograd.grad(atomic.sum(), vectors, create_graph=differentiable)
    if not differentiable:
        atomic, vectors = atomic.detach(), vectors.detach()
    energies = atomic.double() + model.reference[atomic_numbers].double()
    forces = gradient.sum(1) - collect(gradient, neighbors)
    pulled = vectors.transpose(1, 2) @ gradient
    per_atom = 0.5 * (pulled + pulled.transpose(1, 2))
    return Prediction(
        energy=energies.new_zeros(len(volume)).index_add(0, crystal_index, energies),
        energies=energies,
        forces=forces,
        virial=per_atom.new_zeros(len(volume), 3, 3).index_add(0, crystal_index, per_atom),
        volume=volume,
    )
