"""Phonons of silicon with phonopy's own interface and forces of DAO-P; ``dao-ase phonons`` does it in one command.

pip install "dao-ase[phonons]"
"""

import os

import numpy as np
from ase import Atoms
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from dao_ase import DAOCalculator

SIZE = 2 if "DAO_ASE_SMOKE" in os.environ else 3  # the tests run this file and have no time

silicon = bulk("Si", a=5.46)
phonons = Phonopy(
    PhonopyAtoms(symbols=silicon.symbols, cell=silicon.cell.array, scaled_positions=silicon.get_scaled_positions()),
    supercell_matrix=np.diag([SIZE] * 3),
)
phonons.generate_displacements(distance=0.01)
calculator = DAOCalculator(dtype="float64")
forces = []
for cell in phonons.supercells_with_displacements:
    atoms = Atoms(cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True)
    atoms.calc = calculator
    forces.append(atoms.get_forces())
phonons.forces = forces
phonons.produce_force_constants()
for name, point in (("Γ", [0, 0, 0]), ("X", [0.5, 0, 0.5]), ("L", [0.5, 0.5, 0.5])):
    print(name, np.round(phonons.run_qpoints([point]).frequencies[0], 2), "THz")
