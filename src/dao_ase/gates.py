"""Which generated geometries are refused before anyone sees them, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

MIN_DISTANCE = 0.5
"""Å between any two atoms, periodic images included."""
VOLUME_PER_ATOM = (2.0, 400.0)
"""Å³; solid hydrogen under pressure and caesium lie well inside."""
DENSEST = 0.1
"""Å³ per atom; in less, an atom has ten thousand neighbours."""
MAX_ASPECT = 20.0
"""Largest over smallest distance between opposite faces of the cell; four layers under a vacuum reach 15."""


def refusal(structure: Structure) -> str | None:
    """The reason for which a structure is refused, or None when it may pass."""
    if not is_finite(structure):
        return "not finite"
    lattice = np.asarray(structure.lattice.matrix)
    volume = abs(float(np.linalg.det(lattice))) / len(structure)
    if not VOLUME_PER_ATOM[0] <= volume <= VOLUME_PER_ATOM[1]:
        return "volume"
    faces = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    if faces.max() / faces.min() > MAX_ASPECT:
        return "aspect"
    if shortest_distance(structure) < MIN_DISTANCE:
        return "distance"
    return None


def is_finite(structure: Structure) -> bool:
    """Whether every number of the geometry is one."""
    return bool(np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all())


def has_energy(structure: Structure) -> bool:
    """Whether the geometry is finite and less dense than `DENSEST`, so that there is an energy at all."""
    return is_finite(structure) and abs(float(np.linalg.det(structure.lattice.matrix))) > DENSEST * len(structure)


def shortest_distance(structure: Structure) -> float:
    """The shortest distance (Å) between two atoms of the cell, or between an atom and one of its images."""
    distances = structure.distance_matrix + np.diag(np.full(len(structure), np.inf))
    return float(min(distances.min(), *structure.lattice.get_lll_reduced_lattice().abc))
