"""Mathematics of lattices: six rotation-free numbers that describe a cell, and back.

A lattice matrix L (rows are lattice vectors) has the polar decomposition L = P R with P = (L Lᵀ)^½ symmetric positive
and R a rotation, which carries no information about the crystal. The symmetric logarithm log P has six independent
entries. In an orthonormal basis B₁…B₆ of the symmetric matrices, k_i = ⟨B_i, log P⟩; B₆ = I/√3 carries the size of the
cell, k₆ = log(V)/√3, and the other five its shape.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def symmetric_basis(
    dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Float[Tensor, "6 3 3"]:
    """An orthonormal basis of the symmetric 3×3 matrices: three shears, two stretches, the identity."""
    s2, s3, s6 = 2**-0.5, 3**-0.5, 6**-0.5
    basis = torch.zeros(6, 3, 3, dtype=dtype, device=device)
    for index, (row, column) in enumerate([(0, 1), (0, 2), (1, 2)]):
        basis[index, row, column] = basis[index, column, row] = s2
    basis[3] = torch.diag(torch.tensor([s2, -s2, 0.0], dtype=dtype, device=device))
    basis[4] = torch.diag(torch.tensor([s6, s6, -2 * s6], dtype=dtype, device=device))
    basis[5] = torch.diag(torch.tensor([s3, s3, s3], dtype=dtype, device=device))
    return basis


def to_log_vector(lattice: Float[Tensor, "crystals 3 3"]) -> Float[Tensor, "crystals 6"]:
    """The six coordinates of ½ log(L Lᵀ); L in Å. Rotations of the crystal do not change them."""
    metric = (lattice @ lattice.transpose(-1, -2)).double()
    eigenvalues, eigenvectors = torch.linalg.eigh(metric)
    log = 0.5 * (eigenvectors * eigenvalues.clamp_min(1e-12).log().unsqueeze(-2)) @ eigenvectors.transpose(-1, -2)
    return torch.einsum("cxy,kxy->ck", log, symmetric_basis(log.dtype, log.device)).to(lattice.dtype)


def from_log_vector(vector: Float[Tensor, "crystals 6"]) -> Float[Tensor, "crystals 3 3"]:
    """The symmetric lattice matrix exp(Σ k_i B_i), Å; the inverse of `to_log_vector` up to a rotation."""
    return torch.linalg.matrix_exp(torch.einsum("ck,kxy->cxy", vector, symmetric_basis(vector.dtype, vector.device)))


def split_volume(
    vector: Float[Tensor, "crystals 6"], num_atoms: Int[Tensor, "crystals"], sign: int
) -> Float[Tensor, "crystals 6"]:
    """Adds sign · log(N)/√3 to k₆, that is, turns the volume per atom into the volume of the cell (+1) or back (−1)."""
    shift = sign * num_atoms.to(vector.dtype).log() / math.sqrt(3)
    return torch.cat([vector[:, :5], (vector[:, 5] + shift).unsqueeze(-1)], -1)


def plane_distances(lattice: Float[Tensor, "crystals 3 3"]) -> Float[Tensor, "crystals 3"]:
    """Distances between opposite faces of the cell (Å): V / |a_j × a_k|."""
    cross = torch.linalg.cross(lattice[:, [1, 2, 0]], lattice[:, [2, 0, 1]], dim=-1)
    return torch.linalg.det(lattice).abs().unsqueeze(-1) / cross.norm(dim=-1)
