"""Crystals as JSON: lines with a lattice and sites, and the published files of Matbench and of JARVIS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase.data.described import cell_of_structure, numbers_of, ordered_symbol, structure_in
from dao_ase.data.reading import FileSource, bare_name, is_formula, opened_text, parsed_json
from dao_ase.data.records import Record, RejectedRecord
from dao_ase.data.tables import ID_COLUMNS

STRUCTURES = ", or a structure of pymatgen's, alone or as 'structure' of an entry"
"""What else an entry may hold: dictionaries of ``Structure.as_dict``."""


@dataclass(frozen=True)
class JsonLinesSource(FileSource):
    """One JSON object on each line (``.jsonl``, ``.jsonl.gz``).

    ``lattice`` holds three rows (Å), ``sites`` a list of ``[[[element, occupancy], ...], [f1, f2, f3]]``; every other number
    is a label and every other text a text. A line may also be what pymatgen writes of a structure, or an entry that holds it
    as ``structure``. A crystal with a partly occupied site is rejected: DAO knows whole atoms only.
    """

    def rows(self) -> Iterator[str]:
        """The lines that are not empty."""
        with opened_text(self.path) as file:
            yield from (line for line in file if line.strip())

    def record(self, row: int, raw: str) -> Record:
        """The crystal of one line."""
        entry = parsed_json(raw)
        if not isinstance(entry, dict):
            raise RejectedRecord("broken", f"a line is an object, {{...}}, not a {type(entry).__name__}")
        identifier = next((str(entry[key]) for key in ID_COLUMNS if entry.get(key)), f"{bare_name(self.path)}/{row}")
        if (structure := structure_in(entry)) is not None:
            return _record_of_structure(entry, structure, identifier, self.name, row)
        if not {"lattice", "sites"} <= set(entry):
            needs = "a line needs 'lattice' (three rows in Å) and 'sites' ([[[[element, 1]], [f1, f2, f3]], ...])"
            raise RejectedRecord("broken", f"{needs}{STRUCTURES}; it has {', '.join(entry)}", identifier)
        symbols = [ordered_symbol(site[0], identifier) for site in entry["sites"]]
        coords = np.array([site[1] for site in entry["sites"]], dtype=np.float64).reshape(-1, 3)
        labels, texts = labels_and_texts(entry, ("lattice", "sites", *ID_COLUMNS))
        lattice = np.array(entry["lattice"], dtype=np.float64)
        return Record(identifier, lattice, coords, numbers_of(symbols, identifier), self.name, row, labels, texts=texts)


@dataclass(frozen=True)
class MatbenchSource(FileSource):
    """A data set of Matbench as published: ``{"index", "columns", "data"}`` with pymatgen structures (``.json.gz``)."""

    def rows(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The index and the columns of each entry."""
        table = parsed_json(read_text(self.path))
        if missing := {"index", "columns", "data"} - set(table):
            raise ValueError(f"{str(self.path)!r} lacks {', '.join(sorted(missing))}; it is no data set of Matbench")
        if "structure" not in table["columns"]:
            raise ValueError(f"{str(self.path)!r} has no column 'structure'; it has {', '.join(table['columns'])}")
        for index, values in zip(table["index"], table["data"], strict=True):
            yield index, dict(zip(table["columns"], values, strict=True))

    def record(self, row: int, raw: tuple[Any, dict[str, Any]]) -> Record:
        """The crystal of one entry; its identifier is that of Matbench."""
        index, columns = raw
        identifier = f"{self.path.name.partition('.')[0]}-{index}"
        return _record_of_structure(columns, columns["structure"], identifier, self.name, row)


@dataclass(frozen=True)
class EntriesSource(FileSource):
    """A list of entries: a data set of JARVIS as published, with ``atoms`` and properties (``.json``, also zipped), where a
    property that JARVIS does not have ("na") is missing; or pymatgen's structures, or entries that hold them, also a single
    one.
    """

    def rows(self) -> Iterator[Any]:
        """The entries."""
        found = parsed_json(read_text(self.path))
        yield from found if isinstance(found, list) else [found]

    def record(self, row: int, raw: dict[str, Any]) -> Record:
        """The crystal of one entry."""
        if (structure := structure_in(raw)) is not None:
            identifier = next((str(raw[key]) for key in ID_COLUMNS if raw.get(key)), f"{bare_name(self.path)}/{row}")
            return _record_of_structure(raw, structure, identifier, self.name, row)
        if not isinstance(raw, dict) or "atoms" not in raw:
            found = ", ".join(raw) if isinstance(raw, dict) else type(raw).__name__
            raise RejectedRecord(
                "broken", f"an entry needs 'atoms', as JARVIS publishes them{STRUCTURES}; it has {found}"
            )
        atoms = raw["atoms"]
        lattice = np.array(atoms["lattice_mat"], dtype=np.float64)
        given = np.array(atoms["coords"], dtype=np.float64).reshape(-1, 3)
        coords = np.linalg.solve(lattice.T, given.T).T if atoms.get("cartesian") else given
        labels, texts = labels_and_texts(raw, ("atoms", "jid"))
        identifier = str(raw.get("jid", f"{bare_name(self.path)}/{row}"))
        symbols = [str(symbol).strip() for symbol in atoms["elements"]]
        return Record(identifier, lattice, coords, numbers_of(symbols, identifier), self.name, row, labels, texts=texts)


def published_source(path: Path) -> MatbenchSource | EntriesSource | None:
    """The reader of a published JSON file, or of one of pymatgen's; None for any other, such as ASE's databases in JSON."""
    head = read_text(path, 4096).lstrip()
    if head.startswith("["):
        return EntriesSource(path)
    if head.startswith("{") and ('"columns"' in head or head.replace(" ", "").startswith('{"index":[')):
        return MatbenchSource(path)
    return EntriesSource(path) if head.startswith("{") and '"@module"' in head else None


def read_text(path: Path, size: int = -1) -> str:
    """The text of a file, or its first ``size`` characters; ``.gz`` and the first file of a ``.zip`` are unpacked."""
    with opened_text(path) as file:
        return file.read(size)


def _record_of_structure(
    entry: Mapping[str, Any], structure: Mapping[str, Any], identifier: str, source: str, row: int
) -> Record:
    """The crystal of a structure of pymatgen's, with what its entry, or its own ``properties``, say of it."""
    said = (structure.get("properties") or {}) if structure is entry else entry
    labels, texts = labels_and_texts(said, ("structure", "@module", "@class", "@version", *ID_COLUMNS))
    return Record(identifier, *cell_of_structure(structure, identifier), source, row, labels, texts=texts)


def labels_and_texts(entry: Mapping[str, Any], without: Sequence[str]) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers of an entry, and its texts, truth values among them. A text that is a number counts as one; "na" and null
    are missing.
    """
    labels: dict[str, float] = {}
    texts: dict[str, str] = {}
    for name, value in entry.items():
        if name in without or isinstance(value, list | dict):
            continue
        if isinstance(value, bool) or (isinstance(value, str) and is_formula(name, value)):
            texts[name] = str(value)
            continue
        try:
            labels[name] = float("nan" if value in (None, "", "na") else value)
        except ValueError:
            texts[name] = value
    return labels, texts
