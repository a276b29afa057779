"""The space group of a crystal: its number, and the projection of forces and stress onto it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dao_ase.gates import is_finite

if TYPE_CHECKING:
    from pymatgen.core import Structure

GENERATED = 0.1
"""Å by which atoms of generated structures, which are not exact, may miss their ideal places."""
ANGLE = 5.0
"""Degrees by which the angles of their cells may miss the ideal ones, as pymatgen has it."""


@dataclass(frozen=True)
class SymmetryOperations:
    """Rotations (in fractional coordinates, acting on columns) and the atom onto which each carries each atom.

    ``translated`` says the same of the translations, one in a primitive cell. Every operation is a rotation followed by one
    of these, so that a mean over all operations is a mean over the rotations and then one over the translations.
    """

    rotations: NDArray[np.int64]
    image: NDArray[np.int64]
    translated: NDArray[np.int64]

    @classmethod
    def find(
        cls, lattice: NDArray, frac_coords: NDArray, atomic_numbers: NDArray, tolerance: float = 0.01
    ) -> SymmetryOperations:
        """The operations of a crystal (rows of ``lattice`` in Å; ``tolerance`` in Å); the identity where none is found."""
        import spglib

        found: Any = _quiet(spglib.get_symmetry, (lattice, frac_coords, atomic_numbers), symprec=tolerance)
        if found is None:
            same = np.arange(len(frac_coords))[None]
            return cls(np.eye(3, dtype=np.int64)[None], same, same)
        rotations = found["rotations"].astype(np.int64)

        def images(chosen: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.array([carried(rotations[one], found["translations"][one]) for one in chosen])

        def carried(rotation: NDArray, translation: NDArray) -> NDArray[np.int64]:
            offset = (frac_coords @ rotation.T + translation)[:, None] - frac_coords[None]
            distance = np.linalg.norm((offset - np.round(offset)) @ lattice, axis=-1)
            distance[atomic_numbers[:, None] != atomic_numbers[None]] = np.inf
            return distance.argmin(1)

        _, first = np.unique(rotations.reshape(-1, 9), axis=0, return_index=True)
        alone = np.flatnonzero((rotations == np.eye(3)).all((1, 2)))
        return cls(rotations[first], images(first), images(alone))

    @property
    def count(self) -> int:
        """How many operations there are."""
        return len(self.rotations) * len(self.translated)

    def refined(self, lattice: NDArray[np.float64], frac_coords: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
        """Lattice and coordinates that have the symmetry exactly, where they had it within the tolerance; nothing is turned.

        The metric G = L Lᵀ becomes its mean over all operations, Rᵀ G R, and each atom the mean of where the operations
        carry atoms onto it. Translations are those that carry the atoms best, for spglib's are as inexact as the atoms.
        """
        metric = np.einsum("gki,kl,glj->ij", self.rotations, lattice @ lattice.T, self.rotations) / len(self.rotations)
        inverse = np.linalg.inv(lattice)
        squares, axes = np.linalg.eigh(inverse @ metric @ inverse.T)
        unturned = np.broadcast_to(np.eye(3), (len(self.translated), 3, 3))
        for rotations, images in ((self.rotations, self.image), (unturned, self.translated)):
            frac_coords = frac_coords + _mean_offset(rotations, images, frac_coords)
        return lattice @ (axes * np.sqrt(squares)) @ axes.T, frac_coords

    def symmetrize_vectors(self, vectors: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over all operations of the rotated vectors, each on the atom where it belongs."""
        total = np.zeros_like(vectors)
        for image, matrix in zip(self.image, self._cartesian(lattice), strict=True):
            total[image] += vectors @ matrix
        return total[self.translated].mean(0) / len(self.image)

    def symmetrize_tensor(self, tensor: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over all operations of the rotated tensor."""
        matrices = self._cartesian(lattice)
        return np.einsum("gki,kl,glj->ij", matrices, tensor, matrices) / len(matrices)

    def _cartesian(self, lattice: NDArray[np.float64]) -> NDArray[np.float64]:
        """Matrices that act on row vectors from the right: L⁻¹ Rᵀ L."""
        return np.linalg.inv(lattice) @ self.rotations.transpose(0, 2, 1) @ lattice


def _mean_offset(rotations: NDArray, images: NDArray, frac_coords: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each atom to the mean of where the operations carry atoms onto it."""
    offset = np.zeros_like(frac_coords)
    for rotation, image in zip(rotations, images, strict=True):
        missed = frac_coords @ rotation.T - frac_coords[image]
        missed -= missed[0]  # less the translation, which is that of any atom but for the tolerance
        missed -= np.round(missed)
        offset[image] += missed - missed.mean(0)
    return offset / len(rotations)


def space_group(lattice: NDArray, frac_coords: NDArray, atomic_numbers: NDArray, tolerance: float = 0.01) -> str:
    """The symbol and number of the space group, for example ``Fm-3m (225)``; ``P1 (1)`` where none is found."""
    import spglib

    found: Any = _quiet(spglib.get_spacegroup, (lattice, frac_coords, atomic_numbers), symprec=tolerance)
    return found if found is not None else "P1 (1)"


def space_group_number(lattice: NDArray, frac_coords: NDArray, atomic_numbers: NDArray, tolerance: float = 0.01) -> int:
    """The number of the space group, 1 where none is found."""
    import spglib

    found: Any = _quiet(spglib.get_symmetry_dataset, (lattice, frac_coords, atomic_numbers), symprec=tolerance)
    return int(found.number) if found is not None else 1


def generated_space_group(structure: Structure) -> tuple[str, int]:
    """Symbol and number of the space group found within `GENERATED`; those of P1 where spglib finds none."""
    if not is_finite(structure):  # with which spglib would end the process
        return "P1", 1
    try:
        return _quiet(structure.get_space_group_info, symprec=GENERATED) or ("P1", 1)
    except (TypeError, ValueError):  # for example because atoms coincide
        return "P1", 1


def idealized(
    lattice: NDArray, frac_coords: NDArray, atomic_numbers: NDArray, tolerance: float
) -> tuple[NDArray, NDArray] | None:
    """Lattice and coordinates of the same cell, primitive or not, with its symmetry made exact; None where none is found.

    In spglib's standard cell, of rows S, the atoms stand at P x + p; there each goes to the nearest ideal place y of its
    element. The rows of the lattice become Pᵀ S and the coordinates P⁻¹ y, so that axes and origin are the standard ones.
    """
    import spglib

    found: Any = _quiet(
        spglib.get_symmetry_dataset, (lattice, frac_coords, atomic_numbers), symprec=tolerance, angle_tolerance=ANGLE
    )
    if found is None:
        return None
    placed = frac_coords @ found.transformation_matrix.T + found.origin_shift
    missed = placed[:, None] - found.std_positions[None]
    missed -= np.round(missed)
    distance = np.linalg.norm(missed @ found.std_lattice, axis=-1)
    distance[atomic_numbers[:, None] != found.std_types[None]] = np.inf
    ideal = placed - missed[np.arange(len(placed)), distance.argmin(1)]
    coords = ideal @ np.linalg.inv(found.transformation_matrix).T
    coords -= np.floor(coords.round(6))  # into the cell, but not from −0 to its far side
    return found.transformation_matrix.T @ found.std_lattice, coords


def standard_primitive(
    lattice: NDArray, frac_coords: NDArray, atomic_numbers: NDArray, tolerance: float = 0.01
) -> tuple[NDArray, NDArray, NDArray]:
    """The primitive cell, whose axes lie in those of the conventional one, and its atoms; as it was where none is found."""
    import spglib

    found: Any = _quiet(spglib.standardize_cell, (lattice, frac_coords, atomic_numbers), True, symprec=tolerance)
    return found if found is not None else (lattice, frac_coords, atomic_numbers)


@contextmanager
def unheard() -> Iterator[None]:
    """Keeps back what spglib writes to the terminal, past Python, of each tolerance that it tries in vain before another."""
    before = os.environ.get("SPGLIB_WARNING")
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("SPGLIB_WARNING", None)


def _quiet(function: Any, *arguments: Any, **settings: Any) -> Any:
    """spglib without its deprecation warnings, and with None for a failure, whichever way it reports one."""
    with warnings.catch_warnings(), unheard():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return function(*arguments, **settings)
        except Exception as error:  # spglib >= 2.7 may raise its own errors where it used to return None
            if type(error).__module__.partition(".")[0] != "spglib":
                raise
            return None
