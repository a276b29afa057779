"""Where crystals come from: each source is an iterator of raw rows, and turns a raw row into a `Record`.

Reading a row is cheap and happens in one process; turning it into a record (parsing a CIF) may happen in many.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dao_ase.data.records import Record, Rejected, RejectedRecord, check_record

logger = logging.getLogger(__name__)

csv.field_size_limit(1 << 26)


class Source(Protocol):
    """Something that holds crystals: a file, a folder, a server."""

    @property
    def name(self) -> str:
        """What the provenance of its records says: a path or a URL."""

    def rows(self) -> Iterator[Any]:
        """The raw rows, always in the same order; each can be pickled."""

    def record(self, row: int, raw: Any) -> Record:
        """The crystal of a raw row; raises `ValueError` where it is broken."""

    def fingerprint(self) -> str:
        """Changes when the content changes."""


def read(source: Source, on_reject: Callable[[Rejected], None] | None = None) -> Iterator[Record]:
    """The checked records of a source. A row that cannot be taken is handed to ``on_reject``, or logged.

    >>> for record in read(open_source("train.csv")):                    # doctest: +SKIP
    ...     print(record.id, record.labels["formation_energy_per_atom"])
    """
    for row, raw in enumerate(source.rows()):
        result = take(source, row, raw)
        if isinstance(result, Record):
            yield result
        elif on_reject is not None:
            on_reject(result)
        else:
            logger.warning("%s, row %d (%s): %s", result.source, result.row, result.id, result.reason)


def take(source: Source, row: int, raw: Any) -> Record | Rejected:
    """The checked record of a raw row, or why there is none."""
    identifier = ""
    try:
        if isinstance(raw, Exception):
            raise raw
        record = source.record(row, raw)
        identifier = record.id
        check_record(record)
        return record
    except RejectedRecord as error:
        return Rejected(source.name, row, identifier, error.rule, str(error))
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, AssertionError) as error:
        return Rejected(source.name, row, identifier, "broken", f"{type(error).__name__}: {error}")


def fingerprint_of_file(path: Path) -> str:
    """Name, size and time of change of a file."""
    status = path.stat()
    return f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"


@dataclass(frozen=True)
class NpzSource:
    """Arrays in one ``.npz`` file: ``n_atoms``, ``numbers``, ``frac_coords``, ``lattice``, ``id`` and columns of labels."""

    path: Path

    @property
    def name(self) -> str:
        """The file."""
        return self.path.name

    def fingerprint(self) -> str:
        """Changes when the file changes."""
        return fingerprint_of_file(self.path)

    def rows(self) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
        """Identifier, columns of the crystal and columns of its atoms."""
        columns = self._columns()
        counts = columns.pop("n_atoms").astype(np.int64)
        ids = columns.pop("id", None)
        ends, total = np.cumsum(counts), int(counts.sum())
        of_atoms = {name for name, array in columns.items() if len(array) == total != len(counts)}
        of_atoms |= {"numbers", "frac_coords", "forces"} & set(columns)
        for row, (end, count) in enumerate(zip(ends.tolist(), counts.tolist(), strict=True)):
            yield (
                f"{self.path.stem}/{row}" if ids is None else str(ids[row]),
                {name: array[row] for name, array in columns.items() if name not in of_atoms},
                {name: columns[name][end - count : end] for name in of_atoms},
            )

    def record(self, row: int, raw: tuple[str, dict[str, Any], dict[str, np.ndarray]]) -> Record:
        """The crystal of these columns."""
        identifier, columns, atom_columns = raw
        texts = {name: str(value) for name, value in columns.items() if value.dtype.kind in "US"}
        labels = {
            name: float(value) if value.ndim == 0 else value.astype(np.float64)
            for name, value in columns.items()
            if name != "lattice" and name not in texts
        }
        return Record(
            id=identifier,
            lattice=columns["lattice"].astype(np.float64),
            frac_coords=atom_columns["frac_coords"].astype(np.float64),
            atomic_numbers=atom_columns["numbers"].astype(np.int64),
            source=self.name,
            row=row,
            labels=labels,
            atom_labels={name: a for name, a in atom_columns.items() if name not in ("numbers", "frac_coords")},
            texts=texts,
        )

    def _columns(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{str(self.path)!r} cannot be read: {error}") from error
        missing = {"n_atoms", "numbers", "frac_coords", "lattice"} - set(columns)
        if missing:
            raise ValueError(f"{str(self.path)!r} lacks the arrays {sorted(missing)}; it holds {sorted(columns)}")
        total = int(columns["n_atoms"].sum())
        if total != len(columns["numbers"]) or total != len(columns["frac_coords"]):
            raise ValueError(
                f"{str(self.path)!r}: n_atoms sums to {total}, but there are {len(columns['numbers'])} numbers and "
                f"{len(columns['frac_coords'])} coordinates"
            )
        return columns


def open_source(path: str | Path) -> Source:
    """The source that reads this file, folder or ``optimade:URL``."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    return NpzSource(path)
