"""One bond of a molecule or crystal is too short and nothing else moves; only forces are kept, nothing is computed twice.

The program is a script that prints what the real one printed for a crystal of two silicon atoms.
"""

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

from crystals import rock_salt, write_npz
from dao_ase.cli import main
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.espresso.close_pairs import (
    MOLECULES,
    SHORTER,
    ClosePairRules,
    bound_crystals,
    close_frames,
    label_close_pairs,
    molecules,
)
from dao_ase.train.labelled import LabelledCrystals
from pseudo import write_upf

PRINTED = Path(__file__).parent / "printed"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A pw.x that counts its calls, and a pseudopotential of hydrogen alone."""
    file = tmp_path / "bin" / "pw.x"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\ncat {PRINTED}/scf.pwo\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")
    write_upf(tmp_path / "upf" / "H.UPF", "H")
    monkeypatch.setattr("dao_ase.espresso.close_pairs.directories", list)  # what is installed here is not looked at
    return lambda: len((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "bonds"), [("H2", [True]), ("CO2", [False]), ("HCN", [True, False]), ("CH3OH", [True, True, False])]
)
def test_each_kind_of_bond_is_shortened_once_to_each_length(name, bonds):
    frames = [frame for whole in molecules([name], 1.6) for frame in close_frames(whole)]
    assert len(frames) == sum(len(SHORTER[hydrogen]) for hydrogen in bonds)
    for frame in frames:
        changed = np.abs(frame.get_all_distances() - molecule(name).get_all_distances()) > 1e-6
        moved = changed.sum(1).argmax()
        assert changed.any() and not np.delete(np.delete(changed, moved, 0), moved, 1).any(), "one atom moves"
        assert frame.pbc.all() and frame.cell.lengths().min() >= 3.2 - 1e-9


def test_lengths_are_parts_of_the_bond():
    bond = molecule("NH3").get_distance(0, 1)
    (whole,) = molecules(["NH3"], 1.6)
    found = [frame.get_all_distances()[0, 1:].min() / bond for frame in close_frames(whole)]
    np.testing.assert_allclose(found, SHORTER[True], rtol=1e-3)


def test_molecules_are_known_and_without_moments():
    assert not any(molecule(name).get_initial_magnetic_moments().any() for name in MOLECULES)


def test_only_forces_are_kept_and_nothing_is_computed_twice(program, tmp_path):
    def label():
        return label_close_pairs(
            tmp_path / "out.npz", tmp_path / "kept", ClosePairRules(("H2", "CO")),
            pseudo_dirs=[tmp_path / "upf"], progress=False,
        )  # fmt: skip

    counts = label()
    assert counts == {"cells": 1, "frames": 3, "left out": 3}, "carbon has no pseudopotential"
    frames = LabelledCrystals.load(tmp_path / "out.npz")
    assert len(frames) == 3 and np.isfinite(frames.forces).all()
    assert np.isnan(frames.energy).all() and np.isnan(frames.stress).all()
    assert label() == counts and program() == 3


def test_command_says_what_is_missing(program, tmp_path, monkeypatch):
    arguments = ["data", "close-pairs", "--pseudo-dir", str(tmp_path / "upf")]
    wrong = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out.txt")])
    assert wrong.exit_code == 1 and ".npz" in wrong.output
    monkeypatch.setenv("PATH", "/nowhere")
    none = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "other.npz")])
    assert none.exit_code == 1 and "pw.x is not on the PATH" in none.output


@pytest.fixture
def hydrides(tmp_path):
    """Solid hydrogen cyanide, lithium hydride, and nickel hydride, which may be magnetic."""
    cyanide = Structure(Lattice.tetragonal(4.6, 4.3), ["H", "C", "N"], [[0, 0, 0], [0, 0, 0.25], [0, 0, 0.52]])
    crystals = {"cyanide": cyanide, "hydride": rock_salt("Li", "H", 4.1), "nickel": rock_salt("Ni", "H", 3.7)}
    file = write_npz(tmp_path / "crystals.npz", crystals)
    return build([open_source(file)], tmp_path / "store", BuildRules(min_atoms=1, max_atoms=8, max_e_hull=None))


def test_of_crystals_only_bonds_of_hydrogen_to_non_metals_are_shortened(hydrides):
    (whole,) = bound_crystals(hydrides, ClosePairRules())
    frames = list(close_frames(whole))
    assert whole.name == "cyanide" and len(frames) == len(SHORTER[True])
    hydrogen, carbon = (whole.atoms.symbols.search(symbol)[0] for symbol in "HC")
    found = [frame.get_distance(hydrogen, carbon, mic=True) for frame in frames]
    np.testing.assert_allclose(found, np.multiply(SHORTER[True], 0.25 * 4.3), rtol=1e-3)
    (whole,) = bound_crystals(hydrides, ClosePairRules(element="C"))
    assert all(frame.get_distance(carbon, 2, mic=True) < 0.27 * 4.3 for frame in close_frames(whole)), (
        "carbon to nitrogen"
    )
    with pytest.raises(ValueError, match="at most 2 atoms"):
        bound_crystals(hydrides, ClosePairRules(max_atoms=2))


def test_crystals_get_more_k_points_than_molecules(hydrides, tmp_path):
    for element in "HCN":
        write_upf(tmp_path / f"{element}.UPF", element)
    (whole,) = bound_crystals(hydrides, ClosePairRules())
    grids = [ClosePairRules().calculation(whole.atoms, crystal, [tmp_path]).k_grid for crystal in (False, True)]
    assert grids[0] == (1, 1, 1) and np.prod(grids[1]) > 1
