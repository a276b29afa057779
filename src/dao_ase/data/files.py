"""Sources that are structure files: folders of CIF and POSCAR, and anything that ASE reads."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.data.cif import blocks_of, read_cif
from dao_ase.data.isotopes import atoms_of_poscar, atoms_of_xyz, is_poscar, names_isotopes
from dao_ase.data.reading import FileSource, Source, bare_name, ending, opened_text, rows_of, text_of
from dao_ase.data.records import Record, RejectedRecord
from dao_ase.runs import written_twice

if TYPE_CHECKING:
    from ase import Atoms

XYZ = (".xyz", ".extxyz")
DATABASES = (".db", ".json")
"""Of ASE's databases, in SQLite or JSON."""
ENDINGS = (".cif", ".vasp", *XYZ)
"""Of structure files, in any case of letters, also with ``.gz`` behind."""
ID_KEYS = ("material_id", "id", "name", "identifier", "unique_id")
"""Keys of ``atoms.info`` that may hold the identifier, the first that exists is taken."""


class TruncatedFrame(ValueError):
    """A frame of an XYZ file that claims more atoms than there are lines."""


@dataclass(frozen=True)
class CifSource(FileSource):
    """One CIF file (also ``.gz``), a crystal for each of its data blocks that has atoms."""

    def rows(self) -> Iterator[str | Exception]:
        """The text of each block, or why the file cannot be read."""
        try:
            yield from blocks_of(text_of(self.path))
        except (OSError, ValueError) as error:
            yield error

    def record(self, row: int, raw: str) -> Record:
        """The crystal of a block; its identifier is the bare name of the file, with the row for all but the first."""
        stem = bare_name(self.path)
        return Record(f"{stem}/{row}" if row else stem, *read_cif(raw), self.name, row)


@dataclass(frozen=True)
class AseSource(FileSource):
    """Any file that ASE reads, with all of its frames; energy (eV), forces (eV/Å) and stress (eV/Å³) become labels.

    The frames of an extended XYZ file are separated here, so that a broken one does not hide those behind it.
    """

    def rows(self) -> Iterator[Any]:
        """Texts of frames, or what ASE makes of them."""
        if ending(self.path) in XYZ:
            try:
                with opened_text(self.path) as file:
                    yield from _xyz_frames(line.replace("\r\n", "\n") for line in file)
            except (OSError, ValueError) as error:
                yield error
            return
        from ase.io import iread

        try:
            if ending(self.path) in DATABASES:
                yield from database_rows(self.path)
            elif is_poscar(self.path) and names_isotopes(text := text_of(self.path)):
                yield atoms_of_poscar(text)
            else:
                yield from iread(self.path, index=":", do_not_split_by_at_sign=True)
        except Exception as error:  # ase.io raises whatever a format's parser raises
            yield ValueError(f"ASE cannot read on: {type(error).__name__}: {error}")

    def record(self, row: int, raw: Any) -> Record:
        """The crystal of one frame."""
        if isinstance(raw, str):
            raw = atoms_of_xyz(raw)
        stem = bare_name(self.path)
        return record_from_atoms(raw, f"{stem}/{row}" if row else stem, self.name, row)


@dataclass(frozen=True)
class FolderSource:
    """All structure files below a folder, in the order of their names."""

    path: Path

    @property
    def name(self) -> str:
        """The folder."""
        return self.path.name

    def files(self) -> list[Path]:
        """The files that hold structures; of a run of ``dao-ase generate`` the CIF files alone."""
        twice = written_twice(self.path)
        found = [
            file
            for file in sorted(self.path.rglob("*"))
            if file.is_file() and _is_structure(file) and file not in twice
        ]
        if not found:
            raise ValueError(f"{str(self.path)!r} holds no .cif, .vasp, POSCAR, CONTCAR, .xyz or .extxyz file")
        return found

    def fingerprint(self) -> str:
        """Changes when a file is added, removed or changed."""
        files = [(str(file.relative_to(self.path)), file.stat()) for file in self.files()]
        listing = "\n".join(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in files)
        return hashlib.sha256(listing.encode()).hexdigest()

    def rows(self) -> Iterator[tuple[Source, int, Any]]:
        """The rows of each file."""
        for file in self.files():
            source: Source = CifSource(file) if ending(file) == ".cif" else AseSource(file)
            for row, raw in enumerate(rows_of(source)):
                yield source, row, raw

    def record(self, row: int, raw: tuple[Source, int, Any]) -> Record:
        """The crystal of a row of a file; its provenance is the path inside the folder."""
        source, inner_row, inner = raw
        file = source.path.relative_to(self.path)  # type: ignore[attr-defined]
        try:
            if isinstance(inner, Exception):
                raise inner
            record = source.record(inner_row, inner)
        except RejectedRecord as error:
            raise RejectedRecord(error.rule, f"{file}, row {inner_row}: {error}", error.id or str(file)) from error
        except Exception as error:  # as in dao_ase.data.reading.take, with the name of the file
            reason = f"{file}, row {inner_row}: {type(error).__name__}: {error}"
            raise RejectedRecord("broken", reason, str(file)) from error
        own = bare_name(file)
        stem = file.parent / (own if ending(file) in ENDINGS else file.name)
        identifier = f"{stem}/{inner_row}" if inner_row else str(stem)
        given = record.id != own and not record.id.startswith(f"{own}/")
        return replace(record, id=record.id if given else identifier, source=f"{self.name}/{file}", row=inner_row)


def record_from_atoms(atoms: Atoms, identifier: str, source: str, row: int) -> Record:
    """A record from ASE atoms: periodic in all directions, labels from the attached calculator and ``atoms.info``."""
    if not atoms.pbc.all():
        raise RejectedRecord("not periodic", f"pbc is {atoms.pbc.tolist()}; a crystal is periodic in three directions")
    occupancies = (site.values() for site in atoms.info.get("occupancy", {}).values())
    if any(len(site) != 1 or abs(sum(site) - 1) > 1e-6 for site in map(list, occupancies)):
        raise RejectedRecord("partial occupancy", "a site is partly occupied; only full occupancy can be used")
    info = {**atoms.info, **atoms.info.get("key_value_pairs", {})}
    labels: dict[str, float | np.ndarray] = {
        name: float(value) for name, value in info.items() if isinstance(value, int | float | np.number)
    }
    texts = {name: value for name, value in info.items() if isinstance(value, str)}
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    forces = results.get("forces", atoms.arrays.get("forces"))
    labels |= {name: float(value) for name, value in results.items() if isinstance(value, int | float | np.number)}
    if "stress" in results:
        from ase.stress import voigt_6_to_full_3x3_stress

        stress = np.asarray(results["stress"], dtype=np.float64)
        labels["stress"] = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress.reshape(3, 3)
    cell = np.array(atoms.cell, dtype=np.float64)
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-9:
        raise RejectedRecord("singular cell", f"the cell {cell.tolist()} has no volume")
    return Record(
        id=next((str(info[name]) for name in ID_KEYS if name in info), identifier),
        lattice=cell,
        frac_coords=np.linalg.solve(cell.T, atoms.positions.T).T,
        atomic_numbers=atoms.numbers.astype(np.int64),
        source=source,
        row=row,
        labels=labels,
        atom_labels={} if forces is None else {"forces": np.asarray(forces, dtype=np.float64)},
        texts={name: value for name, value in texts.items() if name not in ID_KEYS},
    )


def _is_structure(file: Path) -> bool:
    return ending(file) in ENDINGS or is_poscar(file)


def _xyz_frames(file: Iterator[str]) -> Iterator[str | ValueError]:
    """The text of each frame; lines that are in no frame give one error each time that they interrupt the frames."""
    lost = 0
    for line in file:
        if not line.strip().isdigit():
            lost += bool(line.strip())
            continue
        if lost:
            yield ValueError(f"{lost} lines that belong to no frame")
            lost = 0
        lines = [line, *islice(file, min(int(line) + 1, sys.maxsize))]
        if len(lines) != int(line) + 2:
            yield TruncatedFrame(f"the file ends in a frame of {int(line)} atoms; it is truncated")
        else:
            yield "".join(lines)
    if lost:
        yield ValueError(f"{lost} lines that belong to no frame")


def database_rows(path: Path) -> Iterator[Atoms]:
    """The rows of a database with what stands beside the atoms, which ASE's reader drops."""
    from ase.db import connect

    in_json = ending(path) == ".json"
    with opened_text(path) if in_json else nullcontext(path) as file, connect(file, type=ending(path)[1:]) as database:
        for row in database.select(sort="id"):
            atoms = row.toatoms(add_additional_information=True)
            atoms.info["unique_id"] = row.unique_id
            yield atoms
