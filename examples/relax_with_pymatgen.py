"""Relax a structure by pymatgen's own method, and compare the result with where it started."""

import os
from pathlib import Path

from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from dao_ase import DAOCalculator

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time

known = Structure.from_file(Path(__file__).parent / "data" / "CsV3Sb5.cif")
displaced = known.copy().perturb(0.1, seed=0)
relaxed = displaced.relax(calculator=DAOCalculator(), fmax=0.02, steps=5 if SMOKE else 300)

matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
print(f"displaced: RMSE {matcher.get_rms_dist(displaced, known)[0]:.4f}, {displaced.get_space_group_info()[0]}")
print(f"relaxed:   RMSE {matcher.get_rms_dist(relaxed, known)[0]:.4f}, {relaxed.get_space_group_info(symprec=0.1)[0]}")
