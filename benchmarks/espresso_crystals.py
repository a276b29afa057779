"""The crystals that are computed with pw.x, in their experimental cells at room temperature, lengths in Å."""

from __future__ import annotations

from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal


def rutile(metal: str, a: float, c: float, u: float) -> Atoms:
    """MO₂ in the space group P4₂/mnm, oxygen at (u, u, 0)."""
    return crystal([metal, "O"], [(0, 0, 0), (u, u, 0)], spacegroup=136, cellpar=[a, a, c, 90, 90, 90])


CRYSTALS = {
    "Si": lambda: bulk("Si", "diamond", a=5.431),
    "Al": lambda: bulk("Al", "fcc", a=4.050),
    "Cu": lambda: bulk("Cu", "fcc", a=3.615),
    "MgO": lambda: bulk("MgO", "rocksalt", a=4.212),
    "NaCl": lambda: bulk("NaCl", "rocksalt", a=5.640),
    "ZrO2": lambda: bulk("ZrO2", "fluorite", a=5.090),
    "CaO": lambda: bulk("CaO", "rocksalt", a=4.811),
    "TiO2": lambda: rutile("Ti", 4.594, 2.959, 0.305),
    "RuO2": lambda: rutile("Ru", 4.492, 3.107, 0.305),
}
"""Cubic zirconia stands for ZrO₂: three atoms instead of the twelve of baddeleyite. RuO₂ is a metal."""


HOLD_OUT = {
    "Cr6Os2": lambda: crystal(["Os", "Cr"], [(0, 0, 0), (0.25, 0, 0.5)], spacegroup=223, cellpar=[4.617] * 3 + [90] * 3)
}
"""A superconductor of the A15 type that no training saw; its length is that of the Materials Project's mp-416, in PBE."""

TRANSFER = {"Os": lambda: bulk("Os", "hcp", a=2.734, c=4.317)}
"""The metal by which osmium's pseudopotential, which comes from CP2K's list, is judged."""
