"""How an atom sees a neighbour: distance in units of the cutoff, waves of it, and moments of its direction.

Every function of the geometry has its derivative here in closed form, in operations that can be differentiated again, for
training does. Autograd would find the same derivatives with three times as many operations.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations_with_replacement
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

BLIND, BLURRED = 0.35, 0.65
"""In units of the sum of covalent radii: bonds end far above, what is learnt of closer pairs is not to be trusted."""


class _Polar(torch.autograd.Function):
    """x = |r|/r_c and r̂. With g, ĝ the derivatives by them, that by r is (ĝ + r̂ (g x − ĝ·r̂)) / |r|."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, present: Tensor, cutoff: Tensor) -> tuple[Tensor, Tensor]:
        squared = vectors.square().sum(-1) / cutoff.square()
        x = torch.where(present, squared, 1.0).sqrt()
        direction = vectors / (x * cutoff).unsqueeze(-1)
        ctx.save_for_backward(x, direction, cutoff)
        return x, direction

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (by_x, by_direction), (x, direction, cutoff) = gradients, ctx.saved_tensors
        along = (by_x * x).unsqueeze(-1) - (by_direction * direction).sum(-1, keepdim=True)
        return torch.addcmul(by_direction, direction, along) / (x * cutoff).unsqueeze(-1), None, None


def polar(
    vectors: Float[Tensor, "atoms slots 3"], present: Bool[Tensor, "atoms slots"], cutoff: Float[Tensor, "atoms slots"]
) -> tuple[Float[Tensor, "atoms slots"], Float[Tensor, "atoms slots 3"]]:
    """Distances in units of the cutoff, and unit vectors. An empty slot stands at the cutoff, where everything is zero."""
    return _Polar.apply(vectors, present, cutoff)


class _Envelope(torch.autograd.Function):
    """u(x), and u'(x) = −168 x⁵ (1 − x)²."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        inside = x.clamp(max=1.0)
        sixth = (inside * inside * inside).square()
        return 1 - sixth * (28 - inside * (48 - 21 * inside))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * envelope_slope(*ctx.saved_tensors)


def envelope(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """u(x) = 1 − 28x⁶ + 48x⁷ − 21x⁸ for x < 1, else 0: one at zero, and zero with two derivatives at the cutoff x = 1."""
    return _Envelope.apply(x)


def envelope_slope(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The derivative of `envelope`."""
    inside = x.clamp(max=1.0)
    left = inside * (1 - inside)
    return -168 * left * left * (inside * inside * inside)


class _Core(torch.autograd.Function):
    """max(x, c(b − (b − a)(½ − G(t)))) with t = (x/c − a)/(b − a) in [0, 1], G = 5t⁴/2 − 3t⁵ + t⁶; its slope is G'(t)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, contact: Tensor) -> Tensor:
        ctx.save_for_backward(x, contact)
        t = _part_of_core(x, contact)
        flattened = 0.5 - (t * t).square() * (2.5 - t * (3 - t))
        return torch.maximum(x, contact * (BLURRED - (BLURRED - BLIND) * flattened))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        t = _part_of_core(*ctx.saved_tensors)
        return gradients[0] * (t * t * t * (10 - t * (15 - 6 * t))), None


def _part_of_core(x: Tensor, contact: Tensor) -> Tensor:
    return ((x / contact - BLIND) / (BLURRED - BLIND)).clamp(0, 1)


def blind_core(x: Float[Tensor, "*shape"], contact: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The distance as a network sees it that must not outweigh the repulsion of nuclei: from 0.65 of the contact down it
    changes less and less, and not at all below 0.35, with two continuous derivatives."""
    return _Core.apply(x, contact)


class _Waves(torch.autograd.Function):
    """w_k(x) = √2 sin(kπx) u(x)/x and u(x); w_k' = √2/x (kπ u cos(kπx) + (u' − u/x) sin(kπx))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frequency: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, frequency)
        u = envelope(x)
        return torch.sin(x.unsqueeze(-1) * frequency) * (math.sqrt(2) / x * u).unsqueeze(-1), u

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (by_waves, by_u), (x, frequency) = gradients, ctx.saved_tensors
        u, slope, angle = envelope(x), envelope_slope(x), x.unsqueeze(-1) * frequency
        sine, cosine = (by_waves * angle.sin()).sum(-1), (by_waves * angle.cos()) @ frequency
        return by_u * slope + math.sqrt(2) / x * (u * cosine + (slope - u / x) * sine), None


def waves(x: Float[Tensor, "*shape"], count: int) -> tuple[Float[Tensor, "*shape {count}"], Float[Tensor, "*shape"]]:
    """√2 sin(kπx)/x for k = 1 … count, the waves of a unit sphere (DimeNet's basis), under the envelope; and this."""
    return _Waves.apply(x, math.pi * torch.arange(1, count + 1, device=x.device, dtype=x.dtype))


class _Moments(torch.autograd.Function):
    """m_c = Π_k (1, r̂)·f_kc; ∂m_c/∂r̂_a is a number times the moment of one rank less, which `raising` finds."""

    @staticmethod
    def forward(ctx: Any, direction: Tensor, factors: Tensor, raising: Tensor) -> Tensor:
        one = torch.cat([torch.ones(len(direction), 1, dtype=direction.dtype, device=direction.device), direction], -1)
        moments = one @ factors[0]
        for factor in factors[1:]:
            moments = moments * (one @ factor)
        ctx.save_for_backward(moments, raising)
        return moments

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        moments, raising = ctx.saved_tensors
        lower = moments[:, : raising.shape[1] // 3]
        raised = (gradients[0] @ raising).unflatten(-1, (3, -1))
        return torch.bmm(raised, lower.unsqueeze(-1)).squeeze(-1), None, None


class DirectionMoments(nn.Module):
    """The distinct components of 1, r̂, r̂⊗r̂, … up to a rank, weighted so that ⟨r̂ⁿ, ŝⁿ⟩ = (r̂·ŝ)ⁿ as a plain dot product.

    A component is a monomial of r̂, times the root of the number of orders in which its axes can stand. As many axes as the
    rank are multiplied, of which those that are too many are 1.
    """

    factors: Tensor
    raising: Tensor
    """Squares of what `_Moments` multiplies by: whole numbers, which are exact in every floating point type."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        levels = [list(combinations_with_replacement((1, 2, 3), n)) for n in range(rank + 1)]
        self.sizes = [len(level) for level in levels]
        monomials = [monomial for level in levels for monomial in level]
        place = {monomial: column for column, monomial in enumerate(monomials)}
        orders = [_orders(monomial) for monomial in monomials]
        factors = torch.zeros(max(rank, 1), 4, len(monomials))
        lower = len(monomials) - self.sizes[-1]
        raising = torch.zeros(len(monomials), 3, lower)
        for column, monomial in enumerate(monomials):
            for number, axis in enumerate((*monomial, *[0] * (len(factors) - len(monomial)))):
                factors[number, axis, column] = orders[column] if number == 0 else 1.0
            for axis in set(monomial):
                number = monomial.index(axis)
                less = place[monomial[:number] + monomial[number + 1 :]]
                raising[column, axis - 1, less] = monomial.count(axis) ** 2 * orders[column] / orders[less]
        self.register_buffer("factors", factors, persistent=False)
        self.register_buffer("raising", raising.flatten(1), persistent=False)

    def forward(self, direction: Float[Tensor, "count 3"]) -> Float[Tensor, "count components"]:
        return _Moments.apply(direction, self.factors.sqrt(), self.raising.sqrt())


def _orders(monomial: tuple[int, ...]) -> int:
    """In how many orders the axes of a monomial can stand."""
    orders = math.factorial(len(monomial))
    for repeats in Counter(monomial).values():
        orders //= math.factorial(repeats)
    return orders
