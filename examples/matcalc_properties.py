"""Bulk modulus and elastic constants of a crystal with matcalc, which takes DAOCalculator as it is.

pip install "dao-ase[matcalc]"
"""

import os
import warnings

from matcalc import ElasticityCalc, EOSCalc
from pymatgen.core import Lattice, Structure

from dao_ase import DAOCalculator

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time
warnings.simplefilter("ignore")  # remarks of matcalc's libraries

silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).get_primitive_structure()
calculator = DAOCalculator(dtype="float64")
curve = EOSCalc(calculator, fmax=0.1, max_steps=5 if SMOKE else 200, n_points=5).calc(silicon)
print(f"bulk modulus from the energy-volume curve: {curve['bulk_modulus_bm']:.0f} GPa")
elastic = ElasticityCalc(calculator, fmax=0.1, relax_structure=not SMOKE, units_GPa=True).calc(silicon)
print(f"from strains: bulk {elastic['bulk_modulus_vrh']:.0f} GPa, shear {elastic['shear_modulus_vrh']:.0f} GPa")
