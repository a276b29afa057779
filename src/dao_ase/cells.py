"""Which cells are sampled for a composition: what a generator has learnt to make, and how samples are shared out."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dao_ase.composition import Composition

SEED_STRIDE = 1_000_003
"""Distance between the noise seeds of two values of ``seed``; the samples in between take consecutive ones."""
MAX_SEED = 2**40
"""Larger seeds would not fit into the 64 bits of torch's."""


@dataclass(frozen=True)
class CellRules:
    """What may be sampled: ``elements``, at most ``max_atoms`` in a cell; ``formula_units`` is the table of the training
    crystals, from the kind of a formula ("1-3-5" for CsV3Sb5, or "any") to how often it has how many formula units."""

    elements: Sequence[str]
    max_atoms: int
    formula_units: Mapping[str, Mapping[str, int]]

    def cells(
        self, composition: Any, n: int, formula_units: int | Sequence[int] | str = 1, max_atoms: int | None = None
    ) -> list[Composition]:
        """The content of the ``n`` cells that will be sampled for a composition; refuses what cannot be sampled."""
        n = structure_count("n", n)
        parsed = Composition.parse(composition)
        unknown = [symbol for symbol, _ in parsed.counts if symbol not in self.elements]
        if unknown:
            raise ValueError(
                f"{parsed.formula!r} contains {', '.join(unknown)}, which DAO-G has not seen in training; "
                f"the {len(self.elements)} trained elements are {' '.join(self.elements)}"
            )
        largest = self.max_atoms if max_atoms is None else whole_number("max_atoms", max_atoms)
        check_units(formula_units)
        if isinstance(formula_units, str):
            parsed = parsed.reduced
            units = self._usual_formula_units(parsed, largest)
        else:
            units = {whole_number("formula_units", z): 1.0 for z in np.atleast_1d(formula_units).tolist()}
        for z in units:
            if parsed.num_atoms * z > largest:
                raise ValueError(
                    f"{(parsed * z).formula} has {parsed.num_atoms * z} atoms in the cell; at most {largest} are allowed"
                    + ("" if max_atoms is not None else " (what DAO-G was trained on; max_atoms= lifts the limit)")
                )
        return [cell for z, count in share_out(units, n).items() for cell in [parsed * z] * count]

    def _usual_formula_units(self, reduced: Composition, largest: int) -> dict[int, float]:
        """Formula units and their weights among training crystals of this kind of formula, in cells that are allowed."""
        kind = "-".join(str(count) for count in sorted(count for _, count in reduced.counts))
        for row in (self.formula_units.get(kind, {}), self.formula_units.get("any", {})):
            fitting = {int(z): float(w) for z, w in row.items() if int(z) * reduced.num_atoms <= largest}
            if fitting:
                return fitting
        return {1: 1.0}


def check_units(formula_units: int | Sequence[int] | str) -> None:
    """Refuses numbers of formula units that are none, for any composition."""
    if isinstance(formula_units, str):
        if formula_units != "auto":
            raise ValueError(f"formula_units is {formula_units!r}; give a number, a list of numbers, or 'auto'")
        return
    units = [whole_number("formula_units", z) for z in np.atleast_1d(formula_units).tolist()]
    if not units:
        raise ValueError("the list of formula_units is empty; give a number, a list of numbers, or 'auto'")
    if min(units) < 1:
        raise ValueError(f"formula_units contains {min(units)}; it must be at least 1")


def seed_of(seed: int) -> int:
    """The seed of the noise of the first structure that a user's seed stands for."""
    if abs(whole_number("seed", seed)) > MAX_SEED:
        raise ValueError(f"seed is {seed}; it must lie within ±{MAX_SEED}")
    return whole_number("seed", seed) * SEED_STRIDE


def structure_count(name: str, value: int) -> int:
    """A number of structures of one composition that a seed can make."""
    if whole_number(name, value) < 1:
        raise ValueError(f"{name} is {value}; ask for at least one structure")
    if value > SEED_STRIDE:
        raise ValueError(f"{name} is {value}; a seed is good for {SEED_STRIDE} structures, take several seeds for more")
    return whole_number(name, value)


def whole_number(name: str, value: Any) -> int:
    """The value as an integer; what is none is refused by its name."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; it must be a whole number") from None


def share_out(weights: dict[int, float], n: int) -> dict[int, int]:
    """Splits n among weights by largest remainders, so that the counts are whole and sum to n.

    >>> share_out({1: 3.0, 2: 1.0}, 6)
    {1: 5, 2: 1}
    """
    total = sum(weights.values())
    exact = {z: n * weight / total for z, weight in weights.items()}
    counts = {z: int(share) for z, share in exact.items()}
    by_remainder = sorted(exact, key=lambda z: exact[z] - counts[z], reverse=True)
    for z in by_remainder[: n - sum(counts.values())]:
        counts[z] += 1
    return {z: counts[z] for z in sorted(counts) if counts[z]}
