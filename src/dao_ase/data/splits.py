"""Which crystals are trained on and which are held back: official splits by id, others by formula."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dao_ase.composition import reduced_key
from dao_ase.data.store import CrystalStore

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def grouped_split(
    store: CrystalStore, fractions: Mapping[str, float] = FRACTIONS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Indices of each part; crystals of one reduced formula are always in the same part.

    The part of a formula depends on the formula and the seed alone, so that a set that grows keeps its split and two sets
    that are split with one seed never leak into each other.
    """
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) < 0:
        raise ValueError(f"the fractions {dict(fractions)} are negative or do not sum to 1")
    numbers = np.split(store.gather("atomic_numbers", np.arange(len(store))), np.cumsum(store.num_atoms)[:-1])
    places = np.array([_uniform(reduced_key(one.tolist()), seed) for one in numbers[: len(store)]])
    ends = np.cumsum(list(fractions.values()))
    ends[-1] = 1.0
    part = np.searchsorted(ends, places, side="right")
    return {name: np.flatnonzero(part == index) for index, name in enumerate(fractions)}


def formula_folds(formulas: Sequence[tuple[tuple[int, int], ...]], folds: int, seed: int = 0) -> np.ndarray:
    """The fold (0 … folds − 1) of each crystal, given the reduced formula of each (`reduced_key`).

    Crystals of one formula are always in the same fold. Formulas go, in an order that only they and the seed decide, to the
    fold that is smallest so far, so that folds are equally large but for one formula.
    """
    sizes = Counter(formulas)
    if not 1 <= folds <= len(sizes):
        raise ValueError(
            f"{len(formulas)} crystals of {len(sizes)} formulas cannot be split into {folds} folds by formula"
        )
    filled = np.zeros(folds, dtype=np.int64)
    fold_of = {}
    for formula in sorted(sizes, key=lambda formula: _uniform(formula, seed)):
        fold_of[formula] = int(filled.argmin())
        filled[fold_of[formula]] += sizes[formula]
    return np.array([fold_of[formula] for formula in formulas], dtype=np.int64)


def official_split(store: CrystalStore, ids: Mapping[str, Iterable[str]]) -> dict[str, np.ndarray]:
    """Indices of each part of a published split, in the order of the store; ids that the store lacks are an error.

    >>> official_split(store, read_ids("mp20_split_ids.json.gz"))                         # doctest: +SKIP
    """
    where = {str(identifier): index for index, identifier in enumerate(store.ids)}
    parts = {}
    for name, wanted in ids.items():
        wanted = list(wanted)
        missing = [identifier for identifier in wanted if identifier not in where]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(wanted)} ids of {name!r} are not in {str(store.path)!r}, "
                f"the first is {missing[0]!r}; take them out of the list if they are meant to be missing"
            )
        parts[name] = np.array(sorted(where[identifier] for identifier in wanted), dtype=np.int64)
    return parts


def read_ids(path: str | Path) -> dict[str, Sequence[str]]:
    """Name of a part → its ids, from a JSON file (also ``.gz``)."""
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        parts = json.load(file)
    if not isinstance(parts, dict) or not all(isinstance(ids, list) for ids in parts.values()):
        raise ValueError(f"{str(path)!r} is not a JSON object of lists of ids")
    return parts


def _uniform(formula: tuple[tuple[int, int], ...], seed: int) -> float:
    """A number in [0, 1) that the formula decides."""
    digest = hashlib.sha256(f"{seed}:{formula}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
