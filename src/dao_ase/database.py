"""Screened compositions in an ASE database: each exactly once, whatever is killed when.

Structures are rows as ASE writes them, so that ``ase db`` and ``ase.db.connect`` read them. Beside them stands a table of
what is done, one line a composition with its run as the primary key. A line and the rows that belong to it are written in
one transaction: after a kill there are both or neither, and a second line for the same composition is refused.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dao_ase.composition import Composition

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

SETTINGS = "screen.json"
DATABASE = "screen.db"
"""Files of a folder that a screening wrote: what it does and where, and its rows."""
DONE = "dao_ase_done"
"""The table of what is done."""
POSTGRESQL = ("postgresql://", "postgres://")


@dataclass(frozen=True)
class Outcome:
    """What became of one composition: ``structures``, their values in ``info``, the likeliest first; or an ``error``."""

    composition: str
    structures: list[Atoms] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A line of the table of what is done."""

    composition: str
    structures: int
    error: str | None


class ScreenDatabase:
    """The rows of one run in an SQLite file or, by a URL ``postgresql://...``, in a PostgreSQL database.

    >>> database = ScreenDatabase("screen.db", "first")
    >>> from ase.build import bulk
    >>> silicon = bulk("Si")
    >>> silicon.info = {"rank": 1, "energy_per_atom": -5.4}
    >>> database.write([Outcome("Si", [silicon]), Outcome("Xy", error="'Xy' is not the symbol of an element")])
    >>> database.write([Outcome("Si", [silicon])])  # it stands there already
    >>> for line in database.done():
    ...     print(line.composition, line.structures, line.error is None)
    Si 1 True
    Xy 0 False
    """

    def __init__(self, location: str | Path, run: str) -> None:
        self.location, self.run = str(location), run
        # ASE's lock is a file that a killed process leaves behind; the databases' own locks are not
        self._database = _connect(self.location)
        with _said_plainly(self.location), closing(self._database._connect()) as connection:
            self._database._initialize(connection)  # commits, which must not happen within a transaction of ours
            connection.cursor().execute(
                f"CREATE TABLE IF NOT EXISTS {DONE} (run TEXT, composition TEXT, structures INTEGER, error TEXT, "
                "seconds REAL, finished TEXT, PRIMARY KEY (run, composition))"
            )
            connection.commit()

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Writes outcomes in one transaction; those that stand there already are left as they are."""
        with self._transaction() as cursor:
            done = {line.composition for line in _lines(cursor, self.run)}
            for outcome in outcomes:
                if outcome.composition in done:
                    continue
                done.add(outcome.composition)
                values = (self.run, outcome.composition, len(outcome.structures), outcome.error, outcome.seconds, now())
                cursor.execute(f"INSERT INTO {DONE} VALUES (?, ?, ?, ?, ?, ?)", values)
                self._write_rows(outcome)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor on which ASE writes, too; everything is committed at the end, or nothing.

        ASE's own context manager commits after every 5,000 rows, and on PostgreSQL an error in it hides the error.
        """
        connection = self._database._connect()
        self._database.connection, self._database.change_count = connection, math.nan  # never a multiple of 5,000
        try:
            yield connection.cursor()
            connection.commit()
        finally:
            self._database.connection = None
            connection.close()  # what was not committed is forgotten

    def _write_rows(self, outcome: Outcome) -> None:
        from ase import Atoms

        common = {"run": self.run, "composition": _no_number(outcome.composition)}
        data = {"provenance": outcome.provenance, "seconds": outcome.seconds}
        if outcome.error is not None:
            self._database.write(Atoms(), key_value_pairs={**common, "error": outcome.error}, data=data)
        for atoms in outcome.structures:
            known = {name: value for name, value in atoms.info.items() if value is not None}
            bare = atoms.copy()
            bare.info, bare.calc = {}, atoms.calc
            self._database.write(bare, key_value_pairs={**known, **common}, data=data)

    def done(self) -> list[Done]:
        """What is done, the oldest second first."""
        with closing(self._database._connect()) as connection:
            return _lines(connection.cursor(), self.run)

    def rows(self, **values: Any) -> Iterator[Any]:
        """ASE's rows of this run, with these values: ``rank=1``."""
        yield from self._database.select(run=self.run, **values)

    def structures(self, limit: int | None = None) -> list[Structure]:
        """The best structures: of each composition the first, before any second; those nearest to the hull, or lowest in
        energy, first.
        """
        found = [row for row in self.rows() if "error" not in row]
        found.sort(key=lambda row: (row.rank, row.get("e_above_hull", math.inf), row.get("energy_per_atom", math.inf)))
        return [structure_of(row) for row in found[:limit]]


def open_screen(folder: str | Path, database: str | None = None) -> ScreenDatabase:
    """The database of a folder that ``dao-ase screen`` wrote; ``database`` is its URL where that has a password."""
    path = Path(folder) / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {SETTINGS}; give the folder of 'dao-ase screen ... -o FOLDER'")
    said = read_settings(path)
    location = database or said["database"]
    return ScreenDatabase(location if location.startswith(POSTGRESQL) else Path(folder) / location, said["run"])


def read_settings(path: Path) -> dict[str, Any]:
    """What the settings file of a screening says: its ``run``, its ``database`` and its ``settings``."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if {"run", "database"} <= said.keys():
            return {"settings": {}, **said}
        reason = "it names no run"
    except (ValueError, AttributeError) as error:
        reason = str(error)
    raise ValueError(f"{str(path)!r} is of no run of dao-ase screen ({reason}); give another folder")


def structure_of(row: Any) -> Structure:
    """The pymatgen Structure of a row, with its values as properties."""
    from dao_ase.convert import structure_from_atoms  # brings torch, which a screening's main process does without

    atoms = row.toatoms()
    atoms.calc = None
    structure = structure_from_atoms(atoms)
    structure.properties = {name: value for name, value in row.key_value_pairs.items() if name != "run"}
    structure.properties["file"] = f"{row.id:05d}_{Composition.from_atomic_numbers(row.numbers).formula}.cif"
    return structure


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def without_password(location: str) -> str:
    """A URL as it may be shown and written to a file; the database's client takes PGPASSWORD or ~/.pgpass."""
    parts = urlsplit(location) if location.startswith(POSTGRESQL) else None
    if parts is None or not parts.password:
        return location
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()


@contextmanager
def _said_plainly(location: str) -> Iterator[None]:
    """Errors of a database that is not there, or is none, as what a user can mend."""
    kinds: list[type[Exception]] = [sqlite3.Error]
    with suppress(ImportError):
        import psycopg2

        kinds.append(psycopg2.Error)
    try:
        yield
    except tuple(kinds) as error:
        raise OSError(f"the database {without_password(location)} cannot be used: {str(error).strip()}") from error


def _connect(location: str) -> Any:
    from ase.db import connect

    if location.startswith(POSTGRESQL):
        try:
            return connect(location)
        except ImportError as error:
            raise ValueError(
                'PostgreSQL needs ASE\'s other backends: pip install "dao-ase[postgresql]", or leave --database away'
            ) from error
    Path(location).parent.mkdir(parents=True, exist_ok=True)
    return connect(location, type="db", use_lock_file=False)


def _lines(cursor: Any, run: str) -> list[Done]:
    cursor.execute(
        f"SELECT composition, structures, error FROM {DONE} WHERE run = ? ORDER BY finished, composition", (run,)
    )
    return [Done(*line) for line in cursor.fetchall()]


def _no_number(formula: str) -> str:
    """ASE refuses texts that read as numbers or truth values: InF and NaN stand with their counts, what is no formula in
    quotes.
    """
    try:
        if formula not in ("True", "False"):
            float(formula)
    except ValueError:
        return formula
    try:
        return "".join(f"{symbol}{count}" for symbol, count in Composition.parse(formula).counts)
    except ValueError:
        return repr(formula)
