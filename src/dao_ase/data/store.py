"""A folder of shards as one sequence of crystals, from which batches are gathered without touching the rest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dao_ase.crystals import Crystals
from dao_ase.data.shards import ShardError, decode_texts, encode_texts, gather_atoms, open_shard

INDEX = "index.json"
FORMAT, VERSION = "dao-ase crystals", 1
FORMATION_ENERGIES = ("formation_energy_per_atom", "ef_mp_legacy")
"""Labels (eV/atom) of the releases of the Materials Project; the first that is known counts."""


class CrystalStore:
    """Crystals in memory-mapped shards, with labels and the place that each came from.

    >>> store = CrystalStore.open("runs/data/mp_20")                    # doctest: +SKIP
    >>> store.batch(np.array([5, 3, 5])).num_atoms                      # doctest: +SKIP
    tensor([12,  5, 12])
    """

    def __init__(self, path: Path, shards: Sequence[Mapping[str, np.ndarray]], index: Mapping[str, Any]) -> None:
        self.path, self.about = path, dict(index)
        self._shards = list(shards)
        counts = [np.asarray(shard["num_atoms"], dtype=np.int64) for shard in self._shards]
        self._first_atom = [np.cumsum(count) - count for count in counts]
        self._ends = np.cumsum([len(count) for count in counts], dtype=np.int64)
        self._names = sorted({name for shard in self._shards for name in shard})
        self.num_atoms = np.concatenate([np.zeros(0, np.int64), *counts])
        """Atoms of each crystal."""
        self.labels: Mapping[str, np.ndarray] = _Labels(self)
        """Name → one number, vector or matrix for each crystal, float64, NaN where missing. Units as in the source."""

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> CrystalStore:
        """Opens a finished store; ``verify`` reads every byte once and compares checksums."""
        path = Path(path)
        try:
            index = json.loads((path / INDEX).read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise ShardError(f"{str(path)!r} is no store of crystals: {_why_none(path)}") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ShardError(f"{str(path / INDEX)!r} is damaged: {error}; build the store again") from error
        if not isinstance(index, dict) or (index.get("format"), index.get("version")) != (FORMAT, VERSION):
            raise ShardError(f"{str(path / INDEX)!r} is not an index of {FORMAT}, version {VERSION}")
        shards = [open_shard(path / entry["file"], verify)[0] for entry in index["shards"]]
        for entry, shard in zip(index["shards"], shards, strict=True):
            found = [len(shard["num_atoms"]), len(shard["atomic_numbers"])]
            if found != [entry["crystals"], entry["atoms"]]:
                raise ShardError(
                    f"{str(path / entry['file'])!r} holds {found[0]} crystals with {found[1]} atoms, but the index says "
                    f"{entry['crystals']} and {entry['atoms']}; build the store again"
                )
        return cls(path, shards, index)

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __getitem__(self, index: int) -> Crystals:
        if not -len(self) <= index < len(self):
            raise IndexError(f"crystal {index} of a store with {len(self)}")
        return self.batch(np.array([index % len(self)]))

    def batch(self, indices: np.ndarray) -> Crystals:
        """These crystals, in this order: float32 cells (Å) and fractional coordinates, int64 numbers."""
        indices = np.asarray(indices, dtype=np.int64)
        return Crystals(
            torch.from_numpy(self.gather("lattice", indices)),
            torch.from_numpy(self.gather("frac_coords", indices)),
            torch.from_numpy(self.gather("atomic_numbers", indices).astype(np.int64)),
            torch.from_numpy(self.num_atoms[indices]),
        )

    def gather(self, column: str, indices: np.ndarray) -> np.ndarray:
        """A column of the chosen crystals (per crystal) or of their atoms (per atom), for example ``atom.forces``."""
        if column not in self._names:
            raise KeyError(f"{str(self.path)!r} has no column {column!r}; it has {self._names}")
        indices = np.asarray(indices, dtype=np.int64)
        per_atom = column in ("frac_coords", "atomic_numbers") or column.startswith("atom.")
        owners = np.searchsorted(self._ends, indices, side="right")
        present = np.unique(owners)
        if len(present) == 1:
            return self._rows(int(present[0]), column, indices, per_atom)
        rows = np.repeat(owners, self.num_atoms[indices]) if per_atom else owners
        result: np.ndarray | None = None
        for shard in present.tolist():
            part = self._rows(shard, column, indices[owners == shard], per_atom)
            if result is None:
                result = np.empty((len(rows), *part.shape[1:]), part.dtype)
            result[rows == shard] = part
        like = next(shard[column] for shard in self._shards if column in shard)
        return result if result is not None else np.empty((0, *like.shape[1:]), like.dtype)

    def _rows(self, shard: int, column: str, indices: np.ndarray, per_atom: bool) -> np.ndarray:
        columns = self._shards[shard]
        local = indices - (self._ends[shard - 1] if shard else 0)
        if per_atom:
            local = gather_atoms(columns["num_atoms"], self._first_atom[shard], local)
        if column in columns:
            return columns[column][local]
        like = next(other[column] for other in self._shards if column in other)
        return np.full((len(local), *like.shape[1:]), np.nan, like.dtype)  # a label that this source did not have

    def texts(self, name: str) -> np.ndarray:
        """A text of every crystal, empty where missing; ``id`` and ``source`` always exist."""
        found: list[str] = []
        for shard in self._shards:
            has_it = f"text.{name}" in shard
            found += (
                decode_texts(shard[f"text.{name}"], shard[f"text_end.{name}"])
                if has_it
                else [""] * len(shard["num_atoms"])
            )
        return np.array(found, dtype=np.str_)

    def columns_of(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Everything about the chosen crystals, as the columns of a shard."""
        columns = {name: self.gather(name, indices) for name in self._names if not name.startswith("text")}
        for name in [name.removeprefix("text.") for name in self._names if name.startswith("text.")]:
            chosen = self.texts(name)[indices].tolist()
            columns[f"text.{name}"], columns[f"text_end.{name}"] = encode_texts(chosen)
        return columns

    @property
    def ids(self) -> np.ndarray:
        """The identifier of each crystal, as its source gives it."""
        return self.texts("id")

    def provenance(self, index: int) -> tuple[str, int]:
        """The source (file or URL) of a crystal and its row there."""
        return str(self.texts("source")[index]), int(self.gather("row", np.array([index]))[0])

    @property
    def columns(self) -> list[str]:
        """Names of everything that the shards hold."""
        return list(self._names)


def discard_leftovers(path: Path, work: str) -> None:
    """Removes from a finished store what runs that were interrupted or killed have left, also those by other rules.

    These are folders whose names begin with ``work``, files that are half written, and shards that are not the store's.
    """
    named = {entry["file"] for entry in json.loads((path / INDEX).read_text())["shards"]}
    for folder in path.glob(f"{work}*"):
        shutil.rmtree(folder)
    for file in [*path.glob(".*.part.*"), *path.glob("shard-*.safetensors")]:
        if file.name not in named:
            file.unlink(missing_ok=True)


def _why_none(path: Path) -> str:
    if path.is_file():
        return f"it is a file; make one of its crystals: dao-ase data build {path} -o STORE"
    if not path.is_dir():
        return "it does not exist"
    if any(path.glob(".build-*")) or any(path.glob(".relax-*")):  # where a store is made until its index is written
        return "its build did not finish: run it again, it resumes"
    return f"it has no {INDEX}; make one of its crystals: dao-ase data build {path} -o STORE"


class _Labels(Mapping[str, np.ndarray]):
    """The labels of a store, read when they are asked for."""

    def __init__(self, store: CrystalStore) -> None:
        self._store = store

    def __getitem__(self, name: str) -> np.ndarray:
        if f"label.{name}" not in self._store.columns:
            raise KeyError(f"{str(self._store.path)!r} has no label {name!r}; it has {list(self)}")
        return self._store.gather(f"label.{name}", np.arange(len(self._store)))

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix("label.") for name in self._store.columns if name.startswith("label."))

    def __len__(self) -> int:
        return sum(1 for _ in self)
