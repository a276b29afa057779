"""Who computes: DAO-P, and any ASE calculator; pw.x has a module of its own (`espresso_method`). Each evaluates and relaxes
crystals, and says how long it took.

Times are wall and processor seconds; pw.x's are its own clocks, all ranks together.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dao_ase.convert import from_atoms

if TYPE_CHECKING:
    from ase import Atoms

    from dao_ase.potential import Potential
    from dao_ase.relax import Frame

REPEATS, PATIENCE = 50, 2.0
"""A fast method is timed by the median of so many calls after a first one, or of as many as fit into so many seconds."""
LITTLE = 0.002
"""Å."""
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
    """A relaxation: the energies (eV) on the way, the end (Å), whether it converged, and ``notes``.

    ``energy`` is that of the end where it was computed otherwise than the way; None where it is the way's last.
    """

    energies: list[float]
    lattice: Array
    positions: Array
    converged: bool
    times: Times
    notes: dict[str, Any] = field(default_factory=dict)
    energy: float | None = None


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
        """Quasi-Newton steps until forces and virial are below ``fmax``."""
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

    moving, generator = atoms.copy(), np.random.default_rng(0)
    calculator = DAOCalculator(device="cpu")  # where all are timed, also beside a GPU

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
    except Exception as error:  # what is not installed, or needs settings, raises whatever it likes
        raise ValueError(f"--with {name}: {str(error) or type(error).__name__}; {remedy}") from error


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


def _full(stress: Any) -> Array:
    from ase.stress import voigt_6_to_full_3x3_stress

    stress = np.asarray(stress, dtype=float)
    return stress if stress.shape == (3, 3) else np.asarray(voigt_6_to_full_3x3_stress(stress))
