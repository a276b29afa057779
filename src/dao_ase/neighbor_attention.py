"""Crysformer's attention for neighbours: smooth at the cutoff, aware of angles, with the pair algebra absorbed.

Atoms look at their neighbours; each pair has a radial feature b_ij ∈ R^K, an envelope u_ij that falls smoothly to zero at
the cutoff, and the moments of its direction, r̂ ⊗ … ⊗ r̂ up to rank R. Values gathered with the moments are vectors and
tensors on the atom, of which invariants.py makes scalars.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dao_ase.invariants import Invariants
from dao_ase.layers import FeedForward
from dao_ase.neighbors import Neighbors

FEW_SLOTS = 2048
"""Up to here a scatter costs less than a gather and a sum."""


class PairFeatures(NamedTuple):
    """What is known of each neighbour and does not depend on the layer."""

    radial: Float[Tensor, "atoms slots radial"]
    envelope: Float[Tensor, "atoms slots"]
    moments: Float[Tensor, "atoms slots components"]


class _Logits(torch.autograd.Function):
    """l_hj = q_h·k_j + q̃_h·b_j for each atom, head h and slot j; derivatives come out as the factors lie in memory."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, pair_query: Tensor, radial: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, pair_query, radial)
        return torch.baddbmm(torch.bmm(pair_query, radial.transpose(1, 2)), query, keys.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (query, keys, pair_query, radial), by_logits = ctx.saved_tensors, gradients[0]
        by_slot = by_logits.transpose(1, 2)
        return (
            torch.bmm(by_logits, keys),
            torch.bmm(by_slot, query),
            torch.bmm(by_logits, radial),
            torch.bmm(by_slot, pair_query),
        )


class _BoundedSoftmax(torch.autograd.Function):
    """a_j = u_j w_j/Z and Z = 1 + Σ_j u_j w_j, with w_j = 1/(e^−l_j + e^−c) = e^c σ(l_j − c), which never exceeds e^c.

    With g_j the derivative by a_j and g the one by Z, that by u_j w_j is (g_j − Σ_k g_k a_k)/Z + g.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, envelope: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        raw = torch.sigmoid(logits - bound) * (math.exp(bound) * envelope).unsqueeze(1)
        total = 1 + raw.sum(-1, keepdim=True)
        weights = raw / total
        ctx.bound = bound
        ctx.save_for_backward(logits, envelope, weights, total)
        return weights, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (logits, envelope, weights, total), (by_weights, by_total) = ctx.saved_tensors, gradients
        mean = (by_weights * weights).sum(-1, keepdim=True)
        share = torch.sigmoid(logits - ctx.bound)
        slope = ((by_weights - mean) / total + by_total) * (share * math.exp(ctx.bound))
        return slope * (1 - share) * envelope.unsqueeze(1), slope.sum(1), None


class _Gather(torch.autograd.Function):
    """x_j for each slot. Its transpose sums over the opposite directions, so that in large systems nothing scatters."""

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
        if index.numel() <= FEW_SLOTS:
            zeros = torch.zeros(len(slots), slots.shape[2], dtype=slots.dtype, device=slots.device)
            return zeros.index_add(0, index.flatten(), slots.flatten(0, 1))
        return slots.flatten(0, 1).index_select(0, reverse.flatten()).view(slots.shape).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradients[0], *ctx.saved_tensors), None, None


def gather(atoms: Float[Tensor, "atoms features"], neighbors: Neighbors) -> Float[Tensor, "atoms slots features"]:
    """The features of each neighbour. Empty slots hold the atom's own; nothing may flow back into them."""
    return _Gather.apply(atoms, neighbors.index, neighbors.reverse)


def collect(slots: Float[Tensor, "atoms slots features"], neighbors: Neighbors) -> Float[Tensor, "atoms features"]:
    """Σ over the pairs (j, i) that point at atom i: the transpose of `gather`. Nothing may stand in empty slots."""
    return _Collect.apply(slots, neighbors.index, neighbors.reverse)


class NeighborDensity(nn.Module):
    """The first look: an unnormalised sum over neighbours, Σ_j s(z_j) ⊙ (W b_ij) ⊗ r̂ⁿ, of which the invariants are kept."""

    def __init__(self, width: int, radial: int, invariants: Invariants) -> None:
        super().__init__()
        self.value = nn.Linear(width, invariants.channels)
        self.filter = nn.Linear(radial, invariants.channels, bias=False)
        self.invariants = invariants
        self.out = nn.Linear(invariants.features, width)

    def forward(
        self, atoms: Float[Tensor, "atoms width"], pairs: PairFeatures, neighbors: Neighbors
    ) -> Float[Tensor, "atoms width"]:
        values = gather(self.value(atoms), neighbors) * self.filter(pairs.radial)
        return self.out(self.invariants(pairs.moments, values))


class NeighborAttention(nn.Module):
    """Attention over the neighbours, with the envelope in the numerator and in the denominator.

        l_ij = q_i·k_j/√d + q̃_i·b_ij,    a_ij = u_ij w_ij / Z_i,    Z_i = 1 + Σ_j u_ij w_ij,    1/w_ij = e^−l_ij + e^−c
        A_i^n = Σ_j a_ij v_j ⊙ (W_e b_ij) ⊗ r̂_ij^⊗n,    o_i = W_o [invariants of A_i, log Z_i]

    q̃_i is the pair projection absorbed into the query. The 1 in Z keeps the sum smooth when the last neighbour leaves,
    and log Z tells the atom how many there are. w is exp(l) up to ``bound``, c: were it larger without end, a last
    neighbour would be held on to until just before the cutoff and then let go at once.
    """

    own_head: Tensor
    value_head: Tensor
    order: Tensor

    def __init__(
        self, width: int, heads: int, key_width: int, radial: int, invariants: Invariants, bound: float
    ) -> None:
        super().__init__()
        value_width = invariants.channels
        self.bound = bound
        self.heads, self.head_width, self.radial = heads, key_width // heads, radial
        self.query = nn.Linear(width, key_width + heads * radial)
        self.key = nn.Linear(width, key_width, bias=False)
        self.value = nn.Linear(width, value_width)
        self.filter = nn.Linear(radial, value_width, bias=False)
        self.invariants = invariants
        self.out = nn.Linear(invariants.features + heads, width)
        pair_rows = torch.arange(heads * radial).view(radial, heads).T.flatten() + key_width  # as the heads want them
        others = torch.arange(key_width + heads * radial, 2 * key_width + heads * radial + value_width)
        self.register_buffer("order", torch.cat([torch.arange(key_width), pair_rows, others]), persistent=False)
        self.register_buffer("own_head", _whose(heads, key_width) * self.head_width**-0.5, persistent=False)
        self.register_buffer("value_head", _whose(heads, value_width), persistent=False)

    def forward(
        self, atoms: Float[Tensor, "atoms width"], pairs: PairFeatures, neighbors: Neighbors
    ) -> Float[Tensor, "atoms width"]:
        query, pair_query, keys, values = self.project(atoms)
        weights, log_sum = self.attend(query, pair_query, gather(keys, neighbors), pairs)
        values = gather(values, neighbors) * self.filter(pairs.radial)
        values = values * torch.bmm(weights.transpose(1, 2), self.value_head.expand(len(atoms), -1, -1))
        return self.out(torch.cat([self.invariants(pairs.moments, values), log_sum], -1))

    def project(self, atoms: Tensor) -> tuple[Tensor, ...]:
        """Queries [atoms, heads, key width], of which each head has its own channels, pair queries, keys and values."""
        weight = torch.cat([self.query.weight, self.value.weight, self.key.weight])
        bias = torch.cat([self.query.bias, self.value.bias, self.query.bias.new_zeros(len(self.key.weight))])
        sizes = [len(self.key.weight), self.heads * self.radial, len(self.value.weight), len(self.key.weight)]
        projected = nn.functional.linear(atoms, weight[self.order], bias[self.order])
        query, pair_query, values, keys = projected.split(sizes, -1)
        return query.unsqueeze(1) * self.own_head, pair_query.view(-1, self.heads, self.radial), keys, values

    def attend(
        self, query: Tensor, pair_query: Tensor, keys: Tensor, pairs: PairFeatures
    ) -> tuple[Float[Tensor, "atoms heads slots"], Float[Tensor, "atoms heads"]]:
        """The attention weights a_ij and log Z_i."""
        logits = _Logits.apply(query, keys, pair_query, pairs.radial)
        weights, total = _BoundedSoftmax.apply(logits, pairs.envelope, self.bound)
        return weights, total.log().squeeze(-1)


def _whose(heads: int, width: int) -> Float[Tensor, "heads width"]:
    """1 where a channel belongs to a head, else 0."""
    return torch.eye(heads).repeat_interleave(width // heads, 1)


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
