"""Molecular dynamics with ASE's integrators, written to a trajectory from which a run is continued.

    NVE  velocity Verlet                          energy is conserved
    NVT  Langevin, x″ = F/m − x′/τ + noise        a thermostat with memory τ
    NPT  Martyna, Tobias and Klein, isotropic     the volume moves, the shape of the cell stays

The trajectory is the only record: it holds the settings and, every ``interval`` steps, the atoms with their momenta,
energy, forces and stress. What a table or a plot shows is read from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.io.trajectory import Trajectory, TrajectoryWriter
from ase.md.md import MolecularDynamics
from numpy.typing import NDArray

from dao_ase.relax import MAX_FORCE
from dao_ase.simulate.trajectory import (
    DynamicsSettings,
    Observation,
    has_stress,
    internal_share,
    last_frame,
    observe,
    refuse_other_potential,
    volume_of,
)
from dao_ase.whole_files import only_one, replacing

MAX_TEMPERATURE = 1e5
"""K; beyond it no crystal is left, and the run is taken for a blow-up."""


class BlowUpError(RuntimeError):
    """A run that cannot go on; its trajectory ends with the last good frame."""


def run_dynamics(
    atoms: Atoms, calculator: Calculator, steps: int, path: str | Path, settings: DynamicsSettings | None = None
) -> Iterator[Observation]:
    """Runs until step ``steps``, writes every frame to ``path`` (.traj) and yields its numbers; continues what is there.

    Velocities are drawn at the temperature, without drift, unless the atoms have momenta; npt takes the drift from these,
    too. A run of the same atoms and settings that is already in ``path`` goes on from its last frame: exactly in the
    ensemble nve, with new random numbers in nvt, with a rested barostat in npt. What cannot run is refused at once, before
    the first step is asked for. `BlowUpError` says that the atoms flew apart; what is written stays.
    """
    settings, path = settings or DynamicsSettings(), Path(path)
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must not be negative")
    if steps % settings.interval:
        raise ValueError(
            f"{steps} steps are not a multiple of the {settings.interval} steps between frames; change one of the two"
        )
    moving, done = _prepare(atoms, settings), -1
    if path.exists():
        momenta = moving.get_momenta() if _moves(atoms) else None
        moving, done = last_frame(path, atoms, momenta, settings)
        refuse_other_potential(path, moving, calculator)
    moving.calc = calculator
    _refuse_immovable(moving, settings)
    moving.get_potential_energy()  # atoms that have none leave no file
    return _frames(moving, steps, path, settings, done)


def _frames(atoms: Atoms, steps: int, path: Path, settings: DynamicsSettings, done: int) -> Iterator[Observation]:
    """Steps and frames after the one numbered ``done``, which the atoms are at; -1 where there is none."""
    integrator = _integrator(atoms, settings, max(done, 0))
    kept = ["energy", "forces", *(["stress"] if volume_of(atoms) and has_stress(atoms) else [])]
    path.parent.mkdir(parents=True, exist_ok=True)  # now that nothing is refused any more
    with only_one(path.with_name(f".{path.name}.lock"), f"another run is writing to {path}"):
        if _count(path) != done + 1:
            raise ValueError(f"another run has written to {path} meanwhile; begin again, or write elsewhere")
        if done < 0:
            with replacing(path) as temporary, Trajectory(temporary, "w", properties=kept) as file:
                file.set_description({"dynamics": asdict(settings)})
                file.write(atoms)
            yield observe(atoms, 0, settings)
        with Trajectory(path, "a", properties=kept) as file:
            for frame in range(max(done, 0) + 1, steps // settings.interval + 1):
                _advance(integrator, atoms, settings.interval, frame * settings.interval)
                _append(file, atoms)
                yield observe(atoms, frame * settings.interval, settings)


def _append(file: TrajectoryWriter, atoms: Atoms) -> None:
    """Writes a frame, all of it or nothing: after an interrupt within, closing the file would write what it has of it."""
    try:
        file.write(atoms)
    except BaseException:
        file.backend.data = {}
        raise


def _count(path: Path) -> int:
    """How many frames a trajectory has."""
    if not path.exists():
        return 0
    with Trajectory(path) as file:
        return len(file)


def _refuse_immovable(atoms: Atoms, settings: DynamicsSettings) -> None:
    """An error for what the ensemble cannot move."""
    if settings.ensemble == "npt":
        if not atoms.pbc.all():
            raise ValueError(
                f"pbc is {atoms.pbc.tolist()}; a pressure needs a cell that is periodic in three directions"
            )
        if atoms.constraints:
            raise ValueError("some atoms are constrained; npt moves all of them: take nvt, or remove the constraints")
        if not has_stress(atoms):
            raise ValueError(f"the calculator {atoms.calc.name!r} gives no stress, which npt needs; take nvt")
        if len(atoms) == 1:
            raise ValueError("a single atom moves with all its images, so npt gives it no temperature: repeat the cell")
    try:
        free = atoms.get_number_of_degrees_of_freedom()
    except NotImplementedError as error:
        names = ", ".join(sorted({type(one).__name__ for one in atoms.constraints}))
        raise ValueError(f"no temperature is defined under all of the constraints {names}; remove those") from error
    if free < 1:
        raise ValueError("every atom is fixed, so nothing can move; remove a constraint")


def _prepare(atoms: Atoms, settings: DynamicsSettings) -> Atoms:
    moving = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, tags=atoms.get_tags())
    for name in ("initial_magmoms", "initial_charges"):  # for other programs, to which frames are given
        if atoms.has(name):
            moving.set_array(name, atoms.get_array(name))
    moving.set_masses(atoms.get_masses())
    moving.set_constraint(atoms.constraints)
    masses = moving.get_masses()
    if not _moves(atoms):
        moving.set_momenta(_without_drift(_draw_momenta(masses, settings), masses))
    elif settings.ensemble == "npt":  # whose thermostat would take the drift for heat
        moving.set_momenta(_without_drift(atoms.get_momenta(), masses))
    else:
        moving.set_momenta(atoms.get_momenta())
    return moving


def _moves(atoms: Atoms) -> bool:
    """Whether atoms have momenta: those that are all zero, as of VASP's CONTCAR after a relaxation, are none."""
    return atoms.has("momenta") and bool(atoms.get_momenta().any())


def _draw_momenta(masses: NDArray[np.float64], settings: DynamicsSettings) -> NDArray[np.float64]:
    """Maxwell and Boltzmann's: p ~ √(m kT) N(0, 1)."""
    rng = np.random.default_rng(settings.seed)
    return np.sqrt(masses * units.kB * settings.temperature)[:, None] * rng.normal(size=(len(masses), 3))


def _without_drift(momenta: NDArray[np.float64], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Momenta less the motion of the whole."""
    return momenta - masses[:, None] * momenta.sum(0) / masses.sum()


def _integrator(atoms: Atoms, settings: DynamicsSettings, done: int) -> MolecularDynamics:
    step, temperature = settings.timestep * units.fs, settings.temperature
    if settings.ensemble == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, step)
    if settings.ensemble == "nvt":
        from ase.md.langevin import Langevin

        # a continued run must not see the same noise again; and [seed, 0] would be seed, which the velocities are drawn by
        rng = np.random.default_rng([settings.seed, done + 1])
        friction = 1 / (settings.damping * units.fs)
        return Langevin(atoms, step, temperature_K=temperature, friction=friction, rng=rng, fixcm=False)
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    return IsotropicMTKNPT(
        atoms,
        step,
        temperature_K=temperature * internal_share(atoms),  # as if each of the 3N momenta had kT/2, also the drift
        pressure_au=settings.pressure * units.GPa,
        tdamp=settings.damping * units.fs,
        pdamp=10 * settings.damping * units.fs,
    )


def _advance(integrator: MolecularDynamics, atoms: Atoms, steps: int, end: int) -> None:
    """Some steps; an error that says where the run blew up."""
    place = f"between step {end - steps} and {end}"
    try:
        integrator.run(steps)
    except ValueError as error:  # what the calculator says of positions that have no energy
        raise BlowUpError(f"blew up {place}: {error}") from error
    force, temperature = float(np.abs(atoms.get_forces()).max()), atoms.get_temperature()
    if not (np.isfinite(force) and force < MAX_FORCE and temperature < MAX_TEMPERATURE):
        raise BlowUpError(
            f"blew up {place}: {temperature:.3g} K, largest force {force:.3g} eV/Å; a smaller timestep may help"
        )
