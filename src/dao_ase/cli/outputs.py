"""Structure files, pictures and folders of results out: what the commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ase import Atoms

MANY_FRAMES = (".traj", ".extxyz", ".xyz", ".db", ".json")
"""Suffixes of files that hold more than one structure."""
PICTURES = (".png", ".svg", ".pdf")
"""Endings of the pictures that can be drawn."""


class PictureFile(click.Path):
    """A picture to write, whose ending is known before any work is done for it."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, if a picture can be drawn there."""
        path = Path(value)
        super().convert(path, param, ctx)
        if path.suffix.lower() not in PICTURES:
            self.fail(f"{str(value)!r} must end in {', '.join(PICTURES)}", param, ctx)
        return path


def moving(converged: bool | None) -> str:
    """The remark in a table on a structure that was to be relaxed and did not come to rest: its energy is too high.

    >>> moving(False), moving(True), moving(None)
    (', not at rest', '', '')
    """
    return ", not at rest" if converged is not None and not converged else ""


def results_folder(output: Path | None, source: Path, kind: str, index: int | None = None) -> Path:
    """The folder for results: the one asked for, or ``NAME_kind`` here for NAME.cif(.gz); an error if it cannot be had.

    Where one of several structures was chosen it is ``NAME_index_kind``, so that the next does not take its place.
    """
    from dao_ase.data.reading import bare_name

    name = bare_name(source) if index is None else f"{bare_name(source)}_{index}"
    folder = output if output is not None else Path(f"{name}_{kind}")
    _refuse_closed(folder)
    return folder


def _refuse_closed(folder: Path) -> None:
    """An error for a folder that cannot be made or written to; the attempt leaves nothing behind."""
    from contextlib import suppress
    from tempfile import TemporaryFile

    absent = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise click.ClickException(f"{folder}: results cannot be written there: {error}") from error
    finally:
        for one in absent:
            with suppress(OSError):
                one.rmdir()


def write_structures(output: Path, structures: Sequence[Atoms], names: Sequence[str]) -> list[Path]:
    """Writes one file, or a folder of CIF files where a file of this kind holds a single structure.

    Returns the file of each structure.
    """
    if _is_file(output) and (len(structures) == 1 or output.suffix in MANY_FRAMES):
        return [_write(output, structures)] * len(structures)
    refuse_unwritable(output, len(structures))
    files = [output / f"{name}.cif" for name in _distinct(names)]
    return [_write(file, [atoms]) for file, atoms in zip(files, structures, strict=True)]


def _is_file(output: Path) -> bool:
    """Whether this names a file of structures rather than a folder of them: VASP's have no ending."""
    return not output.is_dir() and bool(output.suffix or "POSCAR" in output.name or "CONTCAR" in output.name)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names for files in one folder; what has the same name in different folders gets a number.

    >>> _distinct(["a/x.cif", "b/x.cif", "x_2.cif", "run.traj#0"])
    ['x', 'x_2', 'x_2_2', 'run.traj_0']
    """
    taken: set[str] = set()
    distinct = []
    for name in names:
        stem = unique = Path(name.replace("#", "_")).name.removesuffix(".gz").removesuffix(".cif").removesuffix(".mcif")
        number = 1
        while unique.casefold() in taken:  # some file systems do not tell X from x
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.casefold())
        distinct.append(unique)
    return distinct


def refuse_unwritable(path: Path | None, count: int = 1) -> None:
    """An error, before any work is done, for a place that cannot be written to, or a file that cannot hold so many."""
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    if path is None:
        return
    if str(path) == "-":
        raise click.ClickException("structures are not written to standard output; give a file or a folder")
    if not _is_file(path):
        return _refuse_closed(path)
    if count > 1 and path.suffix not in MANY_FRAMES:
        raise click.ClickException(
            f"{path}: {count} structures do not fit into one {path.suffix} file; "
            f"give a folder, or one of {', '.join(MANY_FRAMES)}"
        )
    try:
        writable = get_ioformat(filetype(str(path), read=False)).can_write
    except UnknownFileTypeError:
        writable = False
    if not writable:
        raise click.ClickException(f"{path}: ASE writes no {path.suffix} files; take .cif, .traj or .extxyz")
    _refuse_incomplete(path)
    _refuse_closed(path.parent)


def _refuse_incomplete(path: Path) -> None:
    """An error for a format that ASE writes only with more than the atoms, as the input of pw.x; found out by one atom."""
    import warnings
    from contextlib import suppress
    from tempfile import TemporaryDirectory

    from ase import Atoms
    from ase.io import write

    try:  # a full disk, here that of temporary files, says nothing of the format
        with warnings.catch_warnings(action="ignore"), suppress(OSError), TemporaryDirectory() as folder:
            write(Path(folder) / path.name, Atoms("H", cell=[1, 1, 1], pbc=True))
    except Exception as error:  # each of ASE's formats has errors of its own
        raise click.ClickException(
            f"{path}: ASE cannot write {path.suffix} files of atoms alone ({type(error).__name__}: {error}); "
            "take .cif, .traj or .extxyz"
        ) from error


def _write(path: Path, structures: Sequence[Atoms]) -> Path:
    """Writes under a temporary name first, so that no half-written file is ever read."""
    from ase.io import write

    from dao_ase.data.files import DATABASES
    from dao_ase.whole_files import replacing

    try:
        with replacing(path) as temporary:
            if path.suffix in DATABASES:
                _write_database(temporary, structures)
            else:
                write(temporary, structures if len(structures) > 1 else structures[0])
    except Exception as error:  # as for reading: each of ASE's formats has errors of its own
        raise click.ClickException(f"{path}: cannot be written: {error}") from error
    return path


def _write_database(path: Path, structures: Sequence[Atoms]) -> None:
    """A row for each structure, with its remarks as key-value pairs or, where ASE takes them for none, among the data."""
    from ase.db import connect

    with connect(path, append=False) as database:
        for atoms in structures:
            pairs = {name: value for name, value in atoms.info.items() if _is_pair(name, value)}
            data = {name: value for name, value in atoms.info.items() if name not in pairs}
            database.write(atoms, key_value_pairs=pairs, data=data)


def _is_pair(name: str, value: Any) -> bool:
    """Whether a database of ASE's takes this as a pair of key and value, by which rows are chosen."""
    import warnings

    from ase.db.core import check

    try:
        with warnings.catch_warnings(action="error"):  # ASE warns of keys that it would take for formulas
            check({name: value})
    except (UserWarning, ValueError):
        return False
    return True
