"""Phonons by finite displacements: phonopy finds the displacements and the symmetry, the potential gives the forces.

There is no correction for the electric field of polar vibrations: longitudinal and transverse optical modes of an ionic
crystal meet at Γ, where experiment sees them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase.composition import SYMBOLS
from dao_ase.convert import right_handed
from dao_ase.crystals import Crystals
from dao_ase.derivatives import predict_crystals
from dao_ase.lattice import plane_distances
from dao_ase.memory import refuse_too_large
from dao_ase.potential import Potential

if TYPE_CHECKING:
    from phonopy import Phonopy

IMAGINARY = -0.1
"""THz; modes below it are called imaginary. Acoustic modes at Γ miss zero by less."""
SYMPREC = 1e-3
"""Å by which atoms may miss their symmetric places."""
NO_FORCE = 1e-8
"""eV/Å; a displacement that causes less, where a bond causes some 0.01, causes none."""
FORCE_CONSTANT_BYTES = 9 * 8
"""Of each pair of atoms in the supercell, as phonopy keeps them."""
FREQUENCY_BYTES = 8
"""Of each mode at each wave vector, and of each of a wave vector's components."""
WAVENUMBER = 33.35641
"""1 THz in cm⁻¹."""


@dataclass(frozen=True)
class Bands:
    """Frequencies (THz) along a path through the Brillouin zone; imaginary ones are negative.

    ``distance`` (1/Å) counts along the path, ``ticks`` and ``labels`` name its corners.
    """

    distance: NDArray[np.float64]
    frequencies: NDArray[np.float64]
    ticks: list[float]
    labels: list[str]


@dataclass(frozen=True)
class Phonons:
    """Vibrations of a crystal: at Γ, along a path, their density of states, and what they contribute to the free energy.

    Frequencies are in THz. Thermal columns, each for the cell of ``thermal["atoms"]`` atoms: temperature (K), free energy
    (kJ/mol), entropy and heat capacity (J/K/mol), as phonopy gives them.
    """

    gamma: NDArray[np.float64]
    bands: Bands
    dos_frequencies: NDArray[np.float64]
    dos: NDArray[np.float64]
    thermal: dict[str, Any]
    supercell: tuple[int, ...]
    displacements: int
    lowest: float
    phonopy: Phonopy

    @property
    def is_stable(self) -> bool:
        """Whether no frequency, on the mesh and on the path, is imaginary."""
        return self.lowest > IMAGINARY

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "supercell": list(self.supercell),
            "displacements": self.displacements,
            "gamma_THz": self.gamma.tolist(),
            "gamma_per_cm": (WAVENUMBER * self.gamma).tolist(),
            "lowest_THz": self.lowest,
            "stable": self.is_stable,
            "thermal": self.thermal,
            "bands": {
                "distance": self.bands.distance.tolist(),
                "frequencies_THz": self.bands.frequencies.tolist(),
                "ticks": self.bands.ticks,
                "labels": self.bands.labels,
            },
            "dos": {"frequencies_THz": self.dos_frequencies.tolist(), "states": self.dos.tolist()},
        }


def phonons(
    crystal: Crystals,
    model: Potential,
    *,
    supercell: Sequence[int] | None = None,
    min_length: float = 12.0,
    displacement: float = 0.01,
    mesh: float = 40.0,
    temperatures: Sequence[float] = tuple(range(0, 1001, 50)),
    masses: Sequence[float] | NDArray[np.float64] | None = None,
    on_force: Callable[[int, int], object] | None = None,
) -> Phonons:
    """Phonons of a crystal that is relaxed; the model should be in float64.

    ``supercell`` counts repeats along the lattice vectors; without it they are as few as make every side at least
    ``min_length`` (Å). Atoms are displaced by ``displacement`` (Å). ``mesh`` is the length (Å) that sets the density of
    the mesh of wave vectors. ``masses`` (u) are those of the atoms, where they are not natural mixtures of isotopes.
    ``on_force`` is told how many of how many supercells are done.
    """
    if len(crystal) != 1:
        raise ValueError(f"{len(crystal)} crystals; phonons are computed of one at a time")
    for name, length in (("displacement", displacement), ("mesh", mesh), ("min_length", min_length)):
        if not 0 < length < np.inf:
            raise ValueError(f"the {name} is {length} Å; it must be positive")
    model.refuse_untrained(crystal.atomic_numbers.tolist())
    if masses is not None:
        _refuse_masses(masses, crystal)
    crystal = right_handed(crystal)  # as phonopy wants it
    if not all(0 <= temperature < np.inf for temperature in temperatures):
        raise ValueError(f"the temperatures {list(temperatures)} must be finite numbers of K, none below zero")
    repeats = enough_repeats(crystal, min_length) if supercell is None else _repeats(supercell)
    size = prod((*repeats, len(crystal.atomic_numbers)))
    refuse_too_large(FORCE_CONSTANT_BYTES * size**2, f"the force constants of a supercell of {size} atoms")
    points = mesh**3 / float(crystal.volume[0])
    needed = points * FREQUENCY_BYTES * (3 + 3 * len(crystal.atomic_numbers))
    refuse_too_large(needed, f"the {points:.3g} wave vectors of a mesh of {mesh:g} Å", remedy="use a shorter mesh")
    program = _phonopy(crystal, repeats, masses)
    program.generate_displacements(distance=displacement)
    forces = _forces(program, model, on_force)
    _refuse_unbound(forces, model, crystal, repeats)
    program.forces = forces
    program.produce_force_constants(show_drift=False)
    program.symmetrize_force_constants()
    return _evaluate(program, repeats, mesh, temperatures)


def _repeats(supercell: Sequence[int]) -> tuple[int, ...]:
    """Repeats that a user gave, checked."""
    repeats = np.asarray(supercell)
    if repeats.shape != (3,) or not np.issubdtype(repeats.dtype, np.integer) or repeats.min() < 1:
        raise ValueError(f"the supercell {supercell} is not three positive whole numbers")
    return tuple(repeats.tolist())


def enough_repeats(crystal: Crystals, min_length: float) -> tuple[int, ...]:
    """The fewest repeats of the cell whose opposite faces are at least ``min_length`` (Å) apart."""
    return tuple(max(1, int(np.ceil(min_length / float(side)))) for side in plane_distances(crystal.lattice)[0])


def _refuse_masses(masses: Sequence[float] | NDArray[np.float64], crystal: Crystals) -> None:
    """An error for what phonopy cannot take, which holds atoms of one element for equal when it looks for symmetry."""
    numbers, given = crystal.atomic_numbers.cpu().numpy(), np.asarray(masses)
    if given.shape != numbers.shape:
        raise ValueError(f"{given.size} masses for {len(numbers)} atoms; give one for each")
    if not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"the masses {given.tolist()} must be positive numbers of u")
    for number in np.unique(numbers):
        if not np.allclose(given[numbers == number], given[numbers == number][0]):
            raise ValueError(
                f"atoms of {SYMBOLS[number]} have different masses; phonons are of one isotope of an element"
            )


def _phonopy(crystal: Crystals, repeats: tuple[int, ...], masses: Sequence[float] | NDArray[np.float64] | None) -> Any:
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
        from phonopy.structure.cells import guess_primitive_matrix
    except ImportError as error:
        raise ImportError('phonons need phonopy: pip install "dao-ase[phonons]"') from error
    cell = PhonopyAtoms(
        symbols=[SYMBOLS[number] for number in crystal.atomic_numbers.tolist()],
        scaled_positions=crystal.frac_coords.double().numpy(),
        cell=crystal.lattice[0].double().numpy(),
        masses=masses,
    )
    primitive = guess_primitive_matrix(cell, symprec=SYMPREC)
    return Phonopy(cell, np.diag(repeats), primitive_matrix=primitive, symprec=SYMPREC)


def _forces(program: Any, model: Potential, on_force: Callable[[int, int], object] | None) -> NDArray[np.float64]:
    forces = []
    supercells = program.supercells_with_displacements
    for done, cell in enumerate(supercells, start=1):
        displaced = Crystals(
            torch.tensor(np.asarray(cell.cell), device="cpu").unsqueeze(0),
            torch.tensor(np.asarray(cell.scaled_positions), device="cpu"),
            torch.tensor(np.asarray(cell.numbers, dtype=np.int64), device="cpu"),
            torch.tensor([len(cell)], device="cpu"),
        )
        forces.append(predict_crystals(model, displaced).forces.double().cpu().numpy())
        if on_force is not None:
            on_force(done, len(supercells))
    return np.stack(forces)


def _refuse_unbound(forces: NDArray[np.float64], model: Potential, crystal: Crystals, repeats: tuple[int, ...]) -> None:
    """An error where no displaced atom is pulled back: nothing vibrates."""
    if np.abs(forces).max() > NO_FORCE:
        return
    if forces.shape[1] == 1:
        raise ValueError(
            f"a supercell of {list(repeats)} holds a single atom, which moves with all its images: no force comes from "
            "that; take a larger supercell"
        )
    raise ValueError(
        f"no force pulls displaced atoms back: none has a neighbour within DAO-P's cutoff, here "
        f"{model.max_cutoff(crystal.atomic_numbers):.1f} Å, so there are no phonons; is the cell too large?"
    )


def _evaluate(program: Any, repeats: tuple[int, ...], mesh: float, temperatures: Sequence[float]) -> Phonons:
    program.run_qpoints([[0, 0, 0]])
    gamma = np.sort(np.asarray(program.qpoints.frequencies[0]))
    bands = _bands(program)
    program.run_mesh(mesh)
    program.run_total_dos()
    program.run_thermal_properties(
        temperatures=list(temperatures), cutoff_frequency=1e-3
    )  # three modes are translations
    density, thermal = program.total_dos, program.thermal_properties.thermal_properties
    on_mesh = float(np.min(program.mesh.frequencies))
    return Phonons(
        gamma,
        bands,
        np.asarray(density.frequency_points),
        np.asarray(density.dos),
        {
            "atoms": len(program.primitive),
            "temperature_K": np.asarray(thermal[0]).tolist(),
            "free_energy_kJ_mol": np.asarray(thermal[1]).tolist(),
            "entropy_J_K_mol": np.asarray(thermal[2]).tolist(),
            "heat_capacity_J_K_mol": np.asarray(thermal[3]).tolist(),
        },
        repeats,
        len(program.supercells_with_displacements),
        min(on_mesh, float(bands.frequencies.min())),
        program,
    )


def _bands(program: Any, points: int = 160) -> Bands:
    """Along the standard path of the Bravais lattice (Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299, 2010)."""
    from ase.cell import Cell

    path = Cell(np.asarray(program.primitive.cell)).bandpath(npoints=points)
    program.run_qpoints(path.kpts)
    distance, ticks, labels = path.get_linear_kpoint_axis()
    return Bands(distance, np.asarray(program.qpoints.frequencies), ticks.tolist(), list(labels))
