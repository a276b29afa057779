"""Relaxation of many crystals at once: each walks by itself, one call of the model serves all that are still moving.

Each crystal has its own steps and its own fate. Converged crystals leave the batch and waiting ones take their place;
what cannot be relaxed is reported and touches no other crystal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase.crystals import Crystals
from dao_ase.potential import Potential
from dao_ase.quasi_newton import QuasiNewton
from dao_ase.rows import Rows
from dao_ase.symmetry import SymmetryOperations
from dao_ase.units import GPA
from dao_ase.verlet import VerletList

MAX_FORCE = 1e4
"""A force beyond this (eV/Å) is taken for a blow-up, and so is a volume that changes by more than `MAX_VOLUME_RATIO`."""
MAX_VOLUME_RATIO = 4.0
BLEW_UP = "blew up"
"""How the reason of a relaxation begins that did."""
SKIN = 0.3
"""Å beyond the cutoffs. A relaxation moves far at first and little later: a thicker skin costs more than it saves."""


@dataclass(frozen=True)
class Frame:
    """One geometry on the way: positions and lattice (Å), energy (eV), forces (eV/Å), stress (eV/Å³)."""

    positions: NDArray[np.float64]
    lattice: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]

    @cached_property
    def max_force(self) -> float:
        """The longest force (eV/Å)."""
        return float(np.sqrt((self.forces**2).sum(1).max()))

    @property
    def pressure(self) -> float:
        """The pressure (GPa), positive when the crystal wants to expand."""
        return float(-np.trace(self.stress) / 3 * GPA)

    @cached_property
    def volume(self) -> float:
        """The volume of the cell (Å³)."""
        return abs(float(np.linalg.det(self.lattice)))


@dataclass(frozen=True)
class Relaxation:
    """What became of one crystal. Without a single valid energy, ``start`` and ``final`` are None."""

    converged: bool
    steps: int
    reason: str
    start: Frame | None
    final: Frame | None
    trajectory: list[Frame] = field(default_factory=list)

    @property
    def blew_up(self) -> bool:
        """Whether forces or volume ran away, so that ``final`` is only the best geometry before."""
        return self.reason.startswith(BLEW_UP)


@dataclass(frozen=True)
class RelaxSettings:
    """How to relax; see `relax`."""

    fmax: float = 0.01
    steps: int = 500
    pressure: float = 0.0
    cell: str = "full"
    keep_symmetry: bool = False

    def __post_init__(self) -> None:
        if not self.fmax > 0:
            raise ValueError(f"fmax is {self.fmax} eV/Å; it must be positive")
        if not np.isfinite(self.pressure):
            raise ValueError(f"the pressure is {self.pressure} GPa; it must be a finite number")
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must not be negative")
        if self.cell not in ("full", "volume", "none"):
            raise ValueError(f"cell {self.cell!r} is none of 'full', 'volume', 'none'")
        if self.pressure and self.cell != "full":
            raise ValueError(
                f"a pressure of {self.pressure} GPa needs a cell whose volume may change: cell 'full', not {self.cell!r}"
            )


@torch.inference_mode(False)
def relax(
    crystals: Crystals,
    model: Potential,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    pressure: float = 0.0,
    cell: str = "full",
    keep_symmetry: bool = False,
    record: bool = False,
    slots: int = 30_000,
    on_done: Callable[[int, Relaxation], object] | None = None,
) -> list[Relaxation]:
    """Relaxes every crystal until its forces, and the virial per atom, are below ``fmax`` (eV/Å, eV).

    ``pressure`` is in GPa. ``cell`` says what may change besides positions: everything ("full"), the shape at constant
    volume ("volume"), nothing ("none"). ``keep_symmetry`` moves what may change onto the symmetry that the crystal has
    within 0.01 Å, and projects forces and stress onto it. About ``slots`` neighbours are evaluated at once. ``record`` keeps
    every geometry; ``on_done`` is told of each that ends.

    A crystal that blows up, or that the model cannot describe, ends with ``converged=False`` and a reason; its ``final``
    is its best geometry until then. At an interrupt (Ctrl-C) ``on_done`` is told how far those on their way have come.
    """
    settings = RelaxSettings(fmax, steps, pressure, cell, keep_symmetry)
    waiting = deque(range(len(crystals)))
    results: dict[int, Relaxation] = {}
    moving: dict[int, _Path] = {}

    def finish(index: int, result: Relaxation) -> None:
        results[index] = result
        moving.pop(index, None)
        if on_done is not None:
            on_done(index, result)

    rows = Rows(model)
    try:
        while waiting or moving:
            while waiting and sum(path.work for path in moving.values()) < slots:
                index = waiting.popleft()
                try:
                    moving[index] = _Path(crystals[index], model, settings, record)
                except ValueError as error:
                    finish(index, Relaxation(False, 0, str(error), None, None))
            for index, answer in zip(list(moving), rows.evaluate(list(moving.values())), strict=True):
                reason = moving[index].advance(Frame(moving[index].positions, moving[index].lattice, *answer))
                if reason is not None:
                    finish(index, moving[index].result(reason))
    except KeyboardInterrupt:
        for index, path in list(moving.items()):
            finish(index, path.result(f"interrupted after {path.taken} steps"))
        raise
    return [results[index] for index in range(len(crystals))]


class _Path:
    """One crystal on its way: quasi-Newton steps in positions and strain.

    The step is x → (x + dx)(1 + ε), L → L(1 + ε). The strain counts as three more atoms, w = s ε with s = 2√N Å, with the
    force −V(σ + p)/s. Their stiffness V C/s², for elastic constants C of about 1 eV/Å³, is then about that of an atom in its
    place in cells of every size, so that cell and atoms move at about the same pace.
    """

    def __init__(self, crystal: Crystals, model: Potential, settings: RelaxSettings, record: bool) -> None:
        self.settings, self.record = settings, record
        self.numbers = crystal.atomic_numbers
        self.lattice = crystal.lattice[0].double().numpy().copy()
        self.positions = crystal.frac_coords.double().numpy() @ self.lattice
        self._refuse_impossible()
        self.symmetry = None
        if settings.keep_symmetry:
            frac_coords = crystal.frac_coords.double().numpy()
            self.symmetry = SymmetryOperations.find(self.lattice, frac_coords, self.numbers.numpy())
            self._refine(self.symmetry, frac_coords)
        self.verlet = VerletList(model, self.numbers, skin=SKIN)
        self.verlet.update(self.positions, self.lattice)
        self.strain_length = 2 * len(self.numbers) ** 0.5
        self.optimizer = QuasiNewton()
        self.taken = 0
        self.start: Frame | None = None
        self.best: Frame | None = None
        self.trajectory: list[Frame] = []

    def _refuse_impossible(self) -> None:
        if not len(self.numbers):
            raise ValueError("the crystal has no atoms")
        if not np.isfinite(self.positions).all() or not np.isfinite(self.lattice).all():
            raise ValueError("a position or the lattice is not a finite number")
        if abs(np.linalg.det(self.lattice)) < 1e-3:
            raise ValueError(
                f"the cell has a volume of {abs(np.linalg.det(self.lattice)):.2g} Å³; it must be three-dimensional"
            )

    def _refine(self, symmetry: SymmetryOperations, frac_coords: NDArray[np.float64]) -> None:
        """Takes away what breaks the symmetry: no force that is projected would ever do so."""
        lattice, frac_coords = symmetry.refined(self.lattice, frac_coords)
        if self.settings.cell == "volume":
            lattice *= np.cbrt(abs(np.linalg.det(self.lattice) / np.linalg.det(lattice)))
        if self.settings.cell != "none":
            self.lattice = lattice
        self.positions = frac_coords @ self.lattice

    @property
    def work(self) -> int:
        """How many slots of neighbours an evaluation visits."""
        return len(self.numbers) * self.verlet.degree

    def advance(self, frame: Frame) -> str | None:
        """Takes in what the model says of the current geometry, and moves on; or says why the path ends here."""
        if not np.isfinite(frame.energy) or not np.isfinite(frame.forces).all() or frame.max_force > MAX_FORCE:
            return f"{BLEW_UP} at step {self.taken}: the largest force is {frame.max_force:.3g} eV/Å"
        if self.start is None:
            self.start = frame
        if not 1 / MAX_VOLUME_RATIO < frame.volume / self.start.volume < MAX_VOLUME_RATIO:
            return (
                f"{BLEW_UP} at step {self.taken}: the volume went from {self.start.volume:.4g} to {frame.volume:.4g} Å³"
            )
        if self.record:
            self.trajectory.append(frame)
        if self.best is None or self._enthalpy(frame) <= self._enthalpy(self.best):
            self.best = frame
        force = self._force(frame)
        if np.sqrt((force**2).sum(1).max()) < self.settings.fmax:
            self.best = frame
            return "converged"
        if self.taken == self.settings.steps:
            best = self.best  # the geometry that is given back, often not this one
            virial = np.sqrt((self._force(best)[-3:] ** 2).sum(1).max())
            of_the_cell = f", that on the cell {virial:.3g} eV an atom" if virial >= self.settings.fmax else ""
            return (
                f"not converged after {self.taken} steps: the largest force is {best.max_force:.3g} eV/Å{of_the_cell}"
            )
        force[-3:] *= len(self.numbers) / self.strain_length  # per unit of w, no longer per atom
        self._move(self.optimizer.step(force))
        self.taken += 1
        try:
            self.verlet.update(self.positions, self.lattice)
        except ValueError as error:
            return f"{BLEW_UP} at step {self.taken}: {error}"
        return None

    def result(self, reason: str) -> Relaxation:
        """What became of the crystal."""
        return Relaxation(reason == "converged", self.taken, reason, self.start, self.best, self.trajectory)

    def _enthalpy(self, frame: Frame) -> float:
        return frame.energy + self.settings.pressure / GPA * frame.volume

    def _force(self, frame: Frame) -> NDArray[np.float64]:
        """Forces on atoms (eV/Å) and the virial per atom (eV), with the constraints applied."""
        forces, stress = frame.forces, frame.stress
        if self.symmetry is not None:
            forces = self.symmetry.symmetrize_vectors(forces, frame.lattice)
            stress = self.symmetry.symmetrize_tensor(stress, frame.lattice)
        virial = -frame.volume * (stress + self.settings.pressure / GPA * np.eye(3)) / len(forces)
        if self.settings.cell == "volume":
            virial = virial - np.trace(virial) / 3 * np.eye(3)
        if self.settings.cell == "none":
            virial = np.zeros((3, 3))
        return np.concatenate([forces - forces.mean(0), virial])

    def _move(self, step: NDArray[np.float64]) -> None:
        growth = np.eye(3) + step[-3:] / self.strain_length
        if self.settings.cell == "volume":
            growth = growth / np.linalg.det(growth) ** (1 / 3)
        self.positions, self.lattice = (self.positions + step[:-3]) @ growth, self.lattice @ growth
