"""Sources that are one table: arrays in a ``.npz`` file, and the CSV files with a ``cif`` column of the benchmarks."""

from __future__ import annotations

import csv
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dao_ase.data.cif import Cell, blocks_of, read_cif
from dao_ase.data.described import cell_of_structure, cell_of_text, structure_in
from dao_ase.data.reading import (
    MORE_CELLS,
    UNREADABLE,
    FileSource,
    bare_name,
    ending,
    is_formula,
    opened_text,
    parsed_json,
    separator,
    text_of,
    with_point,
)
from dao_ase.data.records import Record, RejectedRecord

csv.field_size_limit(1 << 26)
Structure = TypeVar("Structure")

STRUCTURE = ("cif", "file")
"""Columns that hold or name the structures, in any case."""
ID_COLUMNS = ("material_id", "id", "mp_id", "entry_id")
"""Columns that may hold the identifier, the first that exists is taken; of a CSV file in any case."""
NO_UTF8 = "it is no text in UTF-8; save the table in UTF-8"
"""Why letters of a table cannot be read: they are in another encoding, and which one nothing in the file tells."""
END = "\0end"
"""A line put behind the last one; in a file that was cut within quotes it becomes part of the last row."""


@dataclass(frozen=True)
class NpzSource(FileSource):
    """Arrays in one ``.npz`` file: ``n_atoms``, ``numbers``, ``frac_coords``, ``lattice``, ``id`` and columns of labels."""

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
            with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{str(self.path)!r} cannot be read: {error}") from error
        missing = {"n_atoms", "numbers", "frac_coords", "lattice"} - set(columns)
        if missing:
            raise ValueError(f"{str(self.path)!r} lacks the arrays {sorted(missing)}; it holds {sorted(columns)}")
        count, total = len(columns["n_atoms"]), int(columns["n_atoms"].sum())
        if total != len(columns["numbers"]) or total != len(columns["frac_coords"]):
            raise ValueError(
                f"{str(self.path)!r}: n_atoms sums to {total}, but there are {len(columns['numbers'])} numbers and "
                f"{len(columns['frac_coords'])} coordinates"
            )
        for name, array in columns.items():
            if array.ndim == 0 or len(array) not in (count, total):
                raise ValueError(
                    f"{str(self.path)!r}: the array {name!r} has the shape {array.shape}; the file is of {count} crystals "
                    f"with {total} atoms, and each array has a row for each of one or the other"
                )
        return columns


@dataclass(frozen=True)
class CsvSource(FileSource):
    """A CSV file (also ``.gz``) with a column ``cif``, or a column ``file`` that names a structure file beside it.

    Columns are separated by commas, semicolons or tabs. Numbers become labels, everything else texts; beside semicolons
    numbers may have decimal commas.
    """

    def rows(self) -> Iterator[dict[str, Any]]:
        """One dictionary of texts for each line."""
        with opened_text(self.path) as file:
            head = file.readline()
            lines = chain((line.replace("\0", "") for line in chain([head], file)), [END])
            between = separator(head)
            reader = csv.DictReader(lines, delimiter=between)
            names = [name.strip() for name in reader.fieldnames or ()]
            if damaged := [name for name in names if UNREADABLE in name]:
                raise ValueError(f"{str(self.path)!r} has a column {damaged[0]!r}: {NO_UTF8}")
            known = {*STRUCTURE, *ID_COLUMNS} - ({*ID_COLUMNS} & {*names})  # beside "id", "ID" is another column
            names = [name.lower() if name.lower() in known else name for name in names]
            if twice := sorted({name for name in names if name and names.count(name) > 1}):
                raise ValueError(f"{str(self.path)!r} has two columns {twice[0]!r}; rename or remove one of them")
            if not set(STRUCTURE) & set(names):
                raise ValueError(f"{str(self.path)!r} has no column 'cif', nor one 'file'; it has {names}")
            reader.fieldnames = names
            try:
                for row in reader:
                    if any(value not in (None, END) for value in row.values()):
                        yield {name: _number(name, value, between) for name, value in row.items()}
            except csv.Error as error:
                reason = f"{error}; does a quotation mark lack its second?"
                raise ValueError(
                    f"{str(self.path)!r} cannot be read on after line {reader.line_num}: {reason}"
                ) from error

    def fingerprint(self) -> str:
        """Changes when the table changes, or a structure file that it names."""
        own = super().fingerprint()
        try:
            rows = self.rows()
            first = next(rows, {})
            if "file" not in first or "cif" in first:
                return own
            named = [self._named(row) for row in chain([first], rows)]
        except (OSError, ValueError, csv.Error):
            return own  # which is said when it is read
        states = [(file.name, file.stat()) for file in named if file.is_file()]
        listing = "\n".join(f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)
        return hashlib.sha256(f"{own}\n{listing}".encode()).hexdigest()

    def _named(self, raw: dict[str, Any]) -> Path:
        """The structure file beside the table that a row names."""
        return self.path.parent / (raw["file"] or "").strip()

    def _cell(self, raw: dict[str, Any], identifier: str) -> Cell:
        """The crystal of one line, from the text of a CIF, POSCAR or pymatgen's JSON, or from a file beside the table."""
        if any(isinstance(value, str) and value.endswith(END) for value in raw.values()):
            raise RejectedRecord("broken", "the file ends within this row; is it complete?", identifier)
        if any(raw.get(None, ())):  # type: ignore[call-overload]  # what DictReader has no name for
            raise RejectedRecord("broken", MORE_CELLS, identifier)
        if any(isinstance(value, str) and UNREADABLE in value for name, value in raw.items() if name != "cif"):
            raise RejectedRecord("broken", f"the row has a letter that cannot be read: {NO_UTF8}", identifier)
        if "cif" in raw:
            if not raw["cif"]:
                raise RejectedRecord("broken", "the column 'cif' is empty; is the file complete?", identifier)
            return cell_of_text(raw["cif"])
        path = self._named(raw)
        if not path.is_file():
            raise RejectedRecord("broken", f"there is no structure file {raw['file']!r}; is it complete?", identifier)
        if ending(path) == ".json" and (structure := structure_in(parsed_json(text_of(path)))) is not None:
            return cell_of_structure(structure, identifier)
        if ending(path) == ".cif":
            return read_cif(_the_only(blocks_of(text_of(path)), raw["file"], identifier))
        from dao_ase.data.files import AseSource

        source = AseSource(path)
        frame = _the_only(list(source.rows()), raw["file"], identifier)
        if isinstance(frame, Exception):
            raise frame
        found = source.record(0, frame)
        return found.lattice, found.frac_coords, found.atomic_numbers

    def record(self, row: int, raw: dict[str, Any]) -> Record:
        """The crystal of one line."""
        given = ((raw.get(name) or "").removesuffix(END) for name in ID_COLUMNS)
        identifier = next(filter(None, given), f"{bare_name(self.path)}/{row}")
        try:
            lattice, frac_coords, atomic_numbers = self._cell(raw, identifier)
        except RejectedRecord as error:
            raise RejectedRecord(error.rule, str(error), identifier) from error
        except Exception as error:  # pymatgen and ASE raise whatever they like
            raise RejectedRecord("broken", f"the structure cannot be read: {error}", identifier) from error
        labels, texts = {}, {}
        for name, value in raw.items():
            if not name or name in ("cif", "Unnamed: 0", *ID_COLUMNS) or not isinstance(value, str):
                continue
            if is_formula(name, value):
                texts[name] = value
                continue
            try:
                labels[name] = float(value or "nan")
            except ValueError:
                texts[name] = value
        return Record(identifier, lattice, frac_coords, atomic_numbers, self.name, row, labels, texts=texts)


def _number(column: str | None, cell: Any, between: str) -> Any:
    """A cell as Python reads its number, if it is a text that may hold one."""
    whole = not isinstance(cell, str) or column in (*STRUCTURE, *ID_COLUMNS)
    return cell if whole else with_point(cell, between)


def _the_only(structures: Sequence[Structure], file: str, identifier: str) -> Structure:
    """The one structure of a file that a row names."""
    if len(structures) != 1:
        raise RejectedRecord("broken", f"{file!r} holds {len(structures)} structures; a row needs one", identifier)
    return structures[0]
