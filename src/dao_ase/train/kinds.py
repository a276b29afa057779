"""Kinds of crystals that DAO-G is told apart: what is stable, what is not, and what nobody knows about.

A composition has more structures in the pool than a user asks for; told which kind a crystal is, the network learns from all
of them and is still asked for the stable one, which is kind 0 and what it makes when nothing is said.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dao_ase.data.batches import LabelledBatches
from dao_ase.data.store import CrystalStore

STABLE, UNSTABLE, UNKNOWN = 0, 1, 2
STABLE_WITHIN = 0.08
"""eV/atom above the hull; MP-20 consists of what lies below."""


def kind_batches(store: CrystalStore, **settings: Any) -> LabelledBatches:
    """Bucketed batches of all crystals, each with its kind."""
    return LabelledBatches(store, kinds_of(store), **settings)


def kinds_of(store: CrystalStore) -> np.ndarray:
    """The kind of each crystal by its energy above the hull; the crystals of MP-20 are stable by that set's definition."""
    energies = store.labels["e_above_hull"] if "e_above_hull" in store.labels else np.full(len(store), np.nan)
    kinds = np.where(np.isfinite(energies), np.where(energies <= STABLE_WITHIN, STABLE, UNSTABLE), UNKNOWN)
    of_mp20 = np.char.startswith(store.texts("source"), "mp20_")
    return np.where(of_mp20, STABLE, kinds).astype(np.int64)
