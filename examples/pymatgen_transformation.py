"""What may a compound look like when its elements are replaced? A substitution, then DAO-G, in pymatgen's transmuter."""

import os
import warnings
from pathlib import Path

from pymatgen.alchemy.materials import TransformedStructure
from pymatgen.alchemy.transmuters import StandardTransmuter
from pymatgen.core import Structure
from pymatgen.transformations.standard_transformations import SubstitutionTransformation

from dao_ase.transformations import GenerateTransformation

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time

with warnings.catch_warnings(action="ignore"):  # pymatgen remarks on every ⅓
    known = Structure.from_file(Path(__file__).parent / "data" / "CsV3Sb5.cif")
steps = [SubstitutionTransformation({"Cs": "K", "Sb": "Bi"}), GenerateTransformation(n=2 if SMOKE else 20)]
candidates = StandardTransmuter(
    [TransformedStructure(known, [])], steps, extend_collection=2 if SMOKE else 5
).transformed_structures

for candidate in candidates:
    last = candidate.history[-1]
    structure = candidate.final_structure
    print(f"{structure.formula:12} {structure.get_space_group_info(symprec=0.1)[0]:10} after {last['@class']}")
