"""What an atom knows of the directions of its neighbours: scalars made of the moments that were gathered.

Values w_ij gathered with the moments of directions are tensors on the atom. Their inner products are scalars that see
angles, because ⟨r̂ⁿ, ŝⁿ⟩ = (r̂·ŝ)ⁿ:

    A_i^n = Σ_j w_ij r̂_ij^⊗n,    ⟨A_i^n, A_i^n⟩ = Σ_jk w_ij w_ik cosⁿ θ_jik
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dao_ase.pair_geometry import DirectionMoments


class _Moments(torch.autograd.Function):
    """Σ_j m_j ⊗ v_j for each atom. The derivatives come out as the factors lie in memory, which bmm's own do not."""

    @staticmethod
    def forward(ctx: Any, moments: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(moments, values)
        return torch.bmm(moments.transpose(1, 2), values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        moments, values = ctx.saved_tensors
        return torch.bmm(values, gradients[0].transpose(1, 2)), torch.bmm(moments, gradients[0])


class _SquaresByRank(torch.autograd.Function):
    """Σ_c x_c² over the components c of each rank, R (x ⊙ x); its derivative is 2 Rᵀ g ⊙ x."""

    @staticmethod
    def forward(ctx: Any, tensors: Tensor, rank_of: Tensor) -> Tensor:
        ctx.save_for_backward(tensors, rank_of)
        return torch.bmm(rank_of.expand(len(tensors), -1, -1), tensors * tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        tensors, rank_of = ctx.saved_tensors
        return torch.bmm((2 * rank_of.T).expand(len(tensors), -1, -1), gradients[0]) * tensors, None


class Invariants(nn.Module):
    """Scalars of an atom from the moments of its neighbourhood: A⁰ itself, and |A^n W|² for each rank n and channel.

    With ``aligned``, also ⟨A^n W, sⁿ⟩ with the vector s = v/√(1 + |v|²), v = A¹ W': how the tensors lie to a direction of
    the neighbourhood itself, which sees three neighbours at once, and four.
    """

    rank_of: Tensor

    def __init__(self, channels: int, moments: DirectionMoments, aligned: bool = False) -> None:
        super().__init__()
        self.features = channels * (len(moments.sizes) + aligned * (len(moments.sizes) - 1))
        self.mix = nn.Linear(channels, channels, bias=False)
        self.direct = nn.Linear(channels, channels, bias=False) if aligned else None
        self.moments = moments
        # [ranks, components]: which components make up a rank
        rank_of = torch.eye(len(moments.sizes) - 1).repeat_interleave(torch.tensor(moments.sizes[1:]), 1)
        self.register_buffer("rank_of", rank_of, persistent=False)

    def forward(
        self,
        moments: Float[Tensor, "atoms slots components"],
        values: Float[Tensor, "atoms slots channels"],
    ) -> Float[Tensor, "atoms features"]:
        tensors = _Moments.apply(moments, values)
        scalar, others = tensors.split([1, tensors.shape[1] - 1], 1)
        mixed = self.mix(others)
        scalars = [scalar, _SquaresByRank.apply(mixed, self.rank_of)]
        if self.direct is not None:
            aligned = mixed * self._powers(self.direct(others[:, :3]))
            scalars.append(torch.bmm(self.rank_of.expand(len(values), -1, -1), aligned))
        return torch.cat(scalars, 1).flatten(1)

    def _powers(self, vector: Float[Tensor, "atoms 3 channels"]) -> Float[Tensor, "atoms components channels"]:
        """The moments of s = v/√(1 + |v|²), without the constant."""
        vector = vector * torch.rsqrt(1 + vector.square().sum(1, keepdim=True))
        powers = self.moments(vector.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(vector), -1))
        return powers[:, :, 1:].transpose(1, 2)
