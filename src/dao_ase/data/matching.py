"""Which crystals are the same structure: pymatgen's `StructureMatcher` within equal reduced formula, made fast.

Three things save time and change nothing: crystals are compared only within one reduced formula; each is reduced to its
primitive Niggli cell once, not once per pair; and two primitive cells with different numbers of atoms never match.
De-duplication also skips pairs whose interatomic distances differ too much (`dao_ase.data.fingerprint`).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from dao_ase.data.fingerprint import distance_shifts, fingerprint
from dao_ase.data.parallel import once, parallel_map

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

MAX_SHIFT = 0.2
"""Mean change of an A–B distance, in (V/N)^⅓, beyond which two crystals are different; see docs/data.md."""
GROUPS = 200
"""Formulas in one unit of work."""


@dataclass(frozen=True)
class Tolerances:
    """The tolerances of a `StructureMatcher`: relative lengths, sites in (V/N)^⅓, angles in degrees."""

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0

    def matcher(self) -> StructureMatcher:
        """The matcher, for structures that are primitive already."""
        from pymatgen.analysis.structure_matcher import StructureMatcher

        return StructureMatcher(self.ltol, self.stol, self.angle_tol)


EVALUATION = Tolerances(0.3, 0.5, 10.0)
"""How generated structures are compared with the test set: what matches here would be counted as found."""


@dataclass(frozen=True)
class Cell:
    """One crystal to compare: rows of ``lattice`` are lattice vectors (Å)."""

    lattice: Float[np.ndarray, "3 3"]
    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, "atoms"]

    @cached_property
    def primitive(self) -> Structure:
        """Its primitive Niggli cell, as `StructureMatcher` makes it before every comparison."""
        from pymatgen.core import Structure

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on electronegativities of noble gases and the like
            structure = Structure(self.lattice, self.atomic_numbers.tolist(), self.frac_coords)
            return structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()


@dataclass
class Group:
    """The crystals of one reduced formula, by their place in the caller's list."""

    members: list[int] = field(default_factory=list)
    references: list[int] = field(default_factory=list)


def same_structure(one: Cell, other: Cell, matcher: StructureMatcher) -> bool:
    """Whether the matcher takes two crystals of one reduced formula for the same structure."""
    if len(one.primitive) != len(other.primitive):
        return False
    return bool(matcher.fit(one.primitive, other.primitive, skip_structure_reduction=True))


def find_duplicates(cells: Sequence[Cell]) -> list[int]:
    """For crystals of one reduced formula: the place of the earlier one that each repeats, or −1."""
    matcher, repeats, kept = Tolerances().matcher(), [-1] * len(cells), [0]
    prints = np.stack([fingerprint(cell.lattice, cell.frac_coords, cell.atomic_numbers) for cell in cells])
    for place in range(1, len(cells)):
        shifts = distance_shifts(prints[place], prints[kept])
        near = [kept[i] for i in np.argsort(shifts, kind="stable") if shifts[i] <= MAX_SHIFT]
        repeats[place] = next((other for other in near if same_structure(cells[other], cells[place], matcher)), -1)
        if repeats[place] < 0:
            kept.append(place)
    return repeats


def find_matches(cells: Sequence[Cell], references: Sequence[Cell]) -> list[int]:
    """For crystals of one reduced formula: the place of a reference that each matches in either order, or −1."""
    matcher = EVALUATION.matcher()

    def match(cell: Cell, reference: Cell) -> bool:
        return same_structure(cell, reference, matcher) or same_structure(reference, cell, matcher)

    return [next((i for i, reference in enumerate(references) if match(cell, reference)), -1) for cell in cells]


def group_by_formula(members: Iterable[Hashable], references: Iterable[Hashable] = ()) -> list[Group]:
    """Groups from the reduced formula of each crystal, the largest first, so that no process is left with it at the end."""
    groups: dict[Hashable, Group] = defaultdict(Group)
    for place, key in enumerate(members):
        groups[key].members.append(place)
    for place, key in enumerate(references):
        if key in groups:
            groups[key].references.append(place)
    return sorted(groups.values(), key=lambda group: -len(group.members) * (len(group.members) + len(group.references)))


def duplicates_by_group(
    cells: Sequence[Cell], keys: Sequence[Hashable], folder: Path, workers: int = 1
) -> dict[int, int]:
    """Place of each crystal that repeats an earlier one → place of that one. Finished work is kept in ``folder``."""
    groups = [group for group in group_by_formula(keys) if len(group.members) > 1]
    tasks = list(_batches(groups))
    calls = (
        (folder / f"duplicates-{i:05d}.json", _duplicates, [[cells[j] for j in g.members] for g in task])
        for i, task in enumerate(tasks)
    )
    found: dict[int, int] = {}
    for task, results in zip(tasks, parallel_map(once, calls, workers), strict=True):
        for group, repeats in zip(task, results, strict=True):
            found |= {group.members[i]: group.members[j] for i, j in enumerate(repeats) if j >= 0}
    return found


def matches_by_group(
    cells: Sequence[Cell],
    keys: Sequence[Hashable],
    references: Sequence[Cell],
    reference_keys: Sequence[Hashable],
    folder: Path,
    workers: int = 1,
) -> dict[int, int]:
    """Place of each crystal that matches a reference → place of the reference. Finished work is kept in ``folder``."""
    groups = [group for group in group_by_formula(keys, reference_keys) if group.references]
    tasks = list(_batches(groups))
    calls = (
        (
            folder / f"matches-{i:05d}.json",
            _matches,
            [([cells[j] for j in g.members], [references[j] for j in g.references]) for g in task],
        )
        for i, task in enumerate(tasks)
    )
    found: dict[int, int] = {}
    for task, results in zip(tasks, parallel_map(once, calls, workers), strict=True):
        for group, matches in zip(task, results, strict=True):
            found |= {group.members[i]: group.references[j] for i, j in enumerate(matches) if j >= 0}
    return found


def _duplicates(groups: list[list[Cell]]) -> list[list[int]]:
    return [find_duplicates(cells) for cells in groups]


def _matches(groups: list[tuple[list[Cell], list[Cell]]]) -> list[list[int]]:
    return [find_matches(cells, references) for cells, references in groups]


def _batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Units of work: at most `GROUPS` formulas, fewer where they are large."""
    task: list[Group] = []
    work = 0
    for group in groups:
        task.append(group)
        work += len(group.members) * (len(group.members) + len(group.references))
        if len(task) == GROUPS or work > 20_000:
            yield task
            task, work = [], 0
    if task:
        yield task
