"""Energies above the convex hull, for sets that publish formation energies only."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from dao_ase.composition import SYMBOLS
from dao_ase.data.parallel import once, parallel_map

Formula = tuple[tuple[int, int], ...]
"""A reduced formula: ((atomic number, count), ...), as `dao_ase.composition.reduced_key` gives it."""

SYSTEMS = 256
"""Chemical systems in one unit of work."""


def energies_above_hull(
    formulas: Sequence[Formula], formation_energies: np.ndarray, folder: Path | None = None, workers: int = 1
) -> np.ndarray:
    """Energy above the hull (eV/atom) of each crystal among all that are given, NaN where the energy is NaN.

    The hull of a chemical system is pymatgen's `PhaseDiagram` of the crystals in it and in its subsystems, and of the
    elements at formation energy zero. Only the lowest crystal of a formula can be on a hull. Finished work is kept in
    ``folder``.

    >>> oxides = [((8, 1), (12, 1)), ((8, 1), (12, 1)), ((8, 2), (12, 1))]
    >>> energies_above_hull(oxides, np.array([-3.0, -2.9, -1.5])).round(3).tolist()
    [0.0, 0.1, 0.5]
    """
    lowest: dict[Formula, float] = {}
    for formula, energy in zip(formulas, formation_energies.tolist(), strict=True):
        if np.isfinite(energy):
            lowest[formula] = min(energy, lowest.get(formula, np.inf))
    systems: dict[frozenset[int], dict[Formula, float]] = defaultdict(dict)
    for formula, energy in lowest.items():
        systems[frozenset(number for number, _ in formula)][formula] = energy
    names = sorted(systems, key=sorted)
    parts = [names[first : first + SYSTEMS] for first in range(0, len(names), SYSTEMS)]
    calls = (
        (
            None if folder is None else folder / f"hull-{number:05d}.json",
            _hulls,
            [(systems[name], _competitors(name, systems)) for name in part],
        )
        for number, part in enumerate(parts)
    )
    hull: dict[Formula, float] = {}
    for part, energies in zip(parts, parallel_map(once, calls, workers), strict=True):
        for name, found in zip(part, energies, strict=True):
            hull |= dict(zip(systems[name], found, strict=True))
    return np.array(
        [
            max(energy - hull[formula], 0.0) if np.isfinite(energy) else np.nan
            for formula, energy in zip(formulas, formation_energies.tolist(), strict=True)
        ]
    )


def _competitors(
    name: frozenset[int], systems: Mapping[frozenset[int], Mapping[Formula, float]]
) -> dict[Formula, float]:
    """The lowest energies of every formula in a chemical system and its subsystems."""
    found: dict[Formula, float] = {}
    for size in range(1, len(name) + 1):
        for part in combinations(sorted(name), size):
            found |= systems.get(frozenset(part), {})
    return found


def _hulls(tasks: Sequence[tuple[Mapping[Formula, float], Mapping[Formula, float]]]) -> list[list[float]]:
    """For each chemical system the energy (eV/atom) of the hull at its formulas."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return [_hull(list(wanted), competitors) for wanted, competitors in tasks]


def _hull(wanted: list[Formula], competitors: Mapping[Formula, float]) -> list[float]:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    elements = {number for formula in wanted for number, _ in formula}
    energies: dict[Formula, float] = {((number, 1),): 0.0 for number in elements}
    for formula, energy in competitors.items():
        energies[formula] = min(energy, energies.get(formula, energy))
    entries = {
        formula: PDEntry({SYMBOLS[n]: count for n, count in formula}, energy * sum(count for _, count in formula))
        for formula, energy in energies.items()
    }
    diagram = PhaseDiagram(list(entries.values()))
    return [float(diagram.get_hull_energy_per_atom(entries[formula].composition)) for formula in wanted]
