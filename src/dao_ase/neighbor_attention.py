"""Crysformer's attention for neighbours: smooth at the cutoff, aware of angles, with the pair algebra absorbed.

Atoms look at their neighbours; each pair has a radial feature b_ij ∈ R^K, an envelope u_ij that falls smoothly to zero at
the cutoff, and the moments of its direction, r̂ ⊗ … ⊗ r̂ up to rank R. Values gathered with the moments are vectors and
tensors on the atom; their inner products are scalars that see angles, because ⟨r̂ⁿ, ŝⁿ⟩ = (r̂·ŝ)ⁿ:

    A_i^n = Σ_j w_ij r̂_ij^⊗n,    ⟨A_i^n, A_i^n⟩ = Σ_jk w_ij w_ik cosⁿ θ_jik
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dao_ase.layers import FeedForward
from dao_ase.neighbors import Neighbors

FEW_SLOTS = 2048
"""Up to here a scatter costs less than autograd's way through Python."""


class PairFeatures(NamedTuple):
    """What is known of each neighbour and does not depend on the layer."""

    radial: Float[Tensor, "atoms slots radial"]
    envelope: Float[Tensor, "atoms slots"]
    moments: Float[Tensor, "atoms slots components"]


def envelope(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """u(x) = 1 − 28x⁶ + 48x⁷ − 21x⁸ for x < 1, else 0: one at zero, and zero with two derivatives at the cutoff x = 1."""
    inside = x.clamp(max=1.0)
    sixth = (inside * inside * inside).square()
    return 1 - sixth * (28 - inside * (48 - 21 * inside))


def bessel(x: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape {count}"]:
    """√2 sin(kπx)/x for k = 1 … count: the radial waves of a sphere of radius 1 (DimeNet's basis)."""
    frequency = math.pi * torch.arange(1, count + 1, device=x.device, dtype=x.dtype)
    return torch.sin(x.unsqueeze(-1) * frequency) * (math.sqrt(2) / x).unsqueeze(-1)


class DirectionMoments(nn.Module):
    """The distinct components of 1, r̂, r̂⊗r̂, … up to a rank, weighted so that ⟨r̂ⁿ, ŝⁿ⟩ = (r̂·ŝ)ⁿ as a plain dot product."""

    orders: Tensor

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        monomials = [list(combinations_with_replacement(range(3), n)) for n in range(rank + 1)]
        self.sizes = [len(level) for level in monomials]
        orders = [_multinomial(monomial) for level in monomials for monomial in level]
        self.register_buffer("orders", torch.tensor(orders), persistent=False)
        for n in range(2, rank + 1):  # a monomial is its parent of one rank less, times its last axis
            parents = torch.tensor([monomials[n - 1].index(monomial[:-1]) for monomial in monomials[n]])
            axes = torch.tensor([monomial[-1] for monomial in monomials[n]])
            self.register_buffer(f"parent{n}", _chooser(parents, self.sizes[n - 1]), persistent=False)
            self.register_buffer(f"axis{n}", _chooser(axes, 3), persistent=False)

    def forward(self, direction: Float[Tensor, "count 3"]) -> Float[Tensor, "count components"]:
        levels = [torch.ones_like(direction[:, :1]), direction]
        for n in range(2, self.rank + 1):
            levels.append((levels[-1] @ getattr(self, f"parent{n}")) * (direction @ getattr(self, f"axis{n}")))
        return torch.cat(levels[: self.rank + 1], -1) * self.orders.to(direction.dtype).sqrt()


def _chooser(columns: Tensor, count: int) -> Tensor:
    """The matrix that picks columns: x @ chooser = x[:, columns]. Its derivative is a matrix product, not a scatter."""
    return torch.nn.functional.one_hot(columns, count).T.to(torch.get_default_dtype())


def _multinomial(monomial: tuple[int, ...]) -> int:
    """In how many orders the axes of a monomial can stand."""
    orders = math.factorial(len(monomial))
    for repeats in Counter(monomial).values():
        orders //= math.factorial(repeats)
    return orders


class _Gather(torch.autograd.Function):
    """x_j for each slot. Its transpose sums over the opposite directions, so that no derivative ever scatters."""

    @staticmethod
    def forward(ctx: Any, atoms: Tensor, index: Tensor, reverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, reverse)
        return atoms.index_select(0, index.flatten()).view(*index.shape, atoms.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Collect.apply(gradients[0], *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """Σ_m y[reverse(i, m)] for each atom: the transpose of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, index: Tensor, reverse: Tensor) -> Tensor:
        ctx.save_for_backward(index, reverse)
        return slots.flatten(0, 1).index_select(0, reverse.flatten()).view(slots.shape).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradients[0], *ctx.saved_tensors), None, None


def gather(atoms: Float[Tensor, "atoms features"], neighbors: Neighbors) -> Float[Tensor, "atoms slots features"]:
    """The features of each neighbour. Empty slots hold the atom's own; nothing may flow back into them."""
    if neighbors.index.numel() <= FEW_SLOTS:
        return atoms.index_select(0, neighbors.index.flatten()).view(*neighbors.index.shape, atoms.shape[1])
    return _Gather.apply(atoms, neighbors.index, neighbors.reverse)


def collect(slots: Float[Tensor, "atoms slots features"], neighbors: Neighbors) -> Float[Tensor, "atoms features"]:
    """Σ over the pairs (j, i) that point at atom i: the transpose of `gather`."""
    return _Collect.apply(slots, neighbors.index, neighbors.reverse)


class Invariants(nn.Module):
    """Scalars of an atom from the moments of its neighbourhood: A⁰ itself, and |A^n W|² for each rank n and channel."""

    rank_of: Tensor

    def __init__(self, channels: int, moments: DirectionMoments) -> None:
        super().__init__()
        self.features = channels * len(moments.sizes)
        self.mix = nn.Linear(channels, channels, bias=False)
        rank_of = torch.eye(len(moments.sizes) - 1).repeat_interleave(torch.tensor(moments.sizes[1:]), 1)
        self.register_buffer(
            "rank_of", rank_of, persistent=False
        )  # [ranks, components]: which components make up a rank

    def forward(self, tensors: Float[Tensor, "atoms components channels"]) -> Float[Tensor, "atoms features"]:
        scalar, others = tensors.split([1, tensors.shape[1] - 1], 1)
        squares = torch.bmm(self.rank_of.expand(len(tensors), -1, -1), self.mix(others).square())
        return torch.cat([scalar, squares], 1).flatten(1)


class NeighborDensity(nn.Module):
    """The first look: an unnormalised sum over neighbours, Σ_j s(z_j) ⊙ (W b_ij) ⊗ r̂ⁿ, of which the invariants are kept."""

    def __init__(self, width: int, value_width: int, radial: int, moments: DirectionMoments) -> None:
        super().__init__()
        self.value = nn.Linear(width, value_width)
        self.filter = nn.Linear(radial, value_width, bias=False)
        self.invariants = Invariants(value_width, moments)
        self.out = nn.Linear(self.invariants.features, width)

    def forward(
        self, atoms: Float[Tensor, "atoms width"], pairs: PairFeatures, neighbors: Neighbors
    ) -> Float[Tensor, "atoms width"]:
        values = gather(self.value(atoms), neighbors) * self.filter(pairs.radial)
        return self.out(self.invariants(torch.bmm(pairs.moments.transpose(1, 2), values)))


class NeighborAttention(nn.Module):
    """Attention over the neighbours, with the envelope in the numerator and in the denominator.

        l_ij = q_i·k_j/√c + q̃_i·b_ij,    a_ij = u_ij exp(l_ij) / Z_i,    Z_i = 1 + Σ_j u_ij exp(l_ij)
        A_i^n = Σ_j a_ij v_j ⊙ (W_e b_ij) ⊗ r̂_ij^⊗n,    o_i = W_o [invariants of A_i, log Z_i]

    q̃_i is the pair projection absorbed into the query. The 1 in Z keeps the sum smooth when the last neighbour leaves,
    and log Z tells the atom how many there are.
    """

    def __init__(
        self, width: int, heads: int, key_width: int, value_width: int, radial: int, moments: DirectionMoments
    ):
        super().__init__()
        self.heads, self.head_width, self.radial = heads, key_width // heads, radial
        self.query = nn.Linear(width, key_width + heads * radial)
        self.key = nn.Linear(width, key_width, bias=False)
        self.value = nn.Linear(width, value_width)
        self.filter = nn.Linear(radial, value_width, bias=False)
        self.invariants = Invariants(value_width, moments)
        self.out = nn.Linear(self.invariants.features + heads, width)
        own_head = torch.eye(heads).repeat_interleave(self.head_width, 0)  # [key_width, heads]: whose channel it is
        self.register_buffer("own_head", own_head * self.head_width**-0.5, persistent=False)

    def forward(
        self, atoms: Float[Tensor, "atoms width"], pairs: PairFeatures, neighbors: Neighbors
    ) -> Float[Tensor, "atoms width"]:
        weights, log_sum = self.attend(atoms, pairs, neighbors)
        values = gather(self.value(atoms), neighbors) * self.filter(pairs.radial)
        values = (values.unflatten(-1, (self.heads, -1)) * weights.unsqueeze(-1)).flatten(-2)
        invariants = self.invariants(torch.bmm(pairs.moments.transpose(1, 2), values))
        return self.out(torch.cat([invariants, log_sum], -1))

    def attend(
        self, atoms: Tensor, pairs: PairFeatures, neighbors: Neighbors
    ) -> tuple[Float[Tensor, "atoms slots heads"], Float[Tensor, "atoms heads"]]:
        """The attention weights a_ij and log Z_i."""
        key_width = self.heads * self.head_width
        query, pair_query = self.query(atoms).split([key_width, self.heads * self.radial], -1)
        keys = gather(self.key(atoms), neighbors)
        logits = torch.baddbmm(
            torch.bmm(pairs.radial, pair_query.view(-1, self.radial, self.heads)),
            keys,
            query.unsqueeze(-1) * self.own_head,
        )
        within = logits.detach() * (pairs.envelope > 0).unsqueeze(
            -1
        )  # what lies beyond the cutoff must not set the scale
        peak = within.amax(1, keepdim=True).clamp(min=0) if logits.shape[1] else logits.new_zeros(1)
        raw = pairs.envelope.unsqueeze(-1) * torch.exp((logits - peak).clamp(max=0))
        total = torch.exp(-peak) + raw.sum(1, keepdim=True)
        return raw / total, (peak + total.log()).squeeze(1)


class NeighborBlock(nn.Module):
    """One layer of Crysformer: pre-LayerNorm attention over neighbours, then feed-forward.

    Both are simply added. The paper's gated additions saturate here: those of the first trained weights had shut the last
    feed-forward out for good.
    """

    def __init__(self, width: int, attention: NeighborAttention) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, FeedForward(width)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, atoms: Float[Tensor, "atoms width"], pairs: PairFeatures, neighbors: Neighbors
    ) -> Float[Tensor, "atoms width"]:
        atoms = atoms + self.attention(self.attention_norm(atoms), pairs, neighbors)
        return atoms + self.feed_forward(self.feed_forward_norm(atoms))
