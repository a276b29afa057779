"""Crystal structures from a composition, and energies, forces and stresses from a crystal.

>>> from dao_ase import DAOCalculator, DAOGenerator
>>> structures = DAOGenerator().generate("CsV3Sb5", n=20)      # pymatgen Structures, likeliest first
>>> atoms = structures[0].to_ase_atoms()
>>> atoms.calc = DAOCalculator()                               # ASE: energy, forces, stress

The names below are imported when they are first used, so that ``import dao_ase`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dao_ase.calculator import DAOCalculator
    from dao_ase.composition import Composition
    from dao_ase.crystals import Crystals
    from dao_ase.generator import DAOGenerator, StructureGenerator
    from dao_ase.properties.predictor import DAOPredictor

__version__ = "0.1.0"

_HOME = {
    "Composition": "dao_ase.composition",
    "Crystals": "dao_ase.crystals",
    "DAOCalculator": "dao_ase.calculator",
    "DAOGenerator": "dao_ase.generator",
    "DAOPredictor": "dao_ase.properties.predictor",
    "StructureGenerator": "dao_ase.generator",
}
__all__ = [
    "Composition",
    "Crystals",
    "DAOCalculator",
    "DAOGenerator",
    "DAOPredictor",
    "StructureGenerator",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dao_ase' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
