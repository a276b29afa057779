"""Crystals as JSON: lines with a lattice and sites, and the published files of Matbench and of JARVIS."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase.composition import ATOMIC_NUMBERS
from dao_ase.data.reading import FileSource, bare_name, is_formula, opened_text
from dao_ase.data.records import Record, RejectedRecord
from dao_ase.data.tables import ID_COLUMNS

STRUCTURES = "; structures of pymatgen become CIFs by structure.to(fmt='cif'), in a column 'cif' of a CSV file"
"""What to do with dictionaries of ``Structure.as_dict``, alone or within documents of the Materials Project."""
FULL = 0.999
"""A site is fully occupied from here on."""


@dataclass(frozen=True)
class JsonLinesSource(FileSource):
    """One JSON object on each line (``.jsonl``, ``.jsonl.gz``).

    ``lattice`` holds three rows (Å), ``sites`` a list of ``[[[element, occupancy], ...], [f1, f2, f3]]``; every other number
    is a label and every other text a text. A crystal with a partly occupied site is rejected: DAO knows whole atoms only.
    """

    def rows(self) -> Iterator[str]:
        """The lines that are not empty."""
        with opened_text(self.path) as file:
            yield from (line for line in file if line.strip())

    def record(self, row: int, raw: str) -> Record:
        """The crystal of one line."""
        entry = json.loads(raw)
        identifier = next((str(entry[key]) for key in ID_COLUMNS if entry.get(key)), f"{bare_name(self.path)}/{row}")
        if not {"lattice", "sites"} <= set(entry) or isinstance(entry["lattice"], dict):
            needs = "a line needs 'lattice' (three rows in Å) and 'sites' ([[[[element, 1]], [f1, f2, f3]], ...])"
            raise RejectedRecord("broken", f"{needs}; it has {', '.join(entry)}{STRUCTURES}", identifier)
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
        table = json.loads(read_text(self.path))
        if missing := {"index", "columns", "data"} - set(table):
            raise ValueError(f"{str(self.path)!r} lacks {', '.join(sorted(missing))}; it is no data set of Matbench")
        if "structure" not in table["columns"]:
            raise ValueError(f"{str(self.path)!r} has no column 'structure'; it has {', '.join(table['columns'])}")
        for index, values in zip(table["index"], table["data"], strict=True):
            yield index, dict(zip(table["columns"], values, strict=True))

    def record(self, row: int, raw: tuple[Any, dict[str, Any]]) -> Record:
        """The crystal of one entry; its identifier is that of Matbench."""
        index, columns = raw
        structure = columns["structure"]
        identifier = f"{self.path.name.partition('.')[0]}-{index}"
        sites = structure["sites"]
        kinds = [[(one["element"], one["occu"]) for one in site["species"]] for site in sites]
        labels, texts = labels_and_texts(columns, ("structure",))
        return Record(
            identifier,
            np.array(structure["lattice"]["matrix"], dtype=np.float64),
            np.array([site["abc"] for site in sites], dtype=np.float64).reshape(-1, 3),
            numbers_of([ordered_symbol(kind, identifier) for kind in kinds], identifier),
            self.name,
            row,
            labels,
            texts=texts,
        )


@dataclass(frozen=True)
class JarvisSource(FileSource):
    """A data set of JARVIS as published: a list of entries with ``atoms`` and properties (``.json``, also zipped).

    A property that JARVIS does not have ("na") is missing.
    """

    def rows(self) -> Iterator[dict[str, Any]]:
        """The entries."""
        yield from json.loads(read_text(self.path))

    def record(self, row: int, raw: dict[str, Any]) -> Record:
        """The crystal of one entry."""
        if not isinstance(raw, dict) or "atoms" not in raw:
            found = ", ".join(raw) if isinstance(raw, dict) else type(raw).__name__
            raise RejectedRecord(
                "broken", f"an entry needs 'atoms', as JARVIS publishes them; it has {found}{STRUCTURES}"
            )
        atoms = raw["atoms"]
        lattice = np.array(atoms["lattice_mat"], dtype=np.float64)
        given = np.array(atoms["coords"], dtype=np.float64).reshape(-1, 3)
        coords = np.linalg.solve(lattice.T, given.T).T if atoms.get("cartesian") else given
        labels, texts = labels_and_texts(raw, ("atoms", "jid"))
        identifier = str(raw.get("jid", f"{bare_name(self.path)}/{row}"))
        symbols = [str(symbol).strip() for symbol in atoms["elements"]]
        return Record(identifier, lattice, coords, numbers_of(symbols, identifier), self.name, row, labels, texts=texts)


def published_source(path: Path) -> MatbenchSource | JarvisSource | None:
    """The reader of a published JSON file; None for any other, such as ASE's databases in JSON."""
    head = read_text(path, 4096).lstrip()
    if head.startswith("["):
        return JarvisSource(path)
    if head.startswith("{") and ('"columns"' in head or head.replace(" ", "").startswith('{"index":[')):
        return MatbenchSource(path)
    return None


def read_text(path: Path, size: int = -1) -> str:
    """The text of a file, or its first ``size`` characters; ``.gz`` and the first file of a ``.zip`` are unpacked."""
    with opened_text(path) as file:
        return file.read(size)


def ordered_symbol(species: Sequence[Sequence[Any]], identifier: str) -> str:
    """The element of a site that one element occupies fully; any other site is partial occupancy."""
    if len(species) != 1 or float(species[0][1]) < FULL:
        shown = ", ".join(f"{symbol} {float(share):g}" for symbol, share in species)
        reason = f"a site holds {shown}; only full occupancy can be used"
        raise RejectedRecord("partial occupancy", reason, identifier)
    return str(species[0][0])


def numbers_of(symbols: Sequence[str], identifier: str) -> np.ndarray:
    """The atomic numbers of these symbols."""
    unknown = sorted(set(symbols) - set(ATOMIC_NUMBERS))
    if unknown:
        raise RejectedRecord("unknown element", f"{unknown[0]!r} is not the symbol of an element", identifier)
    return np.array([ATOMIC_NUMBERS[symbol] for symbol in symbols], dtype=np.int64)


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
