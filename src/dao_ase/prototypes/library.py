"""Known structure types on disk, and those that suit a composition best.

Most inorganic crystals share their structure type with others, and often with one of similar elements: KV₃Sb₅ tells
where the atoms of RbV₃Sb₅ are. How likely each type is for a composition, its members say
(`dao_ase.prototypes.suitability`): the probability of a type is the sum over its members and over the orders in which
equally frequent elements can take their places.
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
from jaxtyping import Float, Int, Integer
from numpy.typing import NDArray

from dao_ase import checkpoint
from dao_ase.composition import ATOMIC_NUMBERS, Composition
from dao_ase.crystals import Crystals
from dao_ase.prototypes.suitability import PENALTY, Suitability

STEPS = 65_536
"""Coordinates are kept as whole multiples of this part of a lattice vector."""
LEARNT = "suitability."
"""What the names of the weights of `Suitability` begin with."""
MOST_ORDERS = 24
"""Orders of equally frequent elements that are tried."""
NEAREST = 128
"""Members, each with the elements in one order, that are weighed: the nearest by the elements' distances."""
UNLIKELY = 5.0
"""Types whose probability is smaller than the best one's by more than this power of e are not offered."""


@dataclass(frozen=True)
class Prototype:
    """A known structure type with the elements of a composition in its places."""

    crystal: Crystals
    like: str
    """The identifier of the nearest crystal of this type, for example "mp-1234"."""
    surprise: float
    """The logarithm of how much likelier the likeliest type is; 0 for that type."""


@dataclass(frozen=True)
class Nearest:
    """The members nearest to the content of a cell, each with the cell's elements in its places in one order."""

    counts: tuple[int, ...]
    """Atoms of each element, ascending: the places of the members."""
    members: Int[np.ndarray, " nearest"]
    placed: Integer[np.ndarray, "nearest places"]
    """Which element of the cell comes into which place."""
    there: Integer[np.ndarray, "nearest places"]
    """Which element stands there in the member."""
    kind: Integer[np.ndarray, " nearest"]


@dataclass(frozen=True)
class SuitedTypes(Sequence[Prototype]):
    """The types that a composition can take over, the likeliest first; each is made when it is asked for."""

    library: PrototypeLibrary
    cell: Composition
    members: Int[np.ndarray, "types"]
    """The member of each type from which the composition takes it over best."""
    placings: Int[np.ndarray, "types elements"]
    """Which element stands in which of its places."""
    surprises: Float[np.ndarray, "types"]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, rank: Any) -> Any:
        if isinstance(rank, slice):
            return [self[one] for one in range(*rank.indices(len(self)))]
        return self.library.placed(self.cell, int(self.members[rank]), self.placings[rank], float(self.surprises[rank]))


class PrototypeLibrary:
    """The structure types of a file that ``python -m dao_ase.prototypes.build`` wrote.

    >>> library = PrototypeLibrary.load(checkpoint.default_weights("prototypes"))
    >>> library.suited(Composition.parse("Rb2O"))[0].like
    'mp-...'

    Types are ``lattice`` (unit volume per atom), ``coords`` (in `STEPS`, atoms element after element), ``counts`` of
    atoms of each element (ascending) and ``elements_of_type``, how many elements there are. Members are sorted by
    ``member_type`` and have their ``member_elements`` in the places of the type, ``member_volume`` (Å³ per atom),
    ``member_kind`` and ``member_name``, an identifier. ``distances`` are d(a, b), ``volumes`` what an atom
    of each element takes (Å³), and ``suitability.*``, where it was learnt, the weights of `Suitability`.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.checksum = checkpoint.checksum(tensors)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # a caller's seed, device and type stay theirs
            self.suitability = Suitability(tensors["distances"]).float().requires_grad_(False)
        if learnt := {name[len(LEARNT) :]: one for name, one in tensors.items() if name.startswith(LEARNT)}:
            self.suitability.load_state_dict(learnt)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(LEARNT)}
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
        try:
            return cls(tensors)
        except (IndexError, KeyError, RuntimeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{str(path)!r} holds structure types that do not fit together: {error}"
            ) from error

    def __len__(self) -> int:
        return len(self._counts)

    @lru_cache(maxsize=128)  # noqa: B019 (a library lives as long as the process)
    def suited(self, cell: Composition) -> SuitedTypes:
        """The types with as many atoms of each element as the cell, unless they are `UNLIKELY`."""
        near = self.nearest(cell)
        if not len(near.members):
            return SuitedTypes(self, cell, near.members, near.placed, near.members.astype(float))
        scores = self.suitability(*near_tensors([near])).double().numpy()[0]
        types, type_of = np.unique(self._member_type[near.members], return_inverse=True)
        logs = np.full(len(types), -np.inf)
        np.logaddexp.at(logs, type_of, scores)
        by_score = np.argsort(-scores, kind="stable")
        first = by_score[np.unique(type_of[by_score], return_index=True)[1]]
        best_first = np.argsort(-logs, kind="stable")
        best_first = best_first[logs[best_first] >= logs.max() - UNLIKELY]
        chosen = first[best_first]
        return SuitedTypes(self, cell, near.members[chosen], near.placed[chosen], logs.max() - logs[best_first])

    def nearest(self, cell: Composition, without: int | None = None) -> Nearest:
        """The `NEAREST` members by the distances of the elements, not regarding the member of the number ``without``."""
        ordered = sorted(cell.counts, key=lambda pair: pair[1])
        counts = tuple(amount for _, amount in ordered)
        numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol, _ in ordered])
        placings = np.stack([numbers[list(order)] for order in orders(counts)])
        spans = [np.arange(*self._first_member[number : number + 2]) for number in self._types.get(counts, [])]
        members = np.concatenate([np.zeros(0, np.int64), *spans])
        members = members[members != without]
        there = self._elements[self._first_element[members][:, None] + np.arange(len(counts))]
        shares = np.array(counts) / sum(counts)
        each = np.stack([(self._distances[there, placing] * shares).sum(1) for placing in placings], 1)
        each = each + np.array(PENALTY)[self._member_kind[members]][:, None]
        member, placing = np.unravel_index(np.argsort(each.ravel(), kind="stable")[:NEAREST], each.shape)
        return Nearest(counts, members[member], placings[placing], there[member], self._member_kind[members[member]])

    def members(self, without_kind: int | None = None) -> Int[np.ndarray, "members"]:
        """The numbers of all members, or of those that are not of this kind (`dao_ase.train.kinds`)."""
        return (
            np.flatnonzero(self._member_kind != without_kind)
            if without_kind is not None
            else np.arange(len(self._member_kind))
        )

    def type_of(self, members: Any) -> Any:
        """The number of the type of one or several members."""
        return self._member_type[members]

    def content(self, member: int) -> Composition:
        """What is in the cell of a member, its elements in an order that says nothing of their places."""
        counts = self._counts[self._member_type[member]]
        there = self._elements[self._first_element[member] :][: len(counts)]
        return Composition.from_atomic_numbers(np.sort(np.repeat(there, counts)))

    def placed(
        self, cell: Composition, member: int, placing: Int[np.ndarray, "elements"], surprise: float
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
        return Prototype(crystal, name, surprise)


def near_tensors(near: Sequence[Nearest]) -> tuple[torch.Tensor, ...]:
    """What `Suitability` asks for: shares of the places, elements that replace, elements that are there, and kinds."""
    places, rows = max(len(one.counts) for one in near), max(len(one.members) for one in near)
    shares = np.zeros((len(near), places), np.float32)
    placed, there = np.zeros((2, len(near), rows, places), np.uint8)
    kind = np.zeros((len(near), rows), np.uint8)
    for cell, one in enumerate(near):
        shares[cell, : len(one.counts)] = np.array(one.counts) / sum(one.counts)
        placed[cell, : len(one.members), : len(one.counts)] = one.placed
        there[cell, : len(one.members), : len(one.counts)] = one.there
        kind[cell, : len(one.members)] = one.kind
    return tuple(map(torch.from_numpy, (shares, placed, there, kind)))


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
