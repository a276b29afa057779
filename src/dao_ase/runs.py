"""A folder of generated structures: one CIF each, one extxyz of all, one summary, all in the same order.

A new run replaces them as soon as it has a structure, or none to give, and takes away the page that showed them.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dao_ase.composition import Composition
from dao_ase.whole_files import only_one, write_json, write_text

if TYPE_CHECKING:
    from pymatgen.core import Structure

SUMMARY = "summary.json"
TRAJECTORY = "structures.extxyz"
GALLERY = "gallery.html"
"""The page of a run's structures, which is made from its other files."""
NUMBERED = "[0-9][0-9][0-9]*_*.cif"
"""The names of a run's structures are like this."""
KEPT = (
    *("energy_per_atom", "e_above_hull", "space_group", "prototype", "handicap", "formula_units", "seed", "model"),
    *("converged", "relax_steps"),
)
"""Properties of a structure that go into its record."""
READ = {
    "formula": str,
    "space_group": str,
    "energy_per_atom": int | float,
    "e_above_hull": int | float,
    "converged": bool,
}
"""Of these a record may have none, but not of another kind."""
BEGUN = "being written"
"""In a summary, beside the structures: files that come next or go first, of which some may be there after a kill."""


class RunWriter:
    """Writes structures as they come; the summary says at any moment what is in the folder, also after a kill."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.records: list[dict[str, Any]] = []
        self.refused: Counter[str] = Counter()
        self.interrupted = True  # until the end is reached
        self._begun: list[dict[str, Any]] = []
        self._before: list[str] | None = None  # files of an earlier run that are still there
        self._alone = ExitStack()

    def __enter__(self) -> RunWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._before = _files_of(self.folder)
        summary = self.folder / SUMMARY
        with ExitStack() as alone:
            alone.enter_context(only_one(self.folder / TRAJECTORY, f"another run is writing into {self.folder}"))
            if summary.exists():
                write_text(summary, summary.read_text(encoding="utf-8"))  # finds out now whether it can be written
            else:
                self._replace_what_was_there()
            self._alone = alone.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.interrupted = kind is not None
        try:
            if not self.interrupted or self._before is None:  # else nothing came of it, and the earlier run stays
                self._replace_what_was_there()
                self._write_summary()
        finally:
            self._alone.close()
        return kind is not None and issubclass(kind, KeyboardInterrupt)

    def _replace_what_was_there(self) -> None:
        """Takes away what an earlier run wrote, its page first: that never shows structures that are not there."""
        if self._before is None:
            return
        if (self.folder / SUMMARY).exists():
            (self.folder / GALLERY).unlink(missing_ok=True)
        self._begun = [{"file": name} for name in self._before]
        self._write_summary()
        for name in self._before:
            (self.folder / name).unlink(missing_ok=True)
        self._begun, self._before = [], None
        (self.folder / TRAJECTORY).write_text("")

    def write(self, structures: list[Structure]) -> None:
        """Appends structures, numbered in the order in which they come."""
        from ase.io import write as ase_write
        from pymatgen.io.ase import AseAtomsAdaptor

        self._replace_what_was_there()
        for number, structure in enumerate(structures, len(self.records) + 1):
            formula = Composition.from_atomic_numbers(structure.atomic_numbers).formula
            properties = {key: structure.properties[key] for key in KEPT if key in structure.properties}
            self._begun.append({"file": f"{number:03d}_{formula}.cif", "formula": formula, **properties})
        self._write_summary()
        frames = []
        for structure in structures:
            record = self._begun[0]
            write_text(self.folder / record["file"], structure.to(fmt="cif"))
            self.records.append(self._begun.pop(0))
            atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
            atoms.info = {name: value for name, value in record.items() if name != "formula"}
            frames.append(atoms)
        ase_write(self.folder / TRAJECTORY, frames, format="extxyz", append=True)
        self._write_summary()

    def summary(self) -> dict[str, Any]:
        """Everything about the run but the geometries."""
        return {"structures": self.records, "refused": dict(self.refused), "interrupted": self.interrupted}

    def _write_summary(self) -> None:
        begun = {BEGUN: self._begun} if self._begun else {}
        write_json(self.folder / SUMMARY, self.summary() | begun)


def _files_of(folder: Path) -> list[str]:
    """The structure files that an earlier run wrote, which a new one replaces; files of another origin are refused."""
    known, ours = [], set()
    if (folder / SUMMARY).exists():
        known = [record["file"] for record in records_of(folder / SUMMARY, begun=True)]
        ours = {TRAJECTORY, *known}
    elif (folder / TRAJECTORY).exists() and not (folder / TRAJECTORY).stat().st_size:
        ours = {TRAJECTORY}  # what a run left that could not write its summary
    for file in (*sorted(folder.glob(NUMBERED)), folder / TRAJECTORY):
        if file.exists() and file.name not in ours:
            raise ValueError(f"'{file}' is of no run of dao-ase generate, which would replace it; give another folder")
    return known


def records_of(summary: Path, *, begun: bool = False) -> list[dict[str, Any]]:
    """What a summary says of each structure, its ``file`` beside it first of all; if asked for, also of those `BEGUN`."""
    try:
        said = json.loads(summary.read_text(encoding="utf-8"))
        records = said["structures"] + (said.get(BEGUN, []) if begun else [])
        for record in records:
            _check(record)
        return records
    except KeyError as error:
        reason = f"it lacks {error}"
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    raise ValueError(f"{str(summary)!r} is of no run of dao-ase generate ({reason}); give another folder")


def _check(record: dict[str, Any]) -> None:
    """A summary may have been edited by hand; what its readers build upon is looked at here."""
    if Path(record["file"]).name != record["file"]:
        raise ValueError("it names files elsewhere")
    for name, kinds in READ.items():
        if not isinstance(value := record.get(name), kinds | None):
            raise ValueError(f"{name} of {record['file']} is {value!r}")


def written_twice(folder: Path) -> set[Path]:
    """The extxyz files below a folder whose structures all lie beside them as CIF files of the same run."""
    return {
        summary.with_name(TRAJECTORY)
        for summary in folder.rglob(SUMMARY)
        if summary.with_name(TRAJECTORY).is_file() and _all_there(summary)
    }


def _all_there(summary: Path) -> bool:
    try:
        return all(summary.with_name(record["file"]).is_file() for record in records_of(summary))
    except (OSError, ValueError):
        return False
