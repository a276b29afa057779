"""What an atom knows of the directions of its neighbours: scalars made of the moments that were gathered.

Values w_ij gathered with the moments of directions are tensors on the atom. Their inner products are scalars that see
angles, because ⟨r̂ⁿ, ŝⁿ⟩ = (r̂·ŝ)ⁿ:

    A_i^n = Σ_j w_ij r̂_ij^⊗n,    ⟨A_i^n, A_i^n⟩ = Σ_jk w_ij w_ik cosⁿ θ_jik
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dao_ase.pair_geometry import DirectionMoments

SMALL = 10.0
"""By which sums of Legendre polynomials from P_2 on are multiplied: near symmetric sites they are small, and learnt last.
Trained weights hold it."""
SYMMETRIC = 0.02
"""q₀: below this the logarithm of a square is linear in it, as at sites that are strained by a few percent."""


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


class _Squares(torch.autograd.Function):
    """Sums of the squares of components, R (x ⊙ x); the derivative is 2 Rᵀ g ⊙ x."""

    @staticmethod
    def forward(ctx: Any, tensors: Tensor, sums: Tensor) -> Tensor:
        ctx.save_for_backward(tensors, sums)
        return torch.bmm(sums.expand(len(tensors), -1, -1), tensors * tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        tensors, sums = ctx.saved_tensors
        return torch.bmm((2 * sums.T).expand(len(tensors), -1, -1), gradients[0]) * tensors, None


class Invariants(nn.Module):
    """Scalars of an atom from the moments of its neighbourhood: A⁰ itself, and |A^n W|² for each rank n and channel.

    With ``aligned``, also ⟨A^n W, sⁿ⟩ with the vector s = v/√(1 + |v|²), v = A¹ W': how the tensors lie to a direction of
    the neighbourhood itself, which sees three neighbours at once, and four.

    With ``legendre`` the squares are Σ_jk w_ij w_ik P_n(cos θ_jik), from n = 0 on. Those of higher rank vanish where the
    neighbourhood has no such part, so that the little that a strain adds is not hidden under what was there before. With
    ``logarithms``, also log(1 + q/q₀) of those squares q from n = 1 on: a strain of a percent makes a thousandth of what q
    is elsewhere, too little to be learnt from. ``log_scales`` are the q₀ of each rank from n = 1 on, `SYMMETRIC` if empty.
    """

    rank_of: Tensor
    sums: Tensor
    log_scales: Tensor

    def __init__(
        self,
        channels: int,
        moments: DirectionMoments,
        *,
        aligned: bool = False,
        legendre: bool = False,
        logarithms: bool = False,
        log_scales: Sequence[float] = (),
    ) -> None:
        super().__init__()
        scales = tuple(log_scales) or (SYMMETRIC,) * moments.rank
        if len(scales) != moments.rank or min(scales) <= 0:
            raise ValueError(
                f"log_scales are {moments.rank} positive numbers, one for each rank, not {list(log_scales)}"
            )
        if log_scales and not logarithms:
            raise ValueError("log_scales are of the logarithms: they need logarithms = true")
        if logarithms and not legendre:
            raise ValueError("logarithms are of sums of Legendre polynomials: they need legendre = true")
        self.channels, self.features = channels, channels * (1 + legendre + moments.rank * (1 + aligned + logarithms))
        self.mix = nn.Linear(channels, channels, bias=False)
        self.direct = nn.Linear(channels, channels, bias=False) if aligned else None
        self.moments, self.legendre, self.logarithms = moments, legendre, logarithms
        # [ranks, components]: which components make up a rank
        rank_of = torch.eye(len(moments.sizes)).repeat_interleave(torch.tensor(moments.sizes), 1)
        self.register_buffer("rank_of", rank_of[1:, 1:].clone(), persistent=False)
        self.register_buffer("log_scales", torch.tensor(scales).unsqueeze(1), persistent=False)
        self.register_buffer(
            "sums", polynomials(moments.rank) @ rank_of if legendre else self.rank_of, persistent=False
        )

    def forward(
        self,
        moments: Float[Tensor, "atoms slots components"],
        values: Float[Tensor, "atoms slots channels"],
    ) -> Float[Tensor, "atoms features"]:
        tensors = _Moments.apply(moments, values)
        scalar, others = tensors.split([1, tensors.shape[1] - 1], 1)
        mixed = self.mix(tensors if self.legendre else others)
        squares = _Squares.apply(mixed, self.sums)
        scalars = [scalar, squares]
        if self.direct is not None:
            powers = self._powers(self.direct(others[:, :3]))
            aligned = mixed[:, -powers.shape[1] :] * powers
            scalars.append(torch.bmm(self.rank_of.expand(len(values), -1, -1), aligned))
        if self.logarithms:
            scalars.append(torch.log1p(squares[:, 1:] / self.log_scales))
        return torch.cat(scalars, 1).flatten(1)

    def _powers(self, vector: Float[Tensor, "atoms 3 channels"]) -> Float[Tensor, "atoms components channels"]:
        """The moments of s = v/√(1 + |v|²), without the constant."""
        vector = vector * torch.rsqrt(1 + vector.square().sum(1, keepdim=True))
        powers = self.moments(vector.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(vector), -1))
        return powers[:, :, 1:].transpose(1, 2)


def polynomials(rank: int) -> Float[Tensor, "polynomials powers"]:
    """The coefficients of the Legendre polynomials P_0 … P_rank, those from P_2 on times `SMALL`.

    >>> polynomials(2) / torch.tensor([[1.0], [1.0], [SMALL]])
    tensor([[ 1.0000,  0.0000,  0.0000],
            [ 0.0000,  1.0000,  0.0000],
            [-0.5000,  0.0000,  1.5000]])
    """
    table = torch.eye(rank + 1)
    for n in range(1, rank):  # (n + 1) P_n+1 = (2n + 1) x P_n − n P_n−1
        table[n + 1] = ((2 * n + 1) * table[n].roll(1) - n * table[n - 1]) / (n + 1)
    table[2:] *= SMALL
    return table
