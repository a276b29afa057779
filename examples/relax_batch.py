"""Relax many crystals at once: one call of the model for all that are still moving, and no crystal can stop another."""

import os
import time
from pathlib import Path

from pymatgen.core import Lattice, Structure

from dao_ase.calculator import load_potential
from dao_ase.convert import from_structures
from dao_ase.relax import relax

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time
COPIES = 2 if SMOKE else 20

kagome = Structure.from_file(Path(__file__).parent / "data" / "CsV3Sb5.cif")
salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
structures = [known.copy().perturb(0.1, seed=seed) for seed in range(COPIES) for known in (kagome, salt)]

started = time.perf_counter()
results = relax(from_structures(structures), load_potential(), fmax=0.05, steps=5 if SMOKE else 200)
seconds = time.perf_counter() - started

for structure, result in list(zip(structures, results, strict=True))[:4]:
    fall = (result.start.energy - result.final.energy) / len(structure)
    print(
        f"{structure.composition.reduced_formula:8} {result.steps:4} steps, {fall:.4f} eV/atom lower, {result.reason}"
    )
converged = sum(result.converged for result in results)
print(f"{converged} of {len(results)} converged in {seconds:.1f} s")
