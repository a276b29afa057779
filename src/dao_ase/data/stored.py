"""A finished store as a source: sets can be joined, and cut out of one another, by building again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase.data.reading import fingerprint_of_file
from dao_ase.data.records import Record
from dao_ase.data.store import INDEX, CrystalStore


@dataclass(frozen=True)
class StoreSource:
    """The crystals of a store with all that is known of them; each keeps the source and the row that it first came from."""

    path: Path

    @property
    def name(self) -> str:
        """The folder of the store."""
        return self.path.name

    def fingerprint(self) -> str:
        """Changes when the store is built again."""
        return fingerprint_of_file(self.path / INDEX)

    def rows(self) -> Iterator[Record]:
        """The records as they were stored."""
        store = CrystalStore.open(self.path)
        everything = np.arange(len(store))
        columns = {name: store.gather(name, everything) for name in store.columns if not name.startswith("text")}
        texts = {name: store.texts(name) for name in _texts(store)}
        ends = np.cumsum(store.num_atoms)
        of_atoms = {name for name in columns if name in ("frac_coords", "atomic_numbers") or name.startswith("atom.")}
        for index, (start, end) in enumerate(zip(ends - store.num_atoms, ends, strict=True)):
            yield _record(
                {name: array[start:end] if name in of_atoms else array[index] for name, array in columns.items()},
                {name: str(values[index]) for name, values in texts.items()},
            )

    def record(self, row: int, raw: Record) -> Record:
        """The record itself."""
        return raw


def _texts(store: CrystalStore) -> list[str]:
    return [name.removeprefix("text.") for name in store.columns if name.startswith("text.")]


def _record(columns: dict[str, Any], texts: dict[str, str]) -> Record:
    known = {name.removeprefix("label."): value for name, value in columns.items() if name.startswith("label.")}
    atoms = {name.removeprefix("atom."): value for name, value in columns.items() if name.startswith("atom.")}
    return Record(
        id=texts.pop("id"),
        lattice=columns["lattice"].astype(np.float64),
        frac_coords=columns["frac_coords"].astype(np.float64),
        atomic_numbers=columns["atomic_numbers"].astype(np.int64),
        source=texts.pop("source"),
        row=int(columns["row"]),
        labels={name: float(value) if np.ndim(value) == 0 else value for name, value in known.items()},
        atom_labels=atoms,
        texts=texts,
    )
