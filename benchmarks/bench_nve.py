"""Drift of the total energy in dynamics at constant energy, and what a step costs.

Silicon, rock salt and copper of about 500 atoms, relaxed, velocities of 600 K so that half of it remains as temperature,
steps of 1 fs. The drift is the slope of a line through the total energy times the length of the run, so that the fast
exchange of kinetic and potential energy does not count.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
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
from dao_ase.simulate.dynamics import DynamicsSettings, run_dynamics, summarise


def systems(calculator: DAOCalculator, quick: bool) -> dict[str, Atoms]:
    """Relaxed crystals of about 500 atoms; a small one when in a hurry."""
    size = 1 if quick else 4
    cells = {
        "Si": bulk("Si", cubic=True) * (size, size, size),
        "NaCl": bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (size, size, size),
        "Cu": bulk("Cu", cubic=True) * (size + 1, size + 1, size + 1),
    }
    for atoms in cells.values():
        final = relax(from_atoms([atoms]), calculator.model, fmax=0.01, keep_symmetry=False)[0].final
        atoms.set_cell(final.lattice)
        atoms.positions = final.positions
    return cells


def drift(atoms: Atoms, calculator: DAOCalculator, steps: int, seed: int) -> dict:
    """What came of one run."""
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        settings = DynamicsSettings("nve", temperature=600, timestep=1.0, interval=20, seed=seed)
        seen = list(run_dynamics(atoms, calculator, steps, Path(folder) / "nve.traj", settings))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - began
    found = summarise(seen, len(atoms))
    total = 1e3 * np.array([one.total for one in seen]) / len(atoms)
    return {
        "atoms": len(atoms),
        "ps": found["time_ps"],
        "mean_temperature_K": round(found["temperature"]["mean"], 1),
        "drift_meV_atom": round(abs(found["total_energy_drift_meV_atom_ps"]) * found["time_ps"], 4),
        "largest_deviation_meV_atom": round(float(np.abs(total - total[0]).max()), 4),
        "processor_ms_a_step": round(1e3 * cpu / steps, 2),
        "wall_ms_a_step": round(1e3 * wall / steps, 2),
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--systems", nargs="+", default=["Si", "NaCl", "Cu"])
    parser.add_argument("--model", help="weight file of DAO-P; default: the installed one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = DAOCalculator(options.model)
    steps = 200 if options.quick else options.steps
    crystals = {name: atoms for name, atoms in systems(ours, options.quick).items() if name in options.systems}
    record(
        "nve", {name: drift(atoms, ours, steps, options.seed) for name, atoms in crystals.items()}, seed=options.seed
    )
