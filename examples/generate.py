"""Candidates for a composition, ranked, compared with the known crystal, and written as a page to look at."""

import os
from pathlib import Path

from pymatgen.core import Structure

from dao_ase import DAOGenerator
from dao_ase.gallery import write_gallery

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time

generator = DAOGenerator()
structures = generator.generate("CsV3Sb5", n=2 if SMOKE else 20, seed=0, relax=not SMOKE)
for structure in structures[:5]:
    energy, group = structure.properties["energy_per_atom"], structure.properties["space_group"]
    print(f"{energy:9.4f} eV/atom  {group:10}  {structure.volume / len(structure):6.2f} Å³/atom")
print(f"refused before: {dict(generator.refused) or 'none'}")

known = Structure.from_file(Path(__file__).parent / "data" / "CsV3Sb5.cif")
print(f"look at {write_gallery(structures, 'CsV3Sb5.html', reference=known)}")
