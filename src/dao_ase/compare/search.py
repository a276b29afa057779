"""The paper's case: DAO-G proposes, DAO-P relaxes and ranks, pw.x refines the best; beside it pw.x alone, from random cells.

Both ways get the same wall time on the same cores. Energies are compared only among those of pw.x.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.compare.methods import Espresso, Times
from dao_ase.compare.tasks import Row, structure_of, times_of, to_structure
from dao_ase.composition import Composition
from dao_ase.convert import atoms_from_structure
from dao_ase.espresso.errors import EspressoError
from dao_ase.evaluate import match
from dao_ase.radii import COVALENT_RADII

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from dao_ase.generator import DAOGenerator

log = logging.getLogger(__name__)

SPHERES = 2.2
"""Volume of a random cell over that of the atoms' covalent spheres: between close-packed metals (1.2) and silicon (3.5)."""
CLOSEST = 0.8
"""Shortest distance in a random cell, over the sum of the covalent radii."""


@dataclass(frozen=True)
class SearchSettings:
    """``number`` candidates of which pw.x refines the best ``refine``; ``budget`` (s) for pw.x alone, by default what the
    other way took; ``max_atoms`` lifts DAO-G's limit on the size of the cell.
    """

    number: int = 20
    refine: int = 3
    budget: float | None = None
    seed: int = 0
    max_atoms: int | None = None


def search(formula: str, known: Structure | None, pw: Espresso, settings: SearchSettings) -> Row:
    """The report of one composition; ``known`` is the structure that is to be found, if there is one."""
    from dao_ase.generator import DAOGenerator

    row: Row = {"name": formula, "formula": formula, "task": "search", "problems": []}
    candidates, row["DAO"] = _propose(DAOGenerator(), formula, known, settings)
    started = time.monotonic()
    row["refined"] = [
        _refine(pw, atoms_from_structure(_bare(candidate)), known, row["problems"], rank)
        for rank, candidate in enumerate(candidates[: settings.refine], 1)
    ]
    spent = sum(found.get("times", {}).get("wall", 0.0) for found in row["refined"])
    log.info("%s: refined in %.0f s", formula, time.monotonic() - started)
    row["budget"] = settings.budget if settings.budget is not None else row["DAO"]["times"]["wall"] + spent
    row["random"] = list(_random_search(pw, formula, known, row["budget"], settings.seed, row["problems"]))
    if known is not None:
        row["known"] = structure_of(atoms_from_structure(_bare(known)))
        row["pw.x on the known structure"] = _refine(pw, atoms_from_structure(_bare(known)), known, row["problems"], 0)
    row["best"] = _best(row)
    return row


def _propose(
    generator: DAOGenerator, formula: str, known: Structure | None, settings: SearchSettings
) -> tuple[list[Structure], Row]:
    """Candidates, lowest energy first, and what it took to make them."""
    started = time.perf_counter(), time.process_time()
    drawn = generator.generate(formula, settings.number, seed=settings.seed, max_atoms=settings.max_atoms, rank=False)
    sampled = time.perf_counter(), time.process_time()
    ranked = generator.finish(drawn, relax=True, rank=True, deduplicate=False, symmetrize=False)
    ended = time.perf_counter(), time.process_time()
    return ranked, {
        "drawn": len(drawn),
        "model": generator.name,
        "times": times_of(Times(ended[0] - started[0], ended[1] - started[1])),
        "sampling": times_of(Times(sampled[0] - started[0], sampled[1] - started[1])),
        "candidates": [
            {
                "rank": rank,
                "energy_per_atom": one.properties.get("energy_per_atom"),
                "space_group": one.properties.get("space_group"),
                "rmse": None if known is None else match(one, known),
                "structure": structure_of(atoms_from_structure(_bare(one))),
            }
            for rank, one in enumerate(ranked, 1)
        ],
    }


def _refine(pw: Espresso, atoms: Atoms, known: Structure | None, problems: list[str], rank: int) -> Row:
    """A full relaxation by pw.x, from where it is."""
    row: Row = {"rank": rank, "start": structure_of(atoms)}
    try:
        found = pw.relax(atoms, cell=True)
    except EspressoError as error:
        problems.append(str(error))
        return row | {"problem": str(error), "kind": error.kind}
    end = atoms.copy()
    end.set_cell(found.lattice)
    end.set_positions(found.positions)
    if not found.converged:
        problems.append(str(found.notes["end"]))
    return row | {
        "energy_per_atom": found.energies[-1] / len(end),
        "converged": found.converged,
        "end": structure_of(end),
        "rmse": None if known is None else match(to_structure(structure_of(end)), known),
        "times": times_of(found.times),
        "notes": found.notes,
    }


def _random_search(
    pw: Espresso, formula: str, known: Structure | None, budget: float, seed: int, problems: list[str]
) -> Iterator[Row]:
    """pw.x from one random cell after the other until the time is spent; the last one is cut off."""
    left, whole = budget, pw.machine
    numbers = Composition.parse(formula).atomic_numbers
    number = 0
    try:
        while left > 1.0:
            number += 1
            pw.machine = type(whole)(whole.cores, min(left, whole.timeout), whole.command)
            # random cells may fail to converge, and the last one is always cut off: no reason to complain
            row = _refine(pw, random_cell(numbers, np.random.default_rng([seed, number])), known, [], number)
            yield row
            if "times" not in row:  # pw.x did not run, or did not come to one energy: the next would not either
                if row["kind"] not in ("out of time", "not converged"):
                    problems.append(row["problem"])
                break
            left -= row["times"]["wall"]
    finally:
        pw.machine = whole


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
        atoms = Atoms(
            numbers=atomic_numbers, scaled_positions=generator.random((len(radii), 3)), cell=lattice, pbc=True
        )
        if not _too_close(atoms, radii):
            return atoms
        volume *= 1.01


def _too_close(atoms: Atoms, radii: np.ndarray) -> bool:
    distance = atoms.get_all_distances(mic=True)
    np.fill_diagonal(distance, np.inf)
    return bool((distance < CLOSEST * (radii[:, None] + radii[None])).any())


def _best(row: Row) -> Row:
    """Lowest energy of pw.x in each way, relative to the lower of the two (meV/atom), and the smallest RMSE."""
    found: dict[str, Any] = {}
    ways = {"DAO, then pw.x": row["refined"], "pw.x alone": row["random"]}
    energies = {
        way: min((one["energy_per_atom"] for one in rows if "energy_per_atom" in one), default=None)
        for way, rows in ways.items()
    }
    lowest = min((energy for energy in energies.values() if energy is not None), default=None)
    for way, rows in ways.items():
        energy = energies[way]
        found[way] = {
            "energy": None if energy is None or lowest is None else 1000 * (energy - lowest),
            "rmse": min((one["rmse"] for one in rows if one.get("rmse") is not None), default=None),
            "calculations": len(rows),
        }
    return found


def _bare(structure: Structure) -> Structure:
    """Without properties, which need not fit into ASE's atoms."""
    bare = structure.copy()
    bare.properties = {}
    return bare
