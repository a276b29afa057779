"""Mathematics of fractional coordinates: the flat torus [0, 1)³ and distributions on it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

IMAGES = 3
"""Images kept on each side in sums over the torus; enough for σ ≤ 0.5 to float32 precision."""


def wrap(frac_coords: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Coordinates in [0, 1)."""
    wrapped = frac_coords - frac_coords.floor()
    return torch.where(wrapped == 1.0, 0.0, wrapped)  # −1e-9 rounds to 1.0 in float32


def shortest(displacement: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The logarithmic map of the torus: the displacement in [−½, ½] that leads to the same point."""
    return displacement - displacement.round()


def remove_mean(
    vectors: Float[Tensor, "atoms 3"], crystal_index: Int[Tensor, "atoms"], num_atoms: Int[Tensor, "crystals"]
) -> Float[Tensor, "atoms 3"]:
    """Vectors whose mean over each crystal is zero: motions of atoms without a drift of the whole crystal."""
    total = vectors.new_zeros(len(num_atoms), 3).index_add(0, crystal_index, vectors)
    return vectors - (total / num_atoms.unsqueeze(-1))[crystal_index]


def log_wrapped_normal(
    displacement: Float[Tensor, "*shape"], sigma: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Log density of a normal wrapped onto the circle, log Σ_k N(x + k; 0, σ²), without the constant −log(σ√2π)."""
    return torch.logsumexp(-(_images(displacement) ** 2) / (2 * sigma.unsqueeze(-1) ** 2), -1)


def wrapped_normal_score(
    displacement: Float[Tensor, "*shape"], sigma: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Score of the wrapped normal, ∂/∂x log Σ_k N(x + k; 0, σ²) = −Σ_k w_k (x + k)/σ² with w = softmax of exponents."""
    images = _images(displacement)
    weights = (-(images**2) / (2 * sigma.unsqueeze(-1) ** 2)).softmax(-1)
    return -(images * weights).sum(-1) / sigma**2


def _images(displacement: Tensor) -> Tensor:
    """The displacement and its nearest periodic images, along a new last axis."""
    shifts = torch.arange(-IMAGES, IMAGES + 1, dtype=displacement.dtype, device=displacement.device)
    return shortest(displacement).unsqueeze(-1) + shifts
