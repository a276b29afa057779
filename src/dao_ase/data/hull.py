"""Energies above the convex hull, for sets that publish formation energies only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from dao_ase.composition import SYMBOLS

Formula = tuple[tuple[int, int], ...]
"""A reduced formula: ((atomic number, count), ...), as `dao_ase.composition.reduced_key` gives it."""

SYSTEMS = 256
"""Chemical systems in one unit of work."""


def energies_above_hull(formulas: Sequence[Formula], formation_energies: np.ndarray, workers: int = 1) -> np.ndarray:
    """Energy above the hull (eV/atom) of each crystal among all that are given, NaN where the energy is NaN.

    The hull of a chemical system is pymatgen's `PhaseDiagram` of the crystals in it and in its subsystems, and of the
    elements at formation energy zero. Only the lowest crystal of a formula can be on a hull.

    >>> oxides = [((8, 1), (12, 1)), ((8, 1), (12, 1)), ((8, 2), (12, 1))]
    >>> energies_above_hull(oxides, np.array([-3.0, -2.9, -1.5])).round(3).tolist()
    [0.0, 0.1, 0.5]
    """
    from dao_ase.data.parallel import parallel_map

    lowest: dict[Formula, float] = {}
    for formula, energy in zip(formulas, formation_energies.tolist(), strict=True):
        if np.isfinite(energy):
            lowest[formula] = min(energy, lowest.get(formula, np.inf))
    systems: dict[frozenset[int], dict[Formula, float]] = defaultdict(dict)
    for formula, energy in lowest.items():
        systems[frozenset(number for number, _ in formula)][formula] = energy
    names = sorted(systems, key=sorted)
    calls = (
        ([(systems[name], _competitors(name, systems)) for name in names[first : first + SYSTEMS]],)
        for first in range(0, len(names), SYSTEMS)
    )
    hull: dict[Formula, float] = {}
    for part in parallel_map(_hulls, calls, workers):
        hull |= part
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


def _hulls(tasks: Iterable[tuple[Mapping[Formula, float], Mapping[Formula, float]]]) -> dict[Formula, float]:
    """The energy (eV/atom) of the hull at each formula."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    hull: dict[Formula, float] = {}
    for wanted, competitors in tasks:
        elements = {number for formula in wanted for number, _ in formula}
        energies = {((number, 1),): 0.0 for number in elements} | {
            formula: min(energy, 0.0) if len(formula) == 1 else energy for formula, energy in competitors.items()
        }
        entries = [
            PDEntry({SYMBOLS[n]: count for n, count in formula}, energy * sum(count for _, count in formula))
            for formula, energy in energies.items()
        ]
        diagram = PhaseDiagram(entries)
        for formula in wanted:
            place = list(energies).index(formula)
            hull[formula] = diagram.get_hull_energy_per_atom(entries[place].composition)
    return hull
