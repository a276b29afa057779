"""What a trajectory of molecular dynamics holds: settings, frames and their numbers, and whether a run may go on from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.io.trajectory import Trajectory
from numpy.typing import NDArray

from dao_ase.units import GPA

ENSEMBLES = ("nve", "nvt", "npt")
LEAST_DAMPING = 2
"""Timesteps. Langevin's temperature comes out wrong with a faster thermostat, and that of npt overflows."""
SAME, SAME_ENERGY = 1e-6, 1e-3
"""Å and eV/atom by which a run that goes on may miss its first geometry and its last energy."""


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
    The temperature is ASE's, of 3N momenta; in npt, where the whole is at rest, of 3N − 3.
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


def read_dynamics(path: str | Path) -> tuple[DynamicsSettings, list[Observation]]:
    """The settings of a trajectory that `run_dynamics` wrote, and the numbers of its frames."""
    with Trajectory(path) as file:
        settings = _settings_of(path, file.description)
        return settings, [observe(atoms, frame * settings.interval, settings) for frame, atoms in enumerate(file)]


def observe(atoms: Atoms, step: int, settings: DynamicsSettings) -> Observation:
    """The numbers of atoms that have results."""
    volume, pressure = volume_of(atoms), np.nan
    if volume and has_stress(atoms):
        pressure = -float(atoms.get_stress(include_ideal_gas=True)[:3].mean()) * GPA
    share = internal_share(atoms) if settings.ensemble == "npt" else 1.0
    return Observation(
        step,
        step * settings.timestep / 1000,
        float(atoms.get_potential_energy()),
        float(atoms.get_kinetic_energy()),
        float(atoms.get_temperature()) / share,
        volume,
        pressure,
    )


def internal_share(atoms: Atoms) -> float:
    """The share of the momenta that is left where the whole is at rest, (3N − 3) / 3N: ASE counts 3N."""
    return 1 - 1 / len(atoms)


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


def volume_of(atoms: Atoms) -> float:
    """The volume of the cell (Å³), 0 where there is none."""
    volume = abs(float(np.linalg.det(atoms.cell.array)))
    return volume if volume > 1e-6 else 0.0


def has_stress(atoms: Atoms) -> bool:
    """Whether the calculator of atoms that have a volume gives their stress."""
    try:
        atoms.get_stress()
    except PropertyNotImplementedError:
        return False
    return True


def last_frame(
    path: Path, atoms: Atoms, momenta: NDArray[np.float64] | None, settings: DynamicsSettings
) -> tuple[Atoms, int]:
    """The last frame of a trajectory and its place, if it is of the same run.

    ``momenta`` are those that the run is to begin with, as the constraints leave them; None are those it began with.
    """
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
    if momenta is not None and not np.allclose(first.get_momenta(), momenta, atol=SAME):
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


def refuse_other_potential(path: Path, last: Atoms, calculator: Calculator) -> None:
    """What goes on must go on with the energy with which it stopped, that of springs (`Hookean`) not counted."""
    before, now = last.calc.get_potential_energy(last), calculator.get_potential_energy(last)
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
