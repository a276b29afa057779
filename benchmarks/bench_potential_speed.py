"""Seconds a call (energy, forces, stress) on one core, DAO-P and CHGNet beside it; cost and memory from 100 to 10,000 atoms.

Every call sees slightly moved atoms, as in dynamics. The two take turns, so that other work on the machine slows both. First
calls are not counted: one of CHGNet, and as many of DAO-P as come before it plays from its tape. Freed memory stays with the
process, or a call of one would pay for giving back what the other took; page faults say how much a call took anew.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import contextlib
import ctypes
import resource
import statistics
import time
import warnings
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.spacegroup import crystal
from record import arguments, record

from dao_ase import DAOCalculator
from dao_ase.derivatives import RECORD_AT

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
with contextlib.suppress(OSError, AttributeError):  # the C library of Linux
    for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        ctypes.CDLL(None).mallopt(option, 1 << 30)
CSV3SB5 = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"


def systems(quick: bool) -> dict[str, Atoms]:
    """The crystals of the level."""
    cubic = bulk("Si", cubic=True)
    rutile = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )
    found = {
        "Al": bulk("Al"),
        "Si2": bulk("Si"),
        "NaCl": bulk("NaCl", "rocksalt", a=5.64),
        "TiO2": rutile,
        "CsV3Sb5": ase.io.read(CSV3SB5),
        "Si216": cubic * (3, 3, 3),
        "Si1000": cubic * (5, 5, 5),
    }
    return dict(list(found.items())[:5]) if quick else found


def seconds(calculator: Calculator, atoms: Atoms, seed: int) -> tuple[float, float, int]:
    """Wall and processor time of one call on slightly displaced atoms, and its page faults."""
    moved = atoms.copy()
    moved.rattle(0.01, seed=seed)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    wall, processor = time.perf_counter(), time.process_time()
    calculator.calculate(moved, ["energy", "forces", "stress"], all_changes)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def compare(calculators: dict[str, Calculator], atoms: Atoms, repeats: int) -> dict:
    """Median milliseconds of each calculator, calls taking turns."""
    times: dict[str, list] = {name: [] for name in calculators}
    for repeat in range(RECORD_AT):
        seconds(calculators["DAO-P"], atoms, repeat)
    for repeat in range(repeats + 1):
        for name, calculator in calculators.items():
            times[name].append(seconds(calculator, atoms, repeat))
    row = {}
    for name, values in times.items():
        wall, processor, faults = (statistics.median(value[k] for value in values[1:]) for k in range(3))
        row[name] = {
            "wall_ms": round(1e3 * wall, 2),
            "processor_ms": round(1e3 * processor, 2),
            "page_faults": int(faults),
        }
    if len(row) == 2:
        peer = next(name for name in row if name != "DAO-P")
        row["times_faster"] = round(row[peer]["processor_ms"] / row["DAO-P"]["processor_ms"], 1)
    return row


def scaling(calculator: Calculator, sizes: list[int]) -> dict:
    """Processor time against the number of atoms, the exponent of a power law, and the peak memory."""
    rows = {}
    for size in sizes:
        atoms = bulk("Si", cubic=True) * (size, size, size)
        best = min(seconds(calculator, atoms, seed)[1] for seed in range(2))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        rows[len(atoms)] = {"processor_s": round(best, 3), "peak_memory_GiB": round(peak, 2)}
    atoms_, times = list(rows), [row["processor_s"] for row in rows.values()]
    exponent = float(np.polyfit(np.log(atoms_), np.log(times), 1)[0]) if len(rows) > 1 else None
    return {"atoms": rows, "exponent": exponent and round(exponent, 3)}


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    ours = DAOCalculator()
    calculators: dict[str, Calculator] = {"DAO-P": ours}
    large = scaling(ours, [2, 3] if options.quick else [2, 3, 5, 8, 11])
    try:
        from chgnet.model.dynamics import CHGNetCalculator

        calculators["CHGNet 0.4.2"] = CHGNetCalculator(use_device="cpu", verbose=False)
    except ImportError:
        pass
    figures: dict = {
        name: compare(calculators, atoms, 20 if len(atoms) < 10 else 3)
        for name, atoms in systems(options.quick).items()
    }
    figures["scaling of DAO-P"] = large
    record("potential_speed", figures, packages=("chgnet",) if len(calculators) == 2 else ())
