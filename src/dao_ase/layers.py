"""The building blocks of Crysformer: pair attention with its pair algebra absorbed, gated addition, conditioning.

An attention block sees atoms h and, for every ordered pair of atoms, a feature e_ij; where the pairs come from is not its
business. Tensors are dense: ``[crystals, atoms, features]`` and ``[crystals, atoms, atoms, features]``.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def sinusoid(values: Float[Tensor, "crystals"], features: int, scale: float = 1000.0) -> Float[Tensor, "crystals _"]:
    """Sine and cosine of ``scale · values`` at geometrically spaced frequencies from 1 to 1/1000."""
    half = features // 2
    ramp = torch.arange(half, device=values.device, dtype=values.dtype) / max(half - 1, 1)
    angles = scale * values.unsqueeze(-1) * torch.exp(-math.log(1000.0) * ramp)
    return torch.cat([angles.sin(), angles.cos()], -1)


class PairAttention(nn.Module):
    """Attention over all atoms of the cell, with one projection W_e of the pair feature shared by keys and values.

        k_ij = W_k h_j + W_e e_ij,   v_ij = W_v h_j + W_e e_ij,   o_i = Σ_j softmax_j(q_i·k_ij/√c) v_ij

    W_e is never applied to a pair. It is absorbed into the query and into the output, which is exact because both
    are linear in e (c is the width of a head, p that of the pair feature; cost N²(c + p) instead of N²cp a head):

        q_i·k_ij = q_i·W_k h_j + (W_eᵀ q_i)·e_ij,   o_i = Σ_j a_ij W_v h_j + W_e Σ_j a_ij e_ij
    """

    def __init__(self, width: int, heads: int, pair_width: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of the {heads} heads")
        self.heads, self.head_width = heads, width // heads
        self.atom = nn.Linear(width, 3 * width)
        self.pair = nn.Linear(pair_width, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        atoms: Float[Tensor, "crystals atoms width"],
        pairs: Float[Tensor, "crystals atoms atoms pair_width"],
        mask: Bool[Tensor, "crystals atoms"] | None = None,
    ) -> Float[Tensor, "crystals atoms width"]:
        crystals, count, width = atoms.shape
        qkv = self.atom(atoms).view(crystals, count, 3, self.heads, self.head_width)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))  # [crystals, heads, atoms, head_width]
        absorb = self.pair.weight.view(self.heads, self.head_width, -1).to(query.dtype)
        query = query * self.head_width**-0.5
        pair_query = torch.einsum("bhic,hcp->bihp", query, absorb)
        logits = query @ key.transpose(-1, -2) + (pair_query @ pairs.transpose(-1, -2)).transpose(1, 2)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
        weights = logits.softmax(-1).to(value.dtype)
        pooled = weights.transpose(1, 2) @ pairs  # [crystals, atoms, heads, pair_width]
        mixed = weights @ value + torch.einsum("bihp,hcp->bhic", pooled, absorb)
        return self.out(mixed.transpose(1, 2).reshape(crystals, count, width))


class FeedForward(nn.Sequential):
    """Two linear maps around a GELU, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


class GatedAddition(nn.Module):
    """The paper's residual: g = σ(w·[x, y, x − y]), out = g x + (1 − g) y."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(3 * width, 1)

    def forward(self, old: Float[Tensor, "*shape width"], new: Float[Tensor, "*shape width"]) -> Tensor:
        gate = self.gate(torch.cat([old, new, old - new], -1)).sigmoid()
        return gate * old + (1 - gate) * new


class GatedBlock(nn.Module):
    """The paper's layer: pre-LayerNorm attention and feed-forward, each joined by a gated addition; no condition."""

    def __init__(self, width: int, heads: int, pair_width: int) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed_forward = PairAttention(width, heads, pair_width), FeedForward(width)
        self.join_attention, self.join_feed_forward = GatedAddition(width), GatedAddition(width)

    def forward(self, atoms: Tensor, pairs: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        atoms = self.join_attention(atoms, self.attention(self.attention_norm(atoms), pairs, mask))
        return self.join_feed_forward(atoms, self.feed_forward(self.feed_forward_norm(atoms)))


class AdaptiveBlock(nn.Module):
    """A layer whose LayerNorms are scaled, shifted and gated by the condition (AdaLN-zero: starts as the identity)."""

    def __init__(self, width: int, heads: int, pair_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention, self.feed_forward = PairAttention(width, heads, pair_width), FeedForward(width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, atoms: Tensor, pairs: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, -1)
        atoms = atoms + gate1 * self.attention(self.norm(atoms) * (1 + scale1) + shift1, pairs, mask)
        return atoms + gate2 * self.feed_forward(self.norm(atoms) * (1 + scale2) + shift2)
