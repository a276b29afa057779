"""Structure files in, and values of options: what the commands share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ase import Atoms

    from dao_ase.crystals import Crystals


@dataclass(frozen=True)
class Input:
    """One structure of one file, and its place among those of the file."""

    name: str
    atoms: Atoms
    place: int = 0


def read_structures(paths: Iterable[Path]) -> tuple[list[Input], list[str]]:
    """Every structure of every file, named ``file`` or ``file#frame``; and what could not be read, with the reason."""
    from dao_ase.convert import is_partly_occupied

    inputs: list[Input] = []
    problems: list[str] = []
    for path in paths:
        frames, refused = _frames(path)
        problems += refused
        for place, atoms in frames.items():
            name = str(path) if len(frames) + len(refused) == 1 else f"{path}#{place}"
            if is_partly_occupied(atoms):
                problems.append(f"{name}: sites are partly occupied; give an ordered structure")
            else:
                inputs.append(Input(name, atoms, place))
        if not refused:
            _remark_on_missing_atoms(path, frames)
    return inputs, problems


def _frames(path: Path) -> tuple[dict[int, Atoms], list[str]]:
    """The structures of a file by place; and why others, or the whole file, cannot be read; one of the two is there."""
    import warnings

    from ase.io.formats import UnknownFileTypeError

    if path.is_dir() and path.suffix != ".traj":  # old trajectories of ASE are folders
        return {}, [f"{path}: is a folder; name the files in it, like {path}/*.cif"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames, refused = _pymatgen_frames(path)
            if not frames and not refused:
                frames, refused = _ase_frames(path)
    except FileNotFoundError:
        return {}, [f"{path}: there is no such file"]
    except UnknownFileTypeError:
        if path.exists() and not path.stat().st_size:
            return {}, [f"{path}: is empty"]
        return {}, [f"{path}: ASE cannot tell which format this is; give the file its usual ending or name (POSCAR)"]
    except Exception as error:  # ASE's readers raise whatever their format's parser raises
        return {}, [f"{path}: not a structure file that ASE reads: {str(error) or type(error).__name__}"]
    return frames, refused if frames or refused else [f"{path}: holds no structure"]


def _remark_on_missing_atoms(path: Path, frames: dict[int, Atoms]) -> None:
    """Says on stderr which structures of a CIF lack atoms of their own formula, as where it was cut."""
    from dao_ase.convert import is_partly_occupied
    from dao_ase.data.cif import blocks_of, missing_atoms
    from dao_ase.data.reading import ending, text_of

    blocks = blocks_of(text_of(path)) if ending(path) == ".cif" and path.exists() else []
    if len(blocks) != len(frames):
        return
    for block, (place, atoms) in zip(blocks, frames.items(), strict=True):
        if not is_partly_occupied(atoms) and (lacking := missing_atoms(block, atoms.numbers.tolist())):
            name = str(path) if len(frames) == 1 else f"{path}#{place}"
            click.echo(f"{name}: may have been cut off: {lacking}", err=True)


def read_structure(path: Path, index: int | None = None) -> Input:
    """The one structure of a file, or its frame ``index``; anything else is an error that says what to do.

    A negative index counts from the last frame that can be read; which cannot is then said on stderr.
    """
    inputs, problems = read_structures([path])
    if problems and (index is None or not inputs):
        raise click.ClickException("\n".join(problems))
    if index is None:
        if len(inputs) > 1:
            raise click.ClickException(f"{path}: holds {len(inputs)} structures; choose one with --index")
        return inputs[0]
    places = {one.place: one for one in inputs}
    if index < 0 and problems:
        click.echo("\n".join(problems), err=True)
    wanted = index if index >= 0 else index + max(places) + 1
    if wanted not in places:
        raise click.ClickException("\n".join([*problems, f"{path}: has no structure {index}; it holds {len(inputs)}"]))
    return places[wanted]


def read_crystal(path: Path, index: int | None = None) -> tuple[Input, Crystals]:
    """As `read_structure`, for a structure that must be a crystal."""
    one = read_structure(path, index)
    taken, crystals, problems = as_crystals([one])
    if not taken:
        raise click.ClickException(problems[0])
    return one, crystals[0]


def _pymatgen_frames(path: Path) -> tuple[dict[int, Atoms], list[str]]:
    """The structures of a JSON file of pymatgen's, or those of its entries, one or a list, by place, and why others are
    none; neither of another file."""
    if not path.name.endswith((".json", ".json.gz")):
        return {}, []
    from monty.json import MSONable
    from monty.serialization import loadfn
    from pymatgen.core import Structure

    from dao_ase.convert import atoms_from_structure

    try:
        found = loadfn(path)
    except (OSError, ValueError):  # ASE's reader says what is wrong with it
        return {}, []
    entries = found if isinstance(found, list) else [found]
    frames: dict[int, Atoms] = {}
    refused: list[str] = []
    for place, one in enumerate(entries):
        structure = getattr(one, "structure", one)  # that of a ComputedStructureEntry
        try:
            if isinstance(structure, Structure):
                frames[place] = atoms_from_structure(structure)
            elif isinstance(one, MSONable):
                raise ValueError(
                    f"a {type(one).__name__} holds no structure; give a Structure or ComputedStructureEntry"
                )
        except ValueError as error:
            refused.append(f"{path}, structure {place + 1} of {len(entries)}: {error}")
    return frames, refused


def _ase_frames(path: Path) -> tuple[dict[int, Atoms], list[str]]:
    """The structures of a file, or those that ASE's ``file@index`` chooses, by place; and of an XYZ file that cannot be read
    as a whole those that can, and why others are none."""
    from ase.io import read
    from ase.io.formats import parse_filename

    name, chosen = (str(path), None) if path.exists() else parse_filename(str(path), None)
    try:
        found = read(name, index=":" if chosen is None else chosen, do_not_split_by_at_sign=True)
    except Exception:  # as above
        frames, refused = _xyz_frames(path)
        if not frames:
            raise
        return frames, refused
    return dict(enumerate(_listed(found))), []


def _listed(found: Atoms | list[Atoms]) -> list[Atoms]:
    return found if isinstance(found, list) else [found]


def _xyz_frames(path: Path) -> tuple[dict[int, Atoms], list[str]]:
    """The frames of an XYZ file that are whole, by place, and why others are none; neither of another file."""
    from io import StringIO

    from ase.io import read

    from dao_ase.data.files import XYZ, AseSource
    from dao_ase.data.reading import ending

    frames: dict[int, Atoms] = {}
    refused: list[str] = []
    for place, row in enumerate(AseSource(path).rows() if path.exists() and ending(path) in XYZ else ()):
        try:
            if isinstance(row, Exception):
                raise row
            (frames[place],) = _listed(read(StringIO(row), format="extxyz"))
        except Exception as error:  # as above
            refused.append(f"{path}#{place}: not a structure that ASE reads: {str(error) or type(error).__name__}")
    return frames, refused


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


def named_as_options(error: Exception | str) -> str:
    """What an error says, with the option in place of a keyword of Python's.

    >>> named_as_options(ValueError("52 atoms; max_atoms= lifts the limit"))
    '52 atoms; --max-atoms lifts the limit'
    """
    return re.sub(r"\b([a-z_]+)= ", lambda found: f"--{found[1].replace('_', '-')} ", str(error))


def parse_formula_units(text: str) -> str | tuple[int, ...]:
    """The value of ``--formula-units``: numbers, or "auto"."""
    if text == "auto":
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--formula-units is {text!r}; give a number, a list like 1,2,4, or 'auto'") from None
