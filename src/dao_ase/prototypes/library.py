"""Known structure types on disk, and those that suit a composition best.

Most inorganic crystals share their structure type with others, and often with one of similar elements: KV₃Sb₅ tells
where the atoms of RbV₃Sb₅ are. How far element a is from b, d(a, b), is what the library itself shows
(`dao_ase.prototypes.build`). A type suits a composition by its members m, each at the distance d_m = Σ_i x_i d(z_i, z_i^m),
where x_i are the shares of the elements, as

    d = −τ log Σ_m exp(−d_m/τ):

the nearest member counts most, and many near ones count too. Among the orders in which equally frequent elements can take
their places each member has its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from dao_ase import checkpoint
from dao_ase.composition import ATOMIC_NUMBERS, Composition
from dao_ase.crystals import Crystals

STEPS = 65_536
"""Coordinates are kept as whole multiples of this part of a lattice vector."""
MOST_ORDERS = 24
"""Orders of equally frequent elements that are tried."""
TEMPERATURE = 0.2
"""τ of the vote of the members, in units of d."""
FURTHEST = 1.0
"""Types that suit a composition worse than the best one by more than this are not offered: noise is right more often."""
PENALTY = (0.0, 0.3, 0.1)
"""What is added to d for members that are stable, not stable, and of which nobody knows (`dao_ase.train.kinds`)."""


@dataclass(frozen=True)
class Prototype:
    """A known structure type with the elements of a composition in its places."""

    crystal: Crystals
    like: str
    """The identifier of the nearest crystal of this type, for example "mp-1234"."""
    distance: float
    """How badly the type suits the composition, against the one that suits it best."""


@dataclass(frozen=True)
class SuitedTypes(Sequence[Prototype]):
    """The types that a composition can take over, those that suit it best first; each is made when it is asked for."""

    library: PrototypeLibrary
    cell: Composition
    members: Int[np.ndarray, "types"]
    """The nearest member of each type."""
    placings: Int[np.ndarray, "types elements"]
    """Which element stands in which of its places."""
    distances: Float[np.ndarray, "types"]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, rank: Any) -> Any:
        if isinstance(rank, slice):
            return [self[one] for one in range(*rank.indices(len(self)))]
        return self.library.placed(self.cell, int(self.members[rank]), self.placings[rank], float(self.distances[rank]))


class PrototypeLibrary:
    """The structure types of a file that ``python -m dao_ase.prototypes.build`` wrote.

    >>> library = PrototypeLibrary.load(checkpoint.default_weights("prototypes"))
    >>> library.suited(Composition.parse("Rb2O"))[0].like
    'mp-...'

    Types are ``lattice`` (unit volume per atom), ``coords`` (in `STEPS`, atoms element after element), ``counts`` of
    atoms of each element (ascending) and ``elements_of_type``, how many elements there are. Members are sorted by
    ``member_type`` and have their ``member_elements`` in the places of the type, ``member_volume`` (Å³ per atom),
    ``member_kind`` and ``member_name``, an identifier. ``distances`` are d(a, b), ``volumes`` what an atom
    of each element takes (Å³).
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.checksum = checkpoint.checksum(tensors)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        self._lattice, self._coords = arrays["lattice"], arrays["coords"]
        self._distances, self._volumes = arrays["distances"], arrays["volumes"]
        self._member_type, self._member_kind = arrays["member_type"], arrays["member_kind"]
        self._member_volume = arrays["member_volume"]
        self._names, self._name_end = arrays["member_name"].tobytes(), arrays["member_name_end"]
        self._elements = arrays["member_elements"].astype(np.int64)
        sizes = arrays["elements_of_type"].astype(np.int64)
        flat, first = arrays["counts"].tolist(), starts(sizes)
        self._counts = [tuple(flat[start : start + size]) for start, size in zip(first, sizes, strict=True)]
        self._first_member = np.searchsorted(self._member_type, np.arange(len(sizes) + 1))
        self._first_element = starts(sizes[self._member_type])
        self._first_atom = starts(np.add.reduceat(arrays["counts"].astype(np.int64), first))
        self._types: dict[tuple[int, ...], list[int]] = {}
        for number, counts in enumerate(self._counts):
            self._types.setdefault(counts, []).append(number)

    @classmethod
    @lru_cache(maxsize=2)
    def load(cls, path: str | Path) -> PrototypeLibrary:
        """Reads a prototype file."""
        tensors, header = checkpoint.load(path)
        if header.get("model") != "prototypes":
            raise checkpoint.CheckpointError(f"{str(path)!r} holds no structure types")
        return cls(tensors)

    def __len__(self) -> int:
        return len(self._counts)

    @lru_cache(maxsize=128)  # noqa: B019 (a library lives as long as the process)
    def suited(self, cell: Composition) -> SuitedTypes:
        """The types with as many atoms of each element as the cell, as far as `FURTHEST`."""
        ordered = sorted(cell.counts, key=lambda pair: pair[1])
        counts = tuple(amount for _, amount in ordered)
        numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol, _ in ordered])
        placings = np.stack([numbers[list(order)] for order in orders(counts)])
        types = self._types.get(counts, [])
        if not types:
            nothing = np.zeros(0, dtype=np.int64)
            return SuitedTypes(self, cell, nothing, placings[:0], nothing.astype(float))
        members = np.concatenate([np.arange(*self._first_member[number : number + 2]) for number in types])
        there = self._elements[self._first_element[members][:, None] + np.arange(len(counts))]
        shares = np.array(counts) / sum(counts)
        each = np.stack([(self._distances[there, placing] * shares).sum(1) for placing in placings])
        placing, distance = each.argmin(0), each.min(0) + np.array(PENALTY)[self._member_kind[members]]
        by_distance = np.argsort(distance, kind="stable")
        found, nearest, type_of = np.unique(
            self._member_type[members][by_distance], return_index=True, return_inverse=True
        )
        votes = np.zeros(len(found))
        np.add.at(votes, type_of, np.exp((distance.min() - distance[by_distance]) / TEMPERATURE))
        suits = -TEMPERATURE * np.log(np.maximum(votes, 1e-300))
        best_first = np.argsort(suits, kind="stable")
        best_first = best_first[suits[best_first] <= suits.min() + FURTHEST]
        chosen = by_distance[nearest[best_first]]
        suits = suits[best_first]
        return SuitedTypes(self, cell, members[chosen], placings[placing[chosen]], suits - suits[0])

    def placed(
        self, cell: Composition, member: int, placing: Int[np.ndarray, "elements"], distance: float
    ) -> Prototype:
        """The type of a member with other elements in its places, in a cell whose volume follows theirs."""
        number = self._member_type[member]
        counts = np.array(self._counts[number])
        there = self._elements[self._first_element[member] :][: len(counts)]
        volume = float(self._member_volume[member]) * counts.sum()
        volume *= (self._volumes[placing] @ counts) / (self._volumes[there] @ counts)
        unit = self._lattice[number].astype(float)
        lattice = unit * (volume / abs(np.linalg.det(unit))) ** (1 / 3)
        numbers = np.repeat(placing, counts)
        order = np.concatenate([np.flatnonzero(numbers == ATOMIC_NUMBERS[symbol]) for symbol, _ in cell.counts])
        coords = self._coords[self._first_atom[number] :][: len(numbers)].astype(float)[order] / STEPS
        crystal = Crystals(
            torch.from_numpy(lattice[None].astype(np.float32)),
            torch.from_numpy(coords.astype(np.float32)),
            torch.from_numpy(numbers[order]),
            torch.from_numpy(np.array([len(order)])),
        )
        name = self._names[self._name_end[member - 1] if member else 0 : self._name_end[member]].decode()
        return Prototype(crystal, name, distance)


def orders(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """The orders of elements that leave their (ascending) numbers of atoms in place, the given one first.

    >>> orders([1, 1, 2])
    [(0, 1, 2), (1, 0, 2)]
    """
    runs = [list(run) for _, run in groupby(range(len(counts)), key=lambda place: counts[place])]
    every = product(*(permutations(run) for run in runs))
    return [tuple(place for part in parts for place in part) for parts in islice(every, MOST_ORDERS)]


def starts(sizes: NDArray) -> NDArray[np.int64]:
    """Where each of consecutive parts begins."""
    return np.cumsum(sizes, dtype=np.int64) - sizes
