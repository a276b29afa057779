"""Between Crystals, pymatgen Structures and ASE Atoms: same order, same cell, same orientation, in float64.

Nothing is wrapped, reduced, rotated or mirrored on the way; `niggli_reduced` and `right_handed` do that when asked to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dao_ase.composition import ATOMIC_NUMBERS, SYMBOLS
from dao_ase.crystals import Crystals
from dao_ase.niggli import niggli_reduce

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

MIN_VOLUME = 1e-6
"""Å³; the rows of a cell with a smaller volume are dependent."""


def from_structures(structures: Sequence[Structure]) -> Crystals:
    """The batch of pymatgen Structures; each must be ordered, finite and have a volume."""
    for index, structure in enumerate(structures):
        require_elements(structure, f"structure {index}")
        if not all(structure.pbc):
            raise ValueError(
                f"structure {index} ({structure.composition.reduced_formula}) has pbc {list(structure.pbc)}; a crystal is "
                "periodic in three directions: give it Lattice(structure.lattice.matrix), with enough vacuum for a slab"
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
        [_scaled_positions(atoms) for atoms in images],
        [atoms.numbers for atoms in images],
    )


def to_atoms(crystals: Crystals) -> list[Atoms]:
    """One ASE Atoms object for each crystal, periodic in three directions."""
    from ase import Atoms

    return [
        Atoms(numbers=numbers, scaled_positions=coords, cell=lattice, pbc=True)
        for lattice, coords, numbers in _parts(crystals)
    ]


def structure_from_atoms(atoms: Atoms) -> Structure:
    """The pymatgen Structure of ASE atoms, with everything that they carry but their constraints.

    Arrays (tags, magnetic moments, ...) become site properties, ``info`` becomes ``properties``, pbc goes into the lattice,
    and a calculator's results, as far as they are of these atoms, go to ``properties["results"]``. `atoms_from_structure`
    brings all of it back.
    """
    from pymatgen.core import Lattice, Structure

    cell, kinds = np.asarray(atoms.cell), set(atoms.numbers.tolist())
    if not kinds <= set(range(1, len(SYMBOLS))):
        raise ValueError(f"{sorted(kinds - set(range(1, len(SYMBOLS))))} are no atomic numbers of elements")
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < MIN_VOLUME:
        raise ValueError(
            f"the cell {cell.tolist()} has no volume; a Structure needs three independent lattice vectors, also where "
            "pbc is False: atoms.center(vacuum=...) makes them"
        )
    arrays = {name: list(array) for name, array in atoms.arrays.items() if name not in ("numbers", "positions")}
    properties = dict(atoms.info)
    results = dict(getattr(atoms.calc, "results", None) or {})
    if results and not atoms.calc.calculation_required(atoms, list(results)):
        properties["results"] = results
    return Structure(
        Lattice(cell, pbc=tuple(atoms.pbc.tolist())),
        atoms.numbers.tolist(),
        atoms.get_scaled_positions(wrap=False),
        site_properties=arrays,
        properties=properties,
    )


def atoms_from_structure(structure: Structure) -> Atoms:
    """The ASE atoms of an ordered pymatgen Structure, the inverse of `structure_from_atoms`.

    Oxidation states become the array ``oxi_state``; results become an attached `SinglePointCalculator`.
    """
    from ase import Atoms
    from ase.calculators.calculator import all_properties
    from ase.calculators.singlepoint import SinglePointCalculator

    require_elements(structure, "the structure")
    info = {name: value for name, value in structure.properties.items() if name != "results"}
    atoms = Atoms(
        numbers=structure.atomic_numbers,
        scaled_positions=structure.frac_coords,
        cell=structure.lattice.matrix,
        pbc=structure.pbc,
        info=info,
    )
    states = [getattr(site.specie, "oxi_state", None) for site in structure]
    if any(state is not None for state in states):
        atoms.set_array("oxi_state", np.array([np.nan if state is None else state for state in states], dtype=float))
    for name, values in structure.site_properties.items():
        if any(value is None for value in values):
            raise ValueError(f"the site property {name!r} is missing for some sites; ASE needs it for all or none")
        atoms.set_array(name, np.array(values))
    if "results" in structure.properties:
        results = structure.properties["results"]
        atoms.calc = SinglePointCalculator(atoms, **{name: results[name] for name in results if name in all_properties})
        others = {name: results[name] for name in results if name not in all_properties}  # as MACE has them
        atoms.calc.results |= others
    return atoms


def is_partly_occupied(atoms: Atoms) -> bool:
    """Whether atoms from a file stand on sites that are partly occupied, of which ASE keeps one kind of atom alone."""
    occupancy = atoms.info.get("occupancy") or {}
    return any(len(site) > 1 or min(site.values()) < 0.999 for site in occupancy.values())


def niggli_reduced(crystals: Crystals) -> Crystals:
    """The same crystals in their Niggli cells, right-handed, coordinates in [0, 1)."""
    parts = [(*niggli_reduce(lattice, coords), numbers) for lattice, coords, numbers in _parts(crystals)]
    lattices, coords, numbers = (list(column) for column in zip(*parts, strict=True)) if parts else ([], [], [])
    return _batch(lattices, coords, numbers).to(crystals.device, crystals.dtype)


def right_handed(crystals: Crystals) -> Crystals:
    """The same crystals with cells of positive volume: L → −L and f → −f, which moves no atom."""
    sign = torch.where(crystals.volume < 0, -1.0, 1.0).to(crystals.dtype)
    return crystals.replace(
        lattice=crystals.lattice * sign[:, None, None],
        frac_coords=crystals.frac_coords * sign[crystals.crystal_index].unsqueeze(-1),
    )


def _batch(lattices: list[np.ndarray], coords: list[np.ndarray], numbers: list[np.ndarray]) -> Crystals:
    for index, (lattice, place, kinds) in enumerate(zip(lattices, coords, numbers, strict=True)):
        if not len(kinds):
            raise ValueError(f"crystal {index} has no atoms")
        if not (np.isfinite(lattice).all() and np.isfinite(place).all()):
            raise ValueError(f"crystal {index} has a cell or coordinates that are not finite")
        if abs(np.linalg.det(lattice)) < MIN_VOLUME:
            raise ValueError(
                f"crystal {index} has a cell of volume {np.linalg.det(lattice):.3g} Å³; its rows are dependent"
            )
    return Crystals(
        torch.from_numpy(np.array(lattices, dtype=np.float64).reshape(-1, 3, 3)),
        torch.from_numpy(np.concatenate([*coords, np.zeros((0, 3))]).astype(np.float64)),
        torch.from_numpy(np.concatenate([*numbers, np.zeros(0)]).astype(np.int64)),
        torch.tensor([len(kinds) for kinds in numbers], dtype=torch.int64, device="cpu"),
    )


def _scaled_positions(atoms: Atoms) -> np.ndarray:
    """Coordinates that are not wrapped; zeros in a cell without a volume, which has an error of its own."""
    cell = np.asarray(atoms.cell)
    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < MIN_VOLUME:
        return np.zeros((len(atoms), 3))
    return np.linalg.solve(cell.T, atoms.positions.T).T.reshape(-1, 3)


def require_elements(structure: Structure, name: str) -> None:
    """An error that calls a structure ``name`` unless it is pymatgen's and each of its sites is one atom of an element."""
    from pymatgen.core import IStructure

    if not isinstance(structure, IStructure):
        raise TypeError(f"{name} is no Structure of pymatgen's but {type(structure).__name__}; give a list of these")
    if not structure.is_ordered:
        raise ValueError(
            f"{name} ({structure.composition.reduced_formula}) has partly occupied sites; "
            "order it first, for example with pymatgen's OrderDisorderedStructureTransformation"
        )
    dummies = sorted({site.specie.symbol for site in structure} - set(ATOMIC_NUMBERS))
    if dummies:
        raise ValueError(
            f"{name} has sites of {', '.join(dummies)}, which is no element; put elements there or remove them"
        )


def _parts(crystals: Crystals) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    ends = crystals.num_atoms.cumsum(0).tolist()
    lattices = crystals.lattice.detach().cpu().double().numpy()
    coords = crystals.frac_coords.detach().cpu().double().numpy()
    numbers = crystals.atomic_numbers.cpu().numpy()
    starts = [0, *ends][:-1]
    return [(lattices[i], coords[a:b], numbers[a:b]) for i, (a, b) in enumerate(zip(starts, ends, strict=True))]
