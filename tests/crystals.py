"""Small sets of crystals for the tests, in the formats in which sources come."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from dao_ase.data.records import Record

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the reference data are not in {SHARED}")


def rock_salt(first: str = "Na", second: str = "Cl", a: float = 5.64) -> Structure:
    """Rock salt, conventional cell, eight atoms."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return Structure(Lattice.cubic(a), [first] * 4 + [second] * 4, np.concatenate([corners, (corners + 0.5) % 1]))


def rutile(a: float = 4.594, c: float = 2.959, u: float = 0.305) -> Structure:
    """TiO2, six atoms."""
    return Structure.from_spacegroup("P4_2/mnm", Lattice.tetragonal(a, c), ["Ti", "O"], [[0, 0, 0], [u, u, 0]])


def quartz() -> Structure:
    """SiO2, nine atoms, hexagonal, with thirds among its coordinates."""
    lattice = Lattice.hexagonal(4.913, 5.405)
    return Structure.from_spacegroup("P3_221", lattice, ["Si", "O"], [[0.4697, 0, 2 / 3], [0.4135, 0.2669, 0.7858]])


CRYSTALS = {"salt": rock_salt(), "magnesia": rock_salt("Mg", "O", 4.21), "rutile": rutile(), "quartz": quartz()}


def record(structure: Structure, identifier: str = "x", **labels: float) -> Record:
    """A record of a pymatgen structure."""
    numbers = np.array(structure.atomic_numbers, dtype=np.int64)
    return Record(identifier, structure.lattice.matrix.copy(), structure.frac_coords, numbers, "test", 0, labels)


def write_npz(path: Path, structures: dict[str, Structure], **labels: list[float]) -> Path:
    """The ``.npz`` format of the reference data."""
    every = list(structures.values())
    np.savez(
        path,
        n_atoms=np.array([len(one) for one in every], dtype=np.int32),
        numbers=np.concatenate([one.atomic_numbers for one in every]).astype(np.uint8),
        frac_coords=np.concatenate([one.frac_coords for one in every]).astype(np.float32),
        lattice=np.array([one.lattice.matrix for one in every], dtype=np.float32),
        id=np.array(list(structures)),
        **{name: np.array(values, dtype=np.float64) for name, values in labels.items()},
    )
    return path


def write_csv(
    path: Path, structures: dict[str, Structure], symprec: float | None = None, **labels: list[float]
) -> Path:
    """The CSV format of the benchmarks."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "material_id", *labels, "pretty_formula", "cif"])
        for row, (name, one) in enumerate(structures.items()):
            values = [column[row] for column in labels.values()]
            writer.writerow([row, name, *values, one.reduced_formula, str(CifWriter(one, symprec=symprec))])
    return path
