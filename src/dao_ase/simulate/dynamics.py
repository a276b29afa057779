"""Molecular dynamics with ASE's integrators, written to a trajectory from which a run is continued.

    NVE  velocity Verlet                          energy is conserved
    NVT  Langevin, x″ = F/m − x′/τ + noise        a thermostat with memory τ
    NPT  Martyna, Tobias and Klein, isotropic     the volume moves, the shape of the cell stays

The trajectory is the only record: it holds the settings and, every ``interval`` steps, the atoms with their momenta,
energy, forces and stress. What a table or a plot shows is read from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.io.trajectory import Trajectory
from ase.md.md import MolecularDynamics
from numpy.typing import NDArray

from dao_ase.relax import MAX_FORCE
from dao_ase.units import GPA
from dao_ase.whole_files import only_one, replacing

ENSEMBLES = ("nve", "nvt", "npt")
SAME, SAME_ENERGY = 1e-6, 1e-3
"""Å and eV/atom by which a run that goes on may miss its first geometry and its last energy."""
MAX_TEMPERATURE = 1e5
"""K; beyond it no crystal is left, and the run is taken for a blow-up."""

LEAST_DAMPING = 2
"""Timesteps. Langevin's temperature comes out wrong with a faster thermostat, and that of npt overflows."""


class BlowUpError(RuntimeError):
    """A run that cannot go on; its trajectory ends with the last good frame."""


@dataclass(frozen=True)
class DynamicsSettings:
    """How to run: temperature in K, time in fs, pressure in GPa; a frame is kept every ``interval`` steps."""

    ensemble: str = "nvt"
    temperature: float = 300.0
    timestep: float = 1.0
    pressure: float = 0.0
    damping: float = 100.0
    interval: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"the ensemble {self.ensemble!r} is none of {', '.join(ENSEMBLES)}")
        for name in ("temperature", "timestep", "pressure", "damping"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a finite number")
        if self.temperature < 0 or (self.temperature == 0 and self.ensemble != "nve"):
            raise ValueError(f"the temperature is {self.temperature} K; a thermostat needs a positive one")
        for name in ("timestep", "damping", "interval"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.ensemble != "nve" and self.damping < LEAST_DAMPING * self.timestep:
            raise ValueError(
                f"the damping is {self.damping:g} fs with a timestep of {self.timestep:g} fs; a thermostat needs a "
                f"damping of {LEAST_DAMPING} timesteps or more, 100 are usual"
            )
        if self.seed < 0:
            raise ValueError(f"the seed is {self.seed}; it must not be negative")
        if self.pressure and self.ensemble != "npt":
            raise ValueError(f"a pressure of {self.pressure} GPa needs the ensemble npt, not {self.ensemble}")


@dataclass(frozen=True)
class Observation:
    """One frame in numbers: time (ps), energies (eV), temperature (K), volume (Å³), pressure (GPa, with the kinetic part).

    A volume of 0 means that the atoms have none; then, and where a calculator gives no stress, the pressure is not a number.
    """

    step: int
    time: float
    potential: float
    kinetic: float
    temperature: float
    volume: float
    pressure: float

    @property
    def total(self) -> float:
        """The sum of potential and kinetic energy (eV)."""
        return self.potential + self.kinetic


def run_dynamics(
    atoms: Atoms, calculator: Calculator, steps: int, path: str | Path, settings: DynamicsSettings | None = None
) -> Iterator[Observation]:
    """Runs until step ``steps``, writes every frame to ``path`` (.traj) and yields its numbers; continues what is there.

    Velocities are drawn at the temperature, without drift, unless the atoms have momenta. A run of the same atoms and
    settings that is already in ``path`` goes on from its last frame: exactly in the ensemble nve, with new random numbers
    in nvt, with a rested barostat in npt. What cannot run is refused at once, before the first step is asked for.
    `BlowUpError` says that the atoms flew apart; what is written stays.
    """
    settings, path = settings or DynamicsSettings(), Path(path)
    if steps < 0:
        raise ValueError(f"steps is {steps}; it must not be negative")
    if steps % settings.interval:
        raise ValueError(
            f"{steps} steps are not a multiple of the {settings.interval} steps between frames; change one of the two"
        )
    moving, done = _resume(path, atoms, settings) if path.exists() else (_prepare(atoms, settings), -1)
    if done >= 0:
        _refuse_other_potential(path, moving, calculator)
    moving.calc = calculator
    _refuse_immovable(moving, settings)
    moving.get_potential_energy()  # atoms that have none leave no file
    return _frames(moving, steps, path, settings, done)


def _frames(atoms: Atoms, steps: int, path: Path, settings: DynamicsSettings, done: int) -> Iterator[Observation]:
    """Steps and frames after the one numbered ``done``, which the atoms are at; -1 where there is none."""
    integrator = _integrator(atoms, settings, max(done, 0))
    kept = ["energy", "forces", *(["stress"] if _volume(atoms) and _has_stress(atoms) else [])]
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
                file.write(atoms)
                yield observe(atoms, frame * settings.interval, settings)


def _count(path: Path) -> int:
    """How many frames a trajectory has."""
    if not path.exists():
        return 0
    with Trajectory(path) as file:
        return len(file)


def read_dynamics(path: str | Path) -> tuple[DynamicsSettings, list[Observation]]:
    """The settings of a trajectory that `run_dynamics` wrote, and the numbers of its frames."""
    with Trajectory(path) as file:
        settings = _settings_of(path, file.description)
        return settings, [observe(atoms, frame * settings.interval, settings) for frame, atoms in enumerate(file)]


def observe(atoms: Atoms, step: int, settings: DynamicsSettings) -> Observation:
    """The numbers of atoms that have results."""
    volume, pressure = _volume(atoms), np.nan
    if volume and _has_stress(atoms):
        pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean()) * GPA
    return Observation(
        step,
        step * settings.timestep / 1000,
        float(atoms.get_potential_energy()),
        float(atoms.get_kinetic_energy()),
        float(atoms.get_temperature()),
        volume,
        pressure,
    )


def summarise(observations: list[Observation], num_atoms: int) -> dict[str, Any]:
    """Means and spreads of a run, and the drift of the total energy: the slope of a line through it (meV/atom/ps)."""
    columns = {
        name: np.array([getattr(one, name) for one in observations])
        for name in ("time", "potential", "total", "temperature", "volume", "pressure")
    }
    per_atom = 1e3 * columns["total"] / num_atoms
    long_enough = len(observations) > 2
    summary: dict[str, Any] = {
        "frames": len(observations),
        "steps": observations[-1].step,
        "time_ps": observations[-1].time,
        "total_energy_drift_meV_atom_ps": float(np.polyfit(columns["time"], per_atom, 1)[0]) if long_enough else None,
        "total_energy_change_meV_atom": float(per_atom[-1] - per_atom[0]),
    }
    for name in ("potential", "temperature", "volume", "pressure"):
        known = np.isfinite(columns[name]).all() and bool(
            columns["volume"].all() or name in ("potential", "temperature")
        )
        summary[name] = {"mean": float(columns[name].mean()), "std": float(columns[name].std())} if known else None
    return summary


def _volume(atoms: Atoms) -> float:
    """The volume of the cell (Å³), 0 where there is none."""
    volume = abs(float(np.linalg.det(atoms.cell.array)))
    return volume if volume > 1e-6 else 0.0


def _has_stress(atoms: Atoms) -> bool:
    """Whether the calculator of atoms that have a volume gives their stress."""
    try:
        atoms.get_stress()
    except PropertyNotImplementedError:
        return False
    return True


def _refuse_immovable(atoms: Atoms, settings: DynamicsSettings) -> None:
    """An error for what the ensemble cannot move."""
    if settings.ensemble == "npt":
        if not atoms.pbc.all():
            raise ValueError(
                f"pbc is {atoms.pbc.tolist()}; a pressure needs a cell that is periodic in three directions"
            )
        if atoms.constraints:
            raise ValueError("some atoms are constrained; npt moves all of them: take nvt, or remove the constraints")
        if not _has_stress(atoms):
            raise ValueError(f"the calculator {atoms.calc.name!r} gives no stress, which npt needs; take nvt")
    try:
        free = atoms.get_number_of_degrees_of_freedom()
    except NotImplementedError as error:
        names = ", ".join(sorted({type(one).__name__ for one in atoms.constraints}))
        raise ValueError(f"no temperature is defined under all of the constraints {names}; remove those") from error
    if free < 1:
        raise ValueError("every atom is fixed, so nothing can move; remove a constraint")


def _prepare(atoms: Atoms, settings: DynamicsSettings) -> Atoms:
    moving = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, tags=atoms.get_tags())
    moving.set_masses(atoms.get_masses())
    moving.set_constraint(atoms.constraints)
    if atoms.has("momenta"):
        moving.set_momenta(atoms.get_momenta())
    else:
        moving.set_momenta(_draw_momenta(moving.get_masses(), settings))
    return moving


def _draw_momenta(masses: NDArray[np.float64], settings: DynamicsSettings) -> NDArray[np.float64]:
    """Maxwell and Boltzmann's: p ~ √(m kT) N(0, 1), less the motion of the whole."""
    rng = np.random.default_rng(settings.seed)
    momenta = np.sqrt(masses * units.kB * settings.temperature)[:, None] * rng.normal(size=(len(masses), 3))
    return momenta - masses[:, None] * momenta.sum(0) / masses.sum()


def _resume(path: Path, atoms: Atoms, settings: DynamicsSettings) -> tuple[Atoms, int]:
    """The last frame of a trajectory and its place, if it is of the same run."""
    try:
        with Trajectory(path) as file:
            description, ends, place = file.description, [file[end] for end in (0, -1) if len(file)], len(file) - 1
    except (OSError, ValueError, LookupError) as error:  # another file, or one that was cut
        raise ValueError(f"{path} is no trajectory that can be continued ({error}); delete it to begin anew") from error
    known = _settings_of(path, description)
    if not ends:
        raise ValueError(f"{path} holds no frame; delete it to begin anew")
    first, last = ends
    changed = [name for name, value in asdict(settings).items() if value != getattr(known, name)]
    if changed:
        raise ValueError(
            f"{path} holds a run with other settings ({', '.join(f'{n} {getattr(known, n)}' for n in changed)}); "
            "give these, or write elsewhere"
        )
    if not np.array_equal(last.numbers, atoms.numbers):
        raise ValueError(
            f"{path} holds a run of {last.get_chemical_formula()}, not of {atoms.get_chemical_formula()}; write elsewhere"
        )
    if not (
        np.allclose(first.cell.array, atoms.cell.array, atol=SAME)
        and np.allclose(first.positions, atoms.positions, atol=SAME)
        and np.array_equal(first.pbc, atoms.pbc)
    ):
        raise ValueError(
            f"{path} holds a run that began with another geometry of {atoms.get_chemical_formula()}; "
            "write elsewhere, or delete it to begin anew"
        )
    momenta = _prepare(atoms, settings).get_momenta()  # as the constraints leave those given
    if atoms.has("momenta") and not np.allclose(first.get_momenta(), momenta, atol=SAME):
        raise ValueError(
            f"{path} holds a run that began with other velocities; give atoms with the same momenta, or without any, or "
            "write elsewhere"
        )
    if not np.allclose(last.get_masses(), atoms.get_masses()) or _constraints(last) != _constraints(atoms):
        raise ValueError(f"{path} holds a run with other masses or constraints; give the same ones, or write elsewhere")
    return last, place


def _constraints(atoms: Atoms) -> list[Any]:
    """What each constraint says of itself, but for rounding."""
    return [_rounded(one.todict()) if hasattr(one, "todict") else type(one).__name__ for one in atoms.constraints]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(one) for one in value]
    return round(float(value), 6) if isinstance(value, float) else value


def _refuse_other_potential(path: Path, last: Atoms, calculator: Calculator) -> None:
    """What goes on must go on with the energy with which it stopped."""
    before, now = last.get_potential_energy(), calculator.get_potential_energy(last)
    if not abs(now - before) < SAME_ENERGY * len(last):
        raise ValueError(
            f"{path} holds a run with another potential: its last frame has {before:.4f} eV there and {now:.4f} eV here; "
            "give the same model, or write elsewhere"
        )


def _settings_of(path: str | Path, description: Any) -> DynamicsSettings:
    stored = (description or {}).get("dynamics")
    if stored is None:
        raise ValueError(f"{path} is a trajectory, but not one of molecular dynamics with dao-ase; write elsewhere")
    return DynamicsSettings(**stored)


def _integrator(atoms: Atoms, settings: DynamicsSettings, done: int) -> MolecularDynamics:
    step, temperature = settings.timestep * units.fs, settings.temperature
    if settings.ensemble == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, step)
    if settings.ensemble == "nvt":
        from ase.md.langevin import Langevin

        rng = np.random.default_rng([settings.seed, done])  # a continued run must not see the same noise again
        friction = 1 / (settings.damping * units.fs)
        return Langevin(atoms, step, temperature_K=temperature, friction=friction, rng=rng, fixcm=False)
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    return IsotropicMTKNPT(
        atoms,
        step,
        temperature_K=temperature,
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
