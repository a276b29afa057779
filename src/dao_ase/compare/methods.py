"""Who computes: DAO-P, any ASE calculator, pw.x. Each evaluates and relaxes crystals, and says how long it took.

Times are wall and processor seconds; pw.x's are its own clocks, all ranks together.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dao_ase.convert import from_atoms
from dao_ase.espresso.calculation import Calculation
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.presets import Preset
from dao_ase.espresso.pseudopotentials import Pseudopotential, find
from dao_ase.espresso.running import Machine, Result, earlier, is_finished, run
from dao_ase.relax import GPA

if TYPE_CHECKING:
    from ase import Atoms

    from dao_ase.potential import Potential
    from dao_ase.relax import Frame

LEAST = 1.0
"""Seconds for which it is not worth while to start pw.x."""
REPEATS, PATIENCE = 50, 2.0
"""A fast method is timed by the median of so many calls after a first one, or of as many as fit into so many seconds."""
LITTLE = 0.002
"""Å."""
ENOUGH = 1.0
"""GPa. With enough plane waves less is left when those of the start are replaced by those of the end."""
TOO_LOW = "ecutwfc is too low for stresses, so take the volume from an equation of state"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Times:
    """Seconds that were spent, and on how much work; pw.x alone has SCF iterations."""

    wall: float
    processor: float
    ionic_steps: int = 1
    scf_iterations: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, ASE's sign) of one structure; ``notes`` say how they were made."""

    energy: float
    forces: Array
    stress: Array
    times: Times
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Relaxed:
    """A relaxation: the energies (eV) on the way, the end (Å), whether it converged, and ``notes``."""

    energies: list[float]
    lattice: Array
    positions: Array
    converged: bool
    times: Times
    notes: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """What tasks ask of a method."""

    name: str

    def evaluate(self, atoms: Atoms, like: Atoms | None = None) -> Evaluation:
        """Energy, forces and stress; ``like`` is the crystal of a series whose settings hold for all of it."""

    def relax(self, atoms: Atoms, cell: bool) -> Relaxed:
        """The nearest minimum, of the atoms alone or of the cell as well."""


class DaoPotential:
    """DAO-P, called in batches of one, each time from nothing: neighbour lists are part of the price.

    What a call costs within a relaxation or dynamics, where neighbours are known, is noted beside it as ``moved``.
    """

    name = "DAO-P"

    def __init__(self, fmax: float, steps: int = 500) -> None:
        from dao_ase.calculator import load_potential

        self.fmax, self.steps = fmax, steps
        self.model: Potential = load_potential()

    def evaluate(self, atoms: Atoms, like: Atoms | None = None) -> Evaluation:
        """Energy, forces and stress, timed by repetition."""
        from dao_ase.derivatives import predict_crystals

        crystal = from_atoms([atoms])
        found, times = timed(lambda: predict_crystals(self.model, crystal))
        return Evaluation(
            float(found.energy[0]), found.forces.double().numpy(), found.stress[0].double().numpy(), times,
            {"moved": asdict(_moved(atoms))},
        )  # fmt: skip

    def relax(self, atoms: Atoms, cell: bool) -> Relaxed:
        """FIRE until forces and virial are below ``fmax``."""
        from dao_ase.relax import relax

        crystal = from_atoms([atoms])
        settings: dict[str, Any] = {"fmax": self.fmax, "steps": self.steps, "cell": "full" if cell else "none"}
        found, times = timed(lambda: relax(crystal, self.model, **settings)[0])
        traced = relax(crystal, self.model, record=True, **settings)[0].trajectory  # the path, outside the clock
        if found.final is None:
            raise ValueError(f"DAO-P: {found.reason}")
        final: Frame = found.final
        return Relaxed(
            [frame.energy for frame in traced], final.lattice, final.positions, found.converged,
            replace(times, ionic_steps=found.steps + 1), {"end": found.reason, "fmax": self.fmax},
        )  # fmt: skip


def _moved(atoms: Atoms) -> Times:
    """A call of the calculator where the atoms have moved a little since the last one."""
    from dao_ase.calculator import DAOCalculator

    moving, calculator, generator = atoms.copy(), DAOCalculator(), np.random.default_rng(0)

    def call() -> None:
        moving.positions += generator.normal(0.0, LITTLE, moving.positions.shape)
        calculator.calculate(moving, ["energy", "forces", "stress"], ["positions"])

    return timed(call)[1]


def potential_digest() -> str:
    """Twelve hexadecimal digits that tell the installed weights of DAO-P from others."""
    from dao_ase.checkpoint import default_weights

    return hashlib.sha256(default_weights("dao_p").read_bytes()).hexdigest()[:12]


class AsePotential:
    """Any ASE calculator, called as ASE's users call it."""

    def __init__(self, name: str, make: Callable[[], Any], fmax: float, steps: int = 500) -> None:
        self.name, self.fmax, self.steps = name, fmax, steps
        self.calculator = make()

    def evaluate(self, atoms: Atoms, like: Atoms | None = None) -> Evaluation:
        """Energy, forces and stress, timed by repetition."""
        from ase.calculators.calculator import all_changes

        _, times = timed(lambda: self.calculator.calculate(atoms.copy(), ["energy", "forces", "stress"], all_changes))
        results = self.calculator.results
        return Evaluation(
            float(results["energy"]), np.asarray(results["forces"], dtype=float), _full(results["stress"]), times
        )

    def relax(self, atoms: Atoms, cell: bool) -> Relaxed:
        """ASE's FIRE, with its cell filter where the cell may move."""
        from ase.filters import FrechetCellFilter
        from ase.optimize import FIRE

        self.calculator.get_potential_energy(atoms.copy())  # the first call costs more; it is not what is compared
        self.calculator.reset()
        moving = atoms.copy()
        moving.calc = self.calculator
        energies: list[float] = []
        optimizer = FIRE(FrechetCellFilter(moving) if cell else moving, logfile=None)
        optimizer.attach(lambda: energies.append(float(moving.get_potential_energy())))
        started = time.perf_counter(), time.process_time()
        converged = bool(optimizer.run(fmax=self.fmax, steps=self.steps))
        times = Times(
            time.perf_counter() - started[0], time.process_time() - started[1], optimizer.get_number_of_steps() + 1
        )
        return Relaxed(
            energies, moving.cell.array.copy(), moving.positions.copy(), converged, times,
            {"end": "converged" if converged else f"not converged after {self.steps} steps", "fmax": self.fmax},
        )  # fmt: skip


class Espresso:
    """pw.x with a preset. ``deadline`` (of time.monotonic) is when no further calculation is begun."""

    name = "pw.x"

    def __init__(
        self,
        preset: Preset,
        folder: Path,
        machine: Machine,
        pseudo_dirs: Sequence[Path],
        extra: dict[str, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.preset, self.folder, self.machine, self.pseudo_dirs = preset, folder, machine, pseudo_dirs
        self.extra, self.deadline = extra or {}, deadline
        self.wall = self.processor = 0.0
        self.used: dict[str, Pseudopotential] = {}
        self.inputs: dict[str, str] = {}
        self.versions: set[str] = set()
        self.remarks: dict[str, None] = {}

    def evaluate(self, atoms: Atoms, like: Atoms | None = None) -> Evaluation:
        """One SCF calculation, with the k-points of ``like``."""
        grid = None if like is None else self.preset.grid(like.cell.array)
        result = self.run(atoms, "scf", grid)
        if result.problem is not None:
            raise result.problem
        step = result.output.final
        if step.forces is None or step.stress is None:
            raise EspressoError("unreadable", f"{result.folder}: pw.x printed no forces or no stress")
        return Evaluation(step.energy, step.forces, step.stress, times_taken(result), self._notes(result))

    def relax(self, atoms: Atoms, cell: bool) -> Relaxed:
        """pw.x's own BFGS; what was reached is returned also when it did not converge."""
        return self.relaxed(self.run(atoms, "vc-relax" if cell else "relax"), cell)

    def relaxed(self, result: Result, cell: bool) -> Relaxed:
        """The relaxation that a calculation was, of the cell or without it."""
        steps = result.output.steps
        if not steps:
            raise result.problem or EspressoError("unreadable", f"{result.folder}: no energy")
        notes = self._notes(result)
        # after the cell has moved pw.x computes the end once more, with plane waves that suit it: no step of the path
        path = steps[:-1] if cell and result.complete and len(steps) > 1 else steps
        if path is not steps and steps[-1].stress is not None:
            notes["pressure"] = left = float(-np.trace(steps[-1].stress) / 3 * GPA)
            if abs(left) > ENOUGH:
                self.remarks[f"{result.folder.name}: {left:+.1f} GPa are left at the end; {TOO_LOW}"] = None
        return Relaxed(
            [one.energy for one in path], steps[-1].lattice, steps[-1].positions, result.complete,
            times_taken(result), notes | {"end": str(result.problem or "converged")},
        )  # fmt: skip

    def run(
        self, atoms: Atoms, task: str, grid: tuple[int, int, int] | None = None, limit: float | None = None
    ) -> Result:
        """A calculation, whatever comes of it. ``limit`` (processor s) is for all attempts together."""
        try:
            pseudopotentials = find(atoms.get_chemical_symbols(), self.pseudo_dirs)
        except EspressoError:
            self.machine.require_program()  # where both are missing, the program is the first thing to get
            raise
        self.used |= pseudopotentials
        self.remarks |= dict.fromkeys(self._low_cutoffs(pseudopotentials.values()))
        calculation = Calculation(atoms, task, self.preset, pseudopotentials, self.extra, grid)
        result = self._known_or_run(calculation, limit)
        self.inputs[calculation.name] = (result.folder / "espresso.pwi").read_text(encoding="utf-8")
        self.versions.add(result.output.version)
        self.wall, self.processor = self.wall + result.wall_seconds, self.processor + result.processor_seconds
        if result.output.ranks != self.machine.cores:
            said = f"{calculation.name} was computed on {result.output.ranks} core(s), not on {self.machine.cores}"
            self.remarks[said] = None
        return result

    def _low_cutoffs(self, pseudopotentials: Iterable[Pseudopotential]) -> list[str]:
        """Whose stated cutoff is above the preset's, which was raised, or above the one that was set, which stays."""
        if "ecutwfc" not in self.extra:
            return self.preset.cutoffs(pseudopotentials)[2]
        chosen = float(self.extra["ecutwfc"])
        return [
            f"{one.name} needs a cutoff of {one.ecutwfc:.0f} Ry, above the {chosen:.0f} Ry that were set"
            for one in pseudopotentials
            if one.ecutwfc > chosen
        ]

    def _known_or_run(self, calculation: Calculation, limit: float | None) -> Result:
        """Runs pw.x within the walltime and the limit; after them, only what is known already.

        Only wall time can be given to pw.x: so much of it as its calculations so far took for such a processor time.
        """
        if is_finished(calculation, self.folder):
            return run(calculation, self.folder, self.machine)
        known, left = earlier(calculation, self.folder), self.machine.timeout
        if self.deadline is not None:
            left = min(left, self.deadline - time.monotonic())
        if limit is not None:
            pace = max(1 / self.machine.cores, self.wall / self.processor if self.processor else 0.0)
            remaining = limit - (known.processor_seconds if known else 0.0)
            left = min(left, remaining * pace if remaining > LEAST else 0.0)
        if left > 0:
            return run(calculation, self.folder, replace(self.machine, timeout=max(left, 1.0)))
        if known is not None:
            return known
        raise EspressoError(
            "out of time", f"{calculation.name}: not begun, the walltime is used up; the same command goes on here"
        )

    def _notes(self, result: Result) -> dict[str, Any]:
        found = result.output
        return {
            "calculation": result.folder.name,
            "k_points": found.k_points,
            "electrons": found.electrons,
            "attempts": result.attempts,
            "ranks": found.ranks,
            "scf": [one.accuracies for one in found.steps],
        }


PEERS: dict[str, tuple[str, Callable[[], Any]]] = {}
"""Potentials by name: what to install, and how to make the calculator."""


def _chgnet() -> Any:
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device="cpu", verbose=False)


def _matgl() -> Any:
    import matgl
    from matgl.ext.ase import PESCalculator

    return PESCalculator(matgl.load_model("TensorNet-MatPES-PBE-v2025.1-PES"), stress_unit="eV/A3", use_voigt=True)


PEERS |= {"chgnet": ('pip install "dao-ase[chgnet]"', _chgnet), "matgl": ('pip install "dao-ase[matgl]"', _matgl)}


def peer(name: str, fmax: float) -> AsePotential:
    """The potential of a name: one of `PEERS`, or ``module:Class`` for any ASE calculator."""
    if name in PEERS:
        remedy, make = PEERS[name]
    elif ":" in name:
        module, _, attribute = name.partition(":")
        remedy = f"look at the name {name!r}"
        make = lambda: getattr(importlib.import_module(module), attribute)()  # noqa: E731
    else:
        raise ValueError(f"--with {name}: give one of {', '.join(PEERS)}, or module:Class of an ASE calculator")
    try:
        with redirect_stdout(sys.stderr):  # CHGNet says hello, which is no part of a report
            return AsePotential(name, make, fmax)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--with {name}: {error}; {remedy}") from error


def timed(call: Callable[[], Any]) -> tuple[Any, Times]:
    """What a call returns, and the median time of several; the first one only warms up."""
    result = call()
    wall: list[float] = []
    processor: list[float] = []
    begun = time.perf_counter()
    while len(wall) < REPEATS and (not wall or time.perf_counter() - begun < PATIENCE):
        started = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    return result, Times(median(wall), median(processor))


def times_taken(result: Result) -> Times:
    """What a calculation of pw.x took."""
    found = result.output
    return Times(result.wall_seconds, result.processor_seconds, max(len(found.steps), 1), found.scf_iterations)


def _full(stress: Any) -> Array:
    from ase.stress import voigt_6_to_full_3x3_stress

    stress = np.asarray(stress, dtype=float)
    return stress if stress.shape == (3, 3) else np.asarray(voigt_6_to_full_3x3_stress(stress))
