"""The paper's case: DAO-G proposes, DAO-P relaxes and ranks, pw.x refines the best; beside it pw.x alone, from random cells.

Both ways get the same processor time, which a busy machine does not change. Energies are compared only among those of pw.x.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from dao_ase.compare.espresso_method import LEAST, Espresso, times_taken
from dao_ase.compare.methods import Times, potential_digest
from dao_ase.compare.tasks import Row, relaxed_row, structure_of, times_of, to_structure
from dao_ase.composition import Composition
from dao_ase.convert import atoms_from_structure
from dao_ase.espresso.errors import EspressoError
from dao_ase.evaluate import match
from dao_ase.radii import COVALENT_RADII
from dao_ase.rank import distinct
from dao_ase.symmetry import SymmetryOperations
from dao_ase.whole_files import write_json

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

log = logging.getLogger(__name__)

SPHERES = 2.2
"""Volume of a random cell over that of the atoms' covalent spheres: between close-packed metals (1.2) and silicon (3.5)."""
CLOSEST = 0.8
"""Shortest distance in a random cell, over the sum of the covalent radii."""
EQUAL = 0.001
"""eV/atom. Of equal structures within this the most symmetric goes to pw.x, which needs the fewest k-points for it."""
PLACES = 100
"""So many are tried for an atom before the cell is given up."""
HOPELESS = 3
"""So many failures of pw.x in a row are no accident of random cells."""
Task = Literal["relax", "vc-relax"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class SearchSettings:
    """``number`` candidates, of which pw.x refines the best ``refine`` that differ, by ``task``; ``budget`` (processor s)
    for pw.x alone, by default what the other way took; ``max_atoms`` lifts DAO-G's limit on the size of the cell.
    ``symmetrize`` moves candidates onto the symmetry that they nearly have, by which pw.x saves most of its k-points.
    """

    number: int = 20
    refine: int = 3
    budget: float | None = None
    seed: int = 0
    max_atoms: int | None = None
    task: Task = "vc-relax"
    symmetrize: bool = True

    def __post_init__(self) -> None:
        for name, least in (("number", 1), ("refine", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of a search is {getattr(self, name)}; it must be at least {least}")
        if self.budget is not None and not self.budget >= 0:  # nor is nan
            raise ValueError(f"budget is {self.budget} s; it must not be negative")


def search(formula: str, known: Structure | None, pw: Espresso, settings: SearchSettings) -> Row:
    """The report of one composition; ``known`` is the structure that is to be found, if there is one."""
    row: Row = {"name": formula, "formula": formula, "task": "search", "refined by": settings.task, "problems": []}
    row["DAO"] = _proposed(formula, pw.folder, settings)
    candidates = [to_structure(one["structure"]) for one in row["DAO"]["candidates"]]
    for one, candidate in zip(row["DAO"]["candidates"], candidates, strict=True):
        one["rmse"] = None if known is None else match(candidate, known)
    row["refined"] = []
    energies = [one["energy_per_atom"] for one in row["DAO"]["candidates"]]
    for place in _to_refine(candidates, energies)[: settings.refine]:
        log.info("%s: pw.x refines what DAO-P ranks %d", formula, place + 1)
        row["refined"].append(_refine(pw, _atoms(candidates[place]), settings.task, known, place + 1))
    spent = _seconds(row["DAO"]) + sum(_seconds(one) for one in row["refined"])
    row["budget"] = spent if settings.budget is None else settings.budget
    checked = list(row["refined"])
    if known is not None:
        row["known"] = structure_of(_atoms(known))
        row["pw.x on the known structure"] = _refine(pw, _atoms(known), settings.task, known, 0)
        checked.append(row["pw.x on the known structure"])
    # last, for random cells take all the time that there is
    log.info("%s: pw.x alone, for %.0f s", formula, row["budget"])
    row["random"] = list(_random_search(pw, formula, known, row["budget"], settings.seed, row["problems"]))
    # random cells may fail to converge, and the last one is always cut off: no reason to complain
    for one in checked:
        if not one.get("converged"):
            row["problems"].append(one["problem"] if "problem" in one else one["notes"]["end"])
    row["best"] = _best(row)
    return row


def _proposed(formula: str, folder: Path, settings: SearchSettings) -> Row:
    """Candidates, the likeliest first, and what it took to make them; kept in ``folder``, so that pw.x never meets another
    set of them when the same models are asked the same again.
    """
    from dao_ase.generator import DAOGenerator

    generator = DAOGenerator()
    how = [settings.number, settings.seed, settings.max_atoms, settings.symmetrize]
    asked = [formula, *how, generator.sampler.fingerprint, potential_digest()]
    file = folder / f"proposed-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.json"
    if file.exists():
        return cast("Row", json.loads(file.read_text(encoding="utf-8")))
    started = time.perf_counter(), time.process_time()
    drawn = generator.generate(formula, settings.number, seed=settings.seed, max_atoms=settings.max_atoms, rank=False)
    sampled = time.perf_counter(), time.process_time()
    ranked = generator.finish(drawn, relax=True, rank=True, symmetrize=settings.symmetrize)
    ended = time.perf_counter(), time.process_time()
    found = {
        "drawn": len(drawn),
        "model": generator.sampler.name,
        "times": times_of(Times(ended[0] - started[0], ended[1] - started[1])),
        "sampling": times_of(Times(sampled[0] - started[0], sampled[1] - started[1])),
        "candidates": [
            {
                "rank": rank,
                "energy_per_atom": one.properties.get("energy_per_atom"),
                "space_group": one.properties.get("space_group"),
                "structure": structure_of(_atoms(one)),
            }
            for rank, one in enumerate(ranked, 1)
        ],
    }
    write_json(file, found)
    return found


def _to_refine(candidates: Sequence[Structure], energies: Sequence[float | None]) -> list[int]:
    """Places of those that differ, the likeliest first; each stands for all that equal it and have its energy."""
    places = []
    for best in distinct(list(candidates)):
        first = next(place for place, one in enumerate(candidates) if one is best)
        equal = [
            place
            for place, (one, energy) in enumerate(zip(candidates, energies, strict=True))
            if place == first
            or (abs((energy or 0.0) - (energies[first] or 0.0)) < EQUAL and len(distinct([best, one])) == 1)
        ]
        places.append(max(equal, key=lambda place: _operations(candidates[place])))
    return places


def _operations(structure: Structure) -> int:
    """How many symmetry operations there are."""
    numbers = np.array(structure.atomic_numbers)
    return SymmetryOperations.find(structure.lattice.matrix, structure.frac_coords, numbers).count


def _refine(
    pw: Espresso, atoms: Atoms, task: Task, known: Structure | None, rank: int, limit: float | None = None
) -> Row:
    """A relaxation by pw.x, from where it is; without an energy the row has the problem and, if pw.x ran, the time."""
    row: Row = {"rank": rank, "start": structure_of(atoms)}
    try:
        result = pw.run(atoms, task, limit=limit)
        row["times"] = times_of(times_taken(result))
        if result.problem is not None:
            row["kind"] = result.problem.kind
        found = pw.relaxed(result, cell=task == "vc-relax")
    except EspressoError as error:
        return row | {"problem": str(error), "kind": error.kind}
    row |= relaxed_row(atoms, found)
    return row | {"rmse": None if known is None else match(to_structure(row["end"]), known)}


def _seconds(one: Row, clock: str = "processor") -> float:
    return float(one.get("times", {}).get(clock, 0.0))


def _random_search(
    pw: Espresso, formula: str, known: Structure | None, budget: float, seed: int, problems: list[str]
) -> Iterator[Row]:
    """pw.x from one random cell after the other until the time is spent; the last one is cut off.

    A cell of which nothing comes costs its time like any other. The end before the time is a problem.
    """
    left, number, failures = budget, 0, 0
    numbers = Composition.parse(formula).atomic_numbers
    while left > LEAST:
        number += 1
        atoms = random_cell(numbers, np.random.default_rng([seed, number]))
        one, used = _refine(pw, atoms, "vc-relax", known, number, left), -1.0
        # cut off too early, because the machine was busier than before
        while one.get("kind") == "out of time" and used < _seconds(one) < left - LEAST:
            used = _seconds(one)
            one = _refine(pw, atoms, "vc-relax", known, number, left)
        if one.get("kind") == "out of time" and "times" in one:  # it has had its time, and is not to be continued
            said = "cut off {}, when the time was spent"
            if "problem" in one:
                one["problem"] = said.format("before the first energy")
            else:
                one["notes"]["end"] = said.format(f"after {len(one['energies'])} ionic steps")
        yield one
        failures = failures + 1 if one.get("kind") == "failed" and "energy_per_atom" not in one else 0
        if "times" not in one or failures == HOPELESS:
            if number > 1:
                problems.append(f"{formula}: pw.x alone used {budget - left:.0f} of its {budget:.0f} s")
            problems.append(one["problem"])
            return
        left -= _seconds(one)


def random_cell(atomic_numbers: list[int], generator: np.random.Generator) -> Atoms:
    """A random cell: lengths within a factor of 1.6, angles of 60 to 120°, no two atoms too close; grown until they fit."""
    from ase import Atoms
    from ase.cell import Cell

    radii = np.array([COVALENT_RADII[number] for number in atomic_numbers])
    volume = SPHERES * float((4 / 3 * np.pi * radii**3).sum())
    while True:
        lengths, angles = generator.uniform(1, 1.6, 3), generator.uniform(60, 120, 3)
        if angles.sum() > 330 or 2 * angles.max() > angles.sum() - 10:  # nearly flat
            continue
        cell = Cell.fromcellpar([*lengths, *angles])
        lattice = cell.array * (volume / abs(cell.volume)) ** (1 / 3)
        placed = _placed(radii, lattice, generator)
        if placed is not None:
            return Atoms(numbers=atomic_numbers, scaled_positions=placed, cell=lattice, pbc=True)
        volume *= 1.01


def _placed(radii: Array, lattice: Array, generator: np.random.Generator) -> Array | None:
    """Fractional coordinates, one atom after the other where there is room; None where one finds none."""
    from ase.geometry import get_distances

    placed = np.empty((0, 3))
    for index, radius in enumerate(radii):
        tried = generator.random((PLACES, 3))
        if index:
            distance = get_distances(tried @ lattice, placed @ lattice, cell=lattice, pbc=True)[1]
            tried = tried[(distance >= CLOSEST * (radius + radii[:index])).all(1)]
        if not len(tried):
            return None
        placed = np.vstack([placed, tried[:1]])
    return placed


def _best(row: Row) -> Row:
    """Of each way: lowest energy of pw.x, relative to the lowest of all (meV/atom), its RMSE and the smallest, the cost."""
    ways: dict[str, Sequence[Row]] = {"DAO, then pw.x": row["refined"], "pw.x alone": row["random"]}
    if "known" in row:
        ways["pw.x on the known structure"] = [row["pw.x on the known structure"]]
    energies = [one["energy_per_atom"] for rows in ways.values() for one in rows if "energy_per_atom" in one]
    found: dict[str, Any] = {}
    for way, rows in ways.items():
        ended = sorted((one for one in rows if "energy_per_atom" in one), key=lambda one: one["energy_per_atom"])
        before = row["DAO"] if way.startswith("DAO") else {}
        found[way] = {
            "energy": 1000 * (ended[0]["energy_per_atom"] - min(energies)) if ended else None,
            "rmse of the lowest": ended[0]["rmse"] if ended else None,
            "rmse": min((one["rmse"] for one in ended if one["rmse"] is not None), default=None),
            "matched": sum(one["rmse"] is not None for one in ended),
            "calculations": len(rows),
            "converged": sum(one["converged"] for one in ended),
            "processor": _seconds(before) + sum(_seconds(one) for one in rows),
            "wall": _seconds(before, "wall") + sum(_seconds(one, "wall") for one in rows),
        }
    return found


def _atoms(structure: Structure) -> Atoms:
    """The atoms of a structure without its properties, which need not fit into ASE's."""
    bare = structure.copy()
    bare.properties = {}
    return atoms_from_structure(bare)
