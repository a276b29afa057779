"""Crystals to and from pymatgen Structures and ASE Atoms: same order, same cell, same orientation, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dao_ase.crystals import Crystals

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


def from_structures(structures: Sequence[Structure]) -> Crystals:
    """The batch of pymatgen Structures; each must be ordered, finite and have a volume."""
    for index, structure in enumerate(structures):
        if not structure.is_ordered:
            raise ValueError(
                f"structure {index} ({structure.composition.reduced_formula}) has partly occupied sites; "
                "order it first, for example with pymatgen's OrderDisorderedStructureTransformation"
            )
    return _batch(
        [np.asarray(structure.lattice.matrix) for structure in structures],
        [np.asarray(structure.frac_coords).reshape(-1, 3) for structure in structures],
        [np.asarray(structure.atomic_numbers) for structure in structures],
    )


def to_structures(crystals: Crystals) -> list[Structure]:
    """One pymatgen Structure for each crystal."""
    from pymatgen.core import Lattice, Structure

    return [
        Structure(Lattice(lattice), numbers.tolist(), coords, to_unit_cell=False)
        for lattice, coords, numbers in _parts(crystals)
    ]


def from_atoms(images: Sequence[Atoms]) -> Crystals:
    """The batch of ASE Atoms; each must be periodic in three directions, finite and have a volume."""
    for index, atoms in enumerate(images):
        if not atoms.pbc.all():
            raise ValueError(
                f"atoms {index} ({atoms.get_chemical_formula()}) have pbc {atoms.pbc.tolist()}; a crystal is periodic in "
                "three directions: set atoms.pbc = True, with enough vacuum for a slab or a molecule"
            )
    return _batch(
        [np.asarray(atoms.cell) for atoms in images],
        [atoms.get_scaled_positions(wrap=False) if len(atoms) else np.zeros((0, 3)) for atoms in images],
        [atoms.numbers for atoms in images],
    )


def to_atoms(crystals: Crystals) -> list[Atoms]:
    """One ASE Atoms object for each crystal, periodic in three directions."""
    from ase import Atoms

    return [
        Atoms(numbers=numbers, scaled_positions=coords, cell=lattice, pbc=True)
        for lattice, coords, numbers in _parts(crystals)
    ]


def _batch(lattices: list[np.ndarray], coords: list[np.ndarray], numbers: list[np.ndarray]) -> Crystals:
    for index, (lattice, place, kinds) in enumerate(zip(lattices, coords, numbers, strict=True)):
        if not len(kinds):
            raise ValueError(f"crystal {index} has no atoms")
        if not (np.isfinite(lattice).all() and np.isfinite(place).all()):
            raise ValueError(f"crystal {index} has a cell or coordinates that are not finite")
        if abs(np.linalg.det(lattice)) < 1e-6:
            raise ValueError(
                f"crystal {index} has a cell of volume {np.linalg.det(lattice):.3g} Å³; its rows are dependent"
            )
    return Crystals(
        torch.from_numpy(np.array(lattices, dtype=np.float64).reshape(-1, 3, 3)),
        torch.from_numpy(np.concatenate([*coords, np.zeros((0, 3))]).astype(np.float64)),
        torch.from_numpy(np.concatenate([*numbers, np.zeros(0)]).astype(np.int64)),
        torch.tensor([len(kinds) for kinds in numbers], dtype=torch.int64),
    )


def _parts(crystals: Crystals) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    ends = crystals.num_atoms.cumsum(0).tolist()
    lattices = crystals.lattice.detach().cpu().double().numpy()
    coords = crystals.frac_coords.detach().cpu().double().numpy()
    numbers = crystals.atomic_numbers.cpu().numpy()
    starts = [0, *ends[:-1]]
    return [(lattices[i], coords[a:b], numbers[a:b]) for i, (a, b) in enumerate(zip(starts, ends, strict=True))]
