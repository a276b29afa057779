"""Crystals with the pairs of neighbours that DAO-P sees in each, found once, and batches of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from dao_ase.crystals import Crystals
from dao_ase.derivatives import pairs_of
from dao_ase.neighbors import Neighbors, Pairs, join
from dao_ase.potential import Potential
from dao_ase.properties.descriptors import ELEMENTS


@dataclass(frozen=True)
class GraphBatch:
    """Some crystals as the trunk takes them, and what of them does not depend on its weights."""

    atomic_numbers: Int[Tensor, "atoms"]
    vectors: Float[Tensor, "atoms slots 3"]
    neighbors: Neighbors
    crystal_index: Int[Tensor, "atoms"]
    num_atoms: Int[Tensor, "crystals"]


class Graphs:
    """Any number of crystals, and their neighbours within the cutoffs of a potential."""

    def __init__(self, crystals: Crystals, pairs: list[Pairs]) -> None:
        self.crystals, self.pairs = crystals, pairs
        self.work = np.array([max(2 * len(found.first), 1) for found in pairs], dtype=np.int64)
        """Neighbour slots of each crystal: what its share of a batch costs."""

    @classmethod
    def find(cls, crystals: Crystals, model: Potential, tick: Callable[[int], object] = lambda done: None) -> Graphs:
        """Finds the neighbours of each crystal; ``tick`` hears of each that is done."""
        crystals = crystals.to("cpu", torch.float64)
        pairs = []
        for crystal in crystals:
            pairs.append(pairs_of(model, crystal))
            tick(1)
        return cls(crystals, pairs)

    def select(self, chosen: NDArray[np.int64]) -> Graphs:
        """Only the chosen crystals, in this order."""
        return Graphs(self.crystals[chosen.tolist()], [self.pairs[index] for index in chosen])

    @property
    def degree(self) -> NDArray[np.float64]:
        """The mean number of neighbours of an atom of each crystal."""
        return self.work / self.crystals.num_atoms.numpy()

    def __len__(self) -> int:
        return len(self.crystals)

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """How many atoms of each element (column: atomic number) each crystal holds."""
        table = np.zeros((len(self), ELEMENTS))
        np.add.at(table, (self.crystals.crystal_index.numpy(), self.crystals.atomic_numbers.numpy()), 1)
        return table

    @cached_property
    def log_volume(self) -> NDArray[np.float64]:
        """The logarithm of the volume per atom (Å³) of each crystal."""
        return np.log(np.abs(self.crystals.volume.numpy()) / self.crystals.num_atoms.numpy())

    def batch(self, chosen: NDArray[np.int64]) -> GraphBatch:
        """The chosen crystals, in this order, with float32 vectors."""
        some = self.crystals[chosen.tolist()]
        pairs = join([self.pairs[index] for index in chosen], some.num_atoms.tolist())
        neighbors = Neighbors.from_pairs(pairs, len(some.frac_coords))
        vectors = neighbors.vectors(some.positions, some.lattice[some.crystal_index]).float()
        return GraphBatch(some.atomic_numbers, vectors, neighbors, some.crystal_index, some.num_atoms)

    def parts(self, chosen: NDArray[np.int64], slots: int) -> list[NDArray[np.int64]]:
        """The chosen crystals in consecutive parts of about ``slots`` neighbours, at least one crystal in each."""
        ends = np.cumsum(self.work[chosen])
        cuts = np.searchsorted(ends, np.arange(slots, ends[-1] if len(ends) else 0, slots), side="right")
        return [part for part in np.split(chosen, np.unique(cuts)) if len(part)]
