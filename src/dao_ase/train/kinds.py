"""Kinds of crystals that DAO-G is told apart: what is stable, what is not, and what nobody knows about.

A composition has more structures in the pool than a user asks for; told which kind a crystal is, the network learns from all
of them and is still asked for the stable one, which is kind 0 and what it makes when nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dao_ase.crystals import Crystals
from dao_ase.data.batches import BucketedBatches
from dao_ase.data.store import CrystalStore

STABLE, UNSTABLE, UNKNOWN = 0, 1, 2
STABLE_WITHIN = 0.08
"""eV/atom above the hull; MP-20 consists of what lies below."""


@dataclass(frozen=True)
class KindBatch:
    """Crystals of equal size and the kind of each."""

    crystals: Crystals
    kind: Int[Tensor, "crystals"]

    def __len__(self) -> int:
        return len(self.crystals)

    def to(self, device: torch.device) -> KindBatch:
        """The same batch on another device."""
        return KindBatch(self.crystals.to(device), self.kind.to(device))


class KindBatches:
    """Bucketed batches, each crystal with its kind."""

    def __init__(self, store: CrystalStore, **settings: Any) -> None:
        self._store, self._kinds = store, torch.from_numpy(kinds_of(store))
        self._batches = BucketedBatches(store, **settings)

    def __iter__(self) -> Iterator[KindBatch]:
        return self

    def __next__(self) -> KindBatch:
        indices = self._batches.next_indices()
        return KindBatch(self._store.batch(indices), self._kinds[torch.from_numpy(indices)])

    def state_dict(self) -> dict:
        """Where the iterator stands."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Continues where `state_dict` was taken."""
        self._batches.load_state_dict(state)


def kinds_of(store: CrystalStore) -> np.ndarray:
    """The kind of each crystal by its energy above the hull; the crystals of MP-20 are stable by that set's definition."""
    energies = store.labels["e_above_hull"] if "e_above_hull" in store.labels else np.full(len(store), np.nan)
    kinds = np.where(np.isfinite(energies), np.where(energies <= STABLE_WITHIN, STABLE, UNSTABLE), UNKNOWN)
    of_mp20 = np.char.startswith(store.texts("source"), "mp20_")
    return np.where(of_mp20, STABLE, kinds).astype(np.int64)
