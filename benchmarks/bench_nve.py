"""Drift of the total energy in dynamics at constant energy, and what a step costs.

Silicon, rock salt and copper of about 500 atoms, relaxed, velocities of 600 K so that half of it remains as temperature,
steps of 1 fs. The drift is the slope of a line through the total energy times the length of the run, so that the fast
exchange of kinetic and potential energy does not count. Trajectories stay in ``--folder``, so that a run that was stopped is
continued by the same command; what a step costs is measured on the steps that are new.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from record import arguments, record

from dao_ase import DAOCalculator
from dao_ase.convert import from_atoms
from dao_ase.relax import relax
from dao_ase.simulate.dynamics import run_dynamics
from dao_ase.simulate.trajectory import DynamicsSettings, read_dynamics, summarise

CELLS = {
    "Si": (bulk("Si", cubic=True), 4),
    "NaCl": (bulk("NaCl", "rocksalt", a=5.6, cubic=True), 4),
    "Cu": (bulk("Cu", cubic=True), 5),
}
"""Cubic cells, and how often each is repeated for about 500 atoms."""


def relaxed(name: str, calculator: DAOCalculator, quick: bool) -> Atoms:
    """A relaxed crystal of about 500 atoms; one cell of it when in a hurry."""
    cell, repeats = CELLS[name]
    final = relax(from_atoms([cell]), calculator.model, fmax=0.001)[0].final
    atoms = Atoms(cell.numbers, positions=final.positions, cell=final.lattice, pbc=True)
    return atoms if quick else atoms * (repeats, repeats, repeats)


def drift(atoms: Atoms, calculator: DAOCalculator, steps: int, seed: int, path: Path) -> dict:
    """What came of one run."""
    settings = DynamicsSettings("nve", temperature=600, timestep=1.0, interval=20, seed=seed)
    began, cpu = time.perf_counter(), time.process_time()
    new = settings.interval * sum(1 for _ in run_dynamics(atoms, calculator, steps, path, settings))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    seen = read_dynamics(path)[1]
    found = summarise(seen, len(atoms))
    total = 1e3 * np.array([one.total for one in seen]) / len(atoms)
    return {
        "atoms": len(atoms),
        "ps": found["time_ps"],
        "mean_temperature_K": round(found["temperature"]["mean"], 1),
        "drift_meV_atom": round(abs(found["total_energy_drift_meV_atom_ps"]) * found["time_ps"], 4),
        "largest_deviation_meV_atom": round(float(np.abs(total - total[0]).max()), 4),
        "processor_ms_a_step": round(1e3 * cpu / new, 2) if new else None,
        "wall_ms_a_step": round(1e3 * wall / new, 2) if new else None,
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--systems", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--model", help="weight file of DAO-P; default: the installed one")
    parser.add_argument("--folder", type=Path, default=Path("runs/nve"), help="where the trajectories stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = DAOCalculator(options.model)
    steps = 200 if options.quick else options.steps
    folder = options.folder / ("quick" if options.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        name: drift(relaxed(name, ours, options.quick), ours, steps, options.seed, folder / f"{name}.traj")
        for name in options.systems
    }
    record("nve", figures, seed=options.seed)
