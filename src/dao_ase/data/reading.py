"""Where crystals come from: each source is an iterator of raw rows, and turns a raw row into a `Record`.

Reading a row is cheap and happens in one process; turning it into a record (parsing a CIF) may happen in many.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from dao_ase.data.records import Record, Rejected, RejectedRecord, check_record

logger = logging.getLogger(__name__)


@runtime_checkable
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


@dataclass(frozen=True)
class FileSource:
    """What all sources that are one file have in common."""

    path: Path

    @property
    def name(self) -> str:
        """The file."""
        return self.path.name

    def fingerprint(self) -> str:
        """Changes when the file changes."""
        return fingerprint_of_file(self.path)


def read(source: Source, on_reject: Callable[[Rejected], None] | None = None) -> Iterator[Record]:
    """The checked records of a source. A row that cannot be taken is handed to ``on_reject``, or logged; so is a
    source without rows.

    >>> for record in read(open_source("train.csv")):                    # doctest: +SKIP
    ...     print(record.id, record.labels["formation_energy_per_atom"])
    """
    for row, raw in enumerate(rows_of(source)):
        result = take(source, row, raw)
        if isinstance(result, Record):
            yield result
        elif on_reject is not None:
            on_reject(result)
        else:
            logger.warning("%s, row %d (%s): %s", result.source, result.row, result.id, result.reason)


def rows_of(source: Source) -> Iterator[Any]:
    """The raw rows of a source; of an empty one that it is empty, so that it is left out in words."""
    rows = iter(source.rows())
    yield next(rows, RejectedRecord("no crystals", f"{source.name} holds no crystals; is it complete?"))
    yield from rows


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
        return Rejected(source.name, row, error.id or identifier, error.rule, str(error))
    except Exception as error:  # parsers of other packages raise whatever they like; it is counted and listed
        return Rejected(source.name, row, identifier, "broken", f"{type(error).__name__}: {error}")


@contextmanager
def opened_text(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 or UTF-16, with or without a byte order mark, as spreadsheets write it.

    ``.gz`` and the first file of a ``.zip`` are unpacked. Bytes that are no text become `UNREADABLE`.
    """
    try:
        with _opened_bytes(path) as file:
            yield io.TextIOWrapper(file, encoding=_encoding(file.peek(2)[:2]), errors="replace", newline="")
    except (EOFError, IndexError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{str(path)!r} cannot be unpacked; is it complete? {error}") from error


def _encoding(head: bytes) -> str:
    """The encoding of a text by its first two bytes: in UTF-16 one of those of a Latin letter is zero."""
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if len(head) == 2 and 0 in head and any(head):
        return "utf-16-le" if head[0] else "utf-16-be"
    return "utf-8-sig"


@contextmanager
def _opened_bytes(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile | zipfile.ZipExtFile]:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as packed:
            yield packed  # type: ignore[misc]  # typeshed says IO[bytes]
    elif path.suffix.lower() == ".gz":
        with gzip.open(path, "rb") as unpacked:
            yield unpacked
    else:
        with open(path, "rb") as file:
            yield file


UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""Stands in a text of `opened_text` for bytes that are none in its encoding."""


def separator(head: str) -> str:
    """What stands between the columns of a table, by its first line: commas, or what spreadsheets write instead.

    >>> separator("formula;energy_per_atom;source")
    ';'
    """
    return max(",;\t", key=head.count)


DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


def with_point(text: str, between: str) -> str:
    """A cell with a decimal point where it is a number with a decimal comma, in a table with semicolons ``between`` columns.

    Spreadsheets write these where the comma is the decimal one; in other tables it may part thousands.

    >>> with_point("-3,25", ";"), with_point("1.234,5", ";"), with_point("3,250", ",")
    ('-3.25', '1.234,5', '3,250')
    """
    return text.replace(",", ".") if between == ";" and DECIMAL_COMMA.fullmatch(text) else text


MORE_CELLS = (
    "the row has more cells than there are columns; a text or number that holds their separator stands in quotes"
)
"""Why a row of a table is not taken: its values may stand in the wrong columns."""


FORMULA_COLUMNS = ("composition", "formula", "formula_pretty", "pretty_formula")
"""Columns of a table that may hold formulas, the first that exists is taken; the last two are the Materials Project's."""


def is_formula(column: str, text: str) -> bool:
    """Whether a text that Python reads as a number is a compound: indium fluoride or sodium nitride.

    >>> is_formula("formula", "InF"), is_formula("band_gap", "NaN")
    (True, False)
    """
    return text in ("InF", "NaN") and column.lower() in FORMULA_COLUMNS


def text_of(path: Path) -> str:
    """The whole text of a file as `opened_text` unpacks it, lines ending in a newline alone."""
    with opened_text(path) as file:
        return file.read().replace("\r\n", "\n")


def parsed_json(text: str) -> Any:
    """What a JSON text describes; one that is none, or too deep to be read, is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply for the JSON of crystals") from None


def ending(path: Path) -> str:
    """The ending in small letters that says what a file holds, packed or not; a magnetic CIF is a CIF.

    >>> ending(Path("NaCl.CIF.gz")), ending(Path("POSCAR.gz")), ending(Path("MnF2.mcif"))
    ('.cif', '', '.cif')
    """
    suffix = Path(_unpacked(path)).suffix.lower()
    return ".cif" if suffix == ".mcif" else suffix


def bare_name(path: Path) -> str:
    """The name of a file without `ending`, packed or not.

    >>> bare_name(Path("a/NaCl.cif.gz")), bare_name(Path("table.csv.zip")), bare_name(Path("POSCAR_2"))
    ('NaCl', 'table', 'POSCAR_2')
    """
    return Path(_unpacked(path, (".gz", ".zip"))).stem


def _unpacked(path: Path, packings: tuple[str, ...] = (".gz",)) -> str:
    return path.stem if path.suffix.lower() in packings else path.name


def is_named_after_file(record: Record | Rejected) -> bool:
    """Whether the identifier is the name of the file, with the row where that is not the first."""
    name = bare_name(Path(record.source))
    return record.id == name or record.id.endswith(f"{name}/{record.row}")


def given_ids(records: Sequence[Record | Rejected]) -> frozenset[str]:
    """Identifiers that say something about other files: not those made of the name of a file with several rows."""
    several = {record.source for record in records if record.row}
    return frozenset(one.id for one in records if one.id and not (one.source in several and is_named_after_file(one)))


def fingerprint_of_file(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
