"""pw.x as one of the methods that are compared: a preset, a folder of calculations that are never repeated, a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.compare.methods import Evaluation, Relaxed, Times
from dao_ase.espresso.calculation import Calculation
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.presets import Preset
from dao_ase.espresso.pseudopotentials import Pseudopotential, find
from dao_ase.espresso.running import Machine, Result, earlier, is_finished, run
from dao_ase.units import GPA

if TYPE_CHECKING:
    from ase import Atoms

LEAST = 1.0
"""Seconds for which it is not worth while to start pw.x."""
ENOUGH = 1.0
"""GPa. With enough plane waves less is left when those of the start are replaced by those of the end."""
WRONG_STRESS = (
    "is a GTH pseudopotential, with which pw.x's stress is not the derivative of its energy: trust neither its stresses nor "
    "cells that it relaxed, and take the volume from an equation of state"
)
TOO_LOW = "ecutwfc is too low for stresses, so take the volume from an equation of state"


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
            None if path is steps else steps[-1].energy,  # the way's depends on the cell from which it began
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
        self.remarks |= {f"{one.name} {WRONG_STRESS}": None for one in pseudopotentials.values() if one.is_gth}
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


def times_taken(result: Result) -> Times:
    """What a calculation of pw.x took."""
    found = result.output
    return Times(result.wall_seconds, result.processor_seconds, max(len(found.steps), 1), found.scf_iterations)
