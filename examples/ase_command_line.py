"""ASE's own command line with DAO-P: ``ase run dao`` computes and relaxes, ``ase info`` says where it comes from."""

import subprocess
import sys
from pathlib import Path

from ase.io import read

FILE = Path(__file__).parent / "data" / "CsV3Sb5.cif"


def ase(*arguments: str) -> str:
    """What ``ase ARGUMENTS`` prints."""
    command = [sys.executable, "-m", "ase", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


print("dao_ase" + ase("info", "--plugins").partition("dao_ase")[2])
ase("run", "dao", str(FILE), "-p", "dtype=float64", "-o", "computed.json")  # one more row a run
atoms = read("computed.json")
force = abs(atoms.get_forces()).max()
print(f"{atoms.get_chemical_formula()}: {atoms.get_potential_energy():.4f} eV, largest force {force:.4f} eV/Å")
