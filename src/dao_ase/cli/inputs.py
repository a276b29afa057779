"""Structure files in, structure files out, and values of options: what the commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ase import Atoms

    from dao_ase.crystals import Crystals

MANY_FRAMES = (".traj", ".extxyz", ".xyz", ".db", ".json")
"""Suffixes of files that hold more than one structure."""


@dataclass(frozen=True)
class Input:
    """One structure of one file."""

    name: str
    atoms: Atoms


def read_structures(paths: Iterable[Path]) -> tuple[list[Input], list[str]]:
    """Every structure of every file, named ``file`` or ``file#frame``; and what could not be read, with the reason."""
    import warnings

    from ase.io import read

    inputs: list[Input] = []
    problems: list[str] = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frames = list(read(path, index=":"))
        except FileNotFoundError:
            problems.append(f"{path}: there is no such file")
            continue
        except Exception as error:  # ASE's readers raise whatever their format's parser raises
            problems.append(f"{path}: not a structure file that ASE reads: {error or type(error).__name__}")
            continue
        if not frames:
            problems.append(f"{path}: holds no structure")
        partial = [name for name, atoms in _named(path, frames) if _is_partly_occupied(atoms)]
        problems += [f"{name}: sites are partly occupied; give an ordered structure" for name in partial]
        inputs += [Input(name, atoms) for name, atoms in _named(path, frames) if name not in partial]
    return inputs, problems


def read_structure(path: Path, index: int | None = None) -> Input:
    """The one structure of a file, or its frame ``index``; anything else is an error that says what to do."""
    inputs, problems = read_structures([path])
    if problems and (index is None or not inputs):
        raise click.ClickException("\n".join(problems))
    if index is None:
        if len(inputs) > 1:
            raise click.ClickException(f"{path}: holds {len(inputs)} structures; choose one with --index")
        return inputs[0]
    try:
        return inputs[index]
    except IndexError as error:
        raise click.ClickException(f"{path}: has no structure {index}; it holds {len(inputs)}") from error


def read_crystal(path: Path, index: int | None = None) -> tuple[Input, Crystals]:
    """As `read_structure`, for a structure that must be a crystal."""
    one = read_structure(path, index)
    taken, crystals, problems = as_crystals([one])
    if not taken:
        raise click.ClickException(problems[0])
    return one, crystals[0]


def results_folder(output: Path | None, source: Path, kind: str) -> Path:
    """The folder for results: the one asked for, or ``NAME_kind`` here for a file NAME.cif."""
    folder = output if output is not None else Path(f"{source.stem}_{kind}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{folder}: no folder for results can be made there: {error}") from error
    return folder


def _named(path: Path, frames: Sequence[Atoms]) -> list[tuple[str, Atoms]]:
    return [(str(path) if len(frames) == 1 else f"{path}#{frame}", atoms) for frame, atoms in enumerate(frames)]


def _is_partly_occupied(atoms: Atoms) -> bool:
    occupancy = atoms.info.get("occupancy") or {}
    return any(len(site) > 1 or min(site.values()) < 0.999 for site in occupancy.values())


def as_crystals(inputs: Iterable[Input]) -> tuple[list[Input], list[Crystals], list[str]]:
    """The inputs that are crystals, each as a batch of one; and which are not, with the reason."""
    from dao_ase.convert import from_atoms

    taken: list[Input] = []
    crystals: list[Crystals] = []
    problems: list[str] = []
    for one in inputs:
        try:
            crystals.append(from_atoms([one.atoms]))
            taken.append(one)
        except ValueError as error:
            problems.append(f"{one.name}: no crystal: {error}")
    return taken, crystals, problems


def write_structures(output: Path, structures: Sequence[Atoms], names: Sequence[str]) -> list[Path]:
    """Writes one file, or a folder of CIF files where a file of this kind holds a single structure."""
    if len(structures) == 1 and output.suffix and not output.is_dir():
        return [_write(output, structures)]
    if output.suffix in MANY_FRAMES:
        return [_write(output, structures)]
    refuse_unwritable(output, len(structures))
    output.mkdir(parents=True, exist_ok=True)
    stems = [Path(name.replace("#", "_")).name.removesuffix(".cif") for name in names]
    taken: dict[str, int] = {}
    written = []
    for stem, atoms in zip(stems, structures, strict=True):
        taken[stem] = taken.get(stem, 0) + 1
        unique = stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"
        written.append(_write(output / f"{unique}.cif", [atoms]))
    return written


def refuse_unwritable(path: Path | None, count: int = 1) -> None:
    """An error, before any work is done, for a file that cannot hold so many structures; a folder always can."""
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    if path is None or path.is_dir() or not path.suffix:
        return
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


def _write(path: Path, structures: Sequence[Atoms]) -> Path:
    """Writes under a temporary name first, so that no half-written file is ever read."""
    from ase.io import write

    from dao_ase.whole_files import replacing

    try:
        with replacing(path) as temporary:
            write(temporary, structures if len(structures) > 1 else structures[0])
    except Exception as error:  # as for reading: each of ASE's formats has errors of its own
        raise click.ClickException(f"{path}: cannot be written: {error}") from error
    return path


def parse_formula_units(text: str) -> str | tuple[int, ...]:
    """The value of ``--formula-units``: numbers, or "auto"."""
    if text == "auto":
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--formula-units is {text!r}; give a number, a list like 1,2,4, or 'auto'") from None
