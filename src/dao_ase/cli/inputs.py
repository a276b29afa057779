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
    from dao_ase.data.frames import frames_of

    inputs: list[Input] = []
    problems: list[str] = []
    for path in paths:
        frames, refused = frames_of(path)
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
    """As `read_structure`, for a structure that must be a crystal; its constraints are not kept, which is said."""
    one = read_structure(path, index)
    taken, crystals, problems = as_crystals([one])
    if not taken:
        raise click.ClickException(problems[0])
    remark_on_constraints(one)
    return one, crystals[0]


def remark_on_constraints(one: Input) -> None:
    """Says on stderr that a crystal, which is atoms in a cell and no more, has lost the constraints of its file."""
    if one.atoms.constraints:
        click.echo(f"{one.name}: constraints of atoms are not kept here, all atoms may move", err=True)


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
