"""How likely a composition is to take over the structure type of another crystal, with which elements in which places.

Of a member m of a type, whose elements b_i stand in places with the shares x_i, and elements a_i that are to replace them,

    s = −(Σ_i x_i d(a_i, b_i) + penalty of m's kind) / τ + f(Σ_i x_i silu(P(a_i, b_i) + u x_i + Σ_k x_k c(a_k))),

and the exponentials of s, normalised over all members and all orders of the elements, are probabilities. As it is made, f is
zero and d what a library's types show (`dao_ase.prototypes.build`): the nearest member counts most, and many near ones count
too. `dao_ase.prototypes.learn` fits the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import silu

TEMPERATURE = 0.2
"""τ before anything is learnt, in units of d."""
PENALTY = (0.0, 0.3, 0.1)
"""What is added to d for members that are stable, not stable, and of which nobody knows (`dao_ase.train.kinds`)."""
IMPOSSIBLE = -1e9
"""The score of a row that holds no member."""


class Suitability(nn.Module):
    """Scores of members in the places of which other elements are put."""

    def __init__(self, distances: Float[Tensor, "elements elements"], embedding: int = 24, width: int = 64) -> None:
        super().__init__()
        elements = len(distances)
        self.distances = nn.Parameter(distances.float().clone())
        self.sharpness = nn.Parameter(torch.tensor(1 / TEMPERATURE))
        self.penalty = nn.Parameter(torch.tensor(PENALTY))
        self.element = nn.Embedding(elements, embedding)
        self.context = nn.Embedding(elements, width)
        self.pair = nn.Linear(3 * embedding, width)
        self.share = nn.Linear(1, width, bias=False)
        self.correction = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        nn.init.normal_(self.element.weight, std=0.5)
        nn.init.normal_(self.context.weight, std=0.3)
        for last in self.correction[-1].parameters():
            nn.init.zeros_(last)

    def forward(
        self,
        shares: Float[Tensor, "cells places"],
        placed: Integer[Tensor, "cells members places"],
        there: Integer[Tensor, "cells members places"],
        kind: Integer[Tensor, "cells members"],
    ) -> Float[Tensor, "cells members"]:
        """Scores of the members, whose exponentials are odds.

        ``placed`` are the atomic numbers that replace those that are ``there``, zero where a cell has fewer elements, and in
        the rows that hold no member.
        """
        alike, spread = self._pairs()
        pairs = placed.long() * len(self.distances) + there.long()
        context = self.described(shares, placed)
        each = silu(spread[pairs] + self.share(shares[:, None, :, None]) + context[:, None, None])
        corrected = self.correction(torch.einsum("cmpw,cp->cmw", each, shares))[..., 0]
        apart = (alike[pairs] * shares[:, None]).sum(-1) + self.penalty[kind.long()]
        return (corrected - self.sharpness * apart).masked_fill(there[..., 0] == 0, IMPOSSIBLE)

    def described(
        self, shares: Float[Tensor, "cells places"], placed: Integer[Tensor, "cells members places"]
    ) -> Float[Tensor, "cells width"]:
        """What the network knows of a composition as a whole, Σ_k x_k c(a_k)."""
        return (self.context(placed[:, 0].long()) * shares[..., None]).sum(1)

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """d of each pair of elements, and what the network sees of it, in rows a · elements + b."""
        elements = len(self.distances)
        d = ((self.distances + self.distances.T) / 2).fill_diagonal_(0)
        a, b = (self.element.weight.unsqueeze(dim).expand(elements, elements, -1) for dim in (1, 0))
        return d.flatten(), self.pair(torch.cat([a * b, (a - b).abs(), a + b], -1)).flatten(0, 1)
