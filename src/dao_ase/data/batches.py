"""Shuffled batches of crystals of equal size, so that dense tensors need no padding; resumable to the crystal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dao_ase.crystals import Crystals


@runtime_checkable
class CrystalSource(Protocol):
    """What batches are drawn from; `dao_ase.data.store.CrystalStore` is one."""

    num_atoms: np.ndarray

    def batch(self, indices: np.ndarray) -> Crystals:
        """The crystals with these indices."""


class BucketedBatches:
    """An endless iterator of batches in which every crystal has the same number of atoms.

    Each number of atoms is a stream of its own that passes through its crystals in a fresh random order, again and again.
    A batch takes the next crystals of one stream; streams are chosen at random such that every crystal is equally likely to
    come next, or, with ``size_bias`` s, such that crystals of N atoms come with a weight N^−s: large cells cost much and are
    less of what is asked for. A batch holds ``crystals`` crystals, fewer where their ordered pairs of atoms would exceed
    ``pairs``.
    """

    def __init__(
        self,
        source: CrystalSource,
        *,
        crystals: int = 128,
        pairs: int = 51_200,
        max_atoms: int | None = None,
        size_bias: float = 0.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        if min(crystals, pairs) < 1:
            raise ValueError(f"batches of {crystals} crystals and {pairs} pairs of atoms; give at least 1 of both")
        self._source, self._seed = source, seed
        num_atoms = np.asarray(source.num_atoms)
        sizes = [int(n) for n in np.unique(num_atoms) if max_atoms is None or n <= max_atoms]
        if not sizes:
            raise ValueError(f"no crystal with at most {max_atoms} atoms to train on")
        self._members = {n: np.flatnonzero(num_atoms == n) for n in sizes}
        self._size = {n: max(1, min(crystals, pairs // n**2, len(self._members[n]))) for n in sizes}
        share = np.array([len(self._members[n]) / self._size[n] * n**-size_bias for n in sizes])
        self._sizes, self._share = sizes, share / share.sum()
        self._cursor = dict.fromkeys(sizes, 0)
        self._order: dict[int, tuple[int, np.ndarray]] = {}
        self._rank = rank
        self._rng = np.random.Generator(np.random.PCG64([seed, 0]))  # all ranks take cells of one size at the same time

    @property
    def num_crystals(self) -> int:
        """How many crystals one pass holds."""
        return sum(len(members) for members in self._members.values())

    def __iter__(self) -> BucketedBatches:
        return self

    def __next__(self) -> Crystals:
        return self._source.batch(self.next_indices())

    def next_indices(self) -> np.ndarray:
        """Indices of the crystals of the next batch."""
        size = self._sizes[int(self._rng.choice(len(self._sizes), p=self._share))]
        members, cursor = self._members[size], self._cursor[size]
        places = np.arange(cursor, cursor + self._size[size])
        self._cursor[size] = cursor + len(places)
        epochs = places // len(members)
        first = self._permutation(size, int(epochs[0]))[places[epochs == epochs[0]] % len(members)]
        if epochs[-1] == epochs[0]:
            return members[first]
        second = self._permutation(size, int(epochs[-1]))[places[epochs == epochs[-1]] % len(members)]
        return members[np.concatenate([first, second])]

    def _permutation(self, size: int, epoch: int) -> np.ndarray:
        if self._order.get(size, (-1, None))[0] != epoch:
            shuffle = np.random.Generator(np.random.PCG64([self._seed, self._rank, size, epoch]))
            self._order[size] = (epoch, shuffle.permutation(len(self._members[size])))
        return self._order[size][1]

    def state_dict(self) -> dict:
        """Where the iterator stands, as JSON-able values."""
        return {"cursor": {str(n): place for n, place in self._cursor.items()}, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict) -> None:
        """Continues where `state_dict` was taken."""
        self._cursor = {n: state["cursor"].get(str(n), 0) for n in self._sizes}  # the crystals may be others now
        self._rng.bit_generator.state = state["rng"]


@dataclass(frozen=True)
class LabelledBatch:
    """Crystals of equal size and one label of each."""

    crystals: Crystals
    label: Shaped[Tensor, "crystals"]

    def __len__(self) -> int:
        return len(self.crystals)

    def to(self, device: torch.device) -> LabelledBatch:
        """The same batch on another device."""
        return LabelledBatch(self.crystals.to(device), self.label.to(device))


class LabelledBatches:
    """Bucketed batches of some ``chosen`` crystals of a source (by default all), each with its label."""

    def __init__(
        self, source: CrystalSource, labels: np.ndarray, chosen: np.ndarray | None = None, **settings: Any
    ) -> None:
        self._source, self._labels = source, torch.from_numpy(labels)
        self._chosen = np.arange(len(labels)) if chosen is None else chosen
        self.num_atoms = np.asarray(source.num_atoms)[self._chosen]
        self._batches = BucketedBatches(self, **settings)

    def batch(self, indices: np.ndarray) -> Crystals:
        """The crystals at these places of what was chosen."""
        return self._source.batch(self._chosen[indices])

    def __iter__(self) -> Iterator[LabelledBatch]:
        return self

    def __next__(self) -> LabelledBatch:
        indices = self._batches.next_indices()
        return LabelledBatch(self.batch(indices), self._labels[torch.from_numpy(self._chosen[indices])])

    def state_dict(self) -> dict:
        """Where the iterator stands."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Continues where `state_dict` was taken."""
        self._batches.load_state_dict(state)
