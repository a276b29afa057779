"""From what a user names (a file, a folder, a server) to the source that reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dao_ase.data.files import AseSource, CifSource, FolderSource
from dao_ase.data.jsonlines import EntriesSource, JsonLinesSource, MatbenchSource, published_source, read_text
from dao_ase.data.reading import Source, read
from dao_ase.data.store import INDEX
from dao_ase.data.stored import StoreSource
from dao_ase.data.tables import CsvSource, NpzSource

__all__ = ["is_table", "open_source", "read"]


def open_source(location: str | Path, optimade_filter: str = "") -> Source:
    """The source of a ``.npz``, ``.csv``, ``.tsv``, ``.jsonl``, ``.cif``, what ASE reads, folder, store, ``optimade:URL``.

    A ``.json`` file may be a data set of Matbench or of JARVIS as published, also packed (``.json.gz``, ``.json.zip``), or
    structures of pymatgen's.

    >>> open_source("optimade:https://optimade.materialsproject.org", 'elements HAS ALL "Cs","V"').name
    'https://optimade.materialsproject.org'
    """
    if str(location).startswith("optimade:"):
        from dao_ase.data.optimade import OptimadeSource

        return OptimadeSource(str(location).removeprefix("optimade:"), optimade_filter)
    path = Path(location)
    if path.is_dir():
        return StoreSource(path) if (path / INDEX).is_file() else FolderSource(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    endings = [one.lower() for one in path.suffixes[-2 if path.suffix.lower() in (".gz", ".zip") else -1 :]]
    readers: dict[str, Callable[[Path], Source]] = {
        ".npz": NpzSource,
        ".csv": CsvSource,
        ".tsv": CsvSource,
        ".jsonl": JsonLinesSource,
        ".cif": CifSource,
        ".mcif": CifSource,
    }
    published = published_source(path) if ".json" in endings else None
    return published or readers.get(endings[0] if endings else "", AseSource)(path)


def is_table(path: Path) -> bool:
    """Whether a file has crystals in rows or entries that the readers of this package know, and those of ASE do not."""
    try:
        source = open_source(path) if path.is_file() else None
    except ValueError:  # packed and damaged
        return False
    if isinstance(source, EntriesSource):  # or a list of pymatgen's structures
        return '"@module"' not in read_text(path, 4096)
    return isinstance(source, NpzSource | CsvSource | JsonLinesSource | MatbenchSource)
