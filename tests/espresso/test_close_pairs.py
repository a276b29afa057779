"""One bond of a molecule is too short and nothing else moves; only forces are kept, and nothing is computed twice.

The program is a script that prints what the real one printed for a crystal of two silicon atoms.
"""

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from click.testing import CliRunner

from dao_ase.cli import main
from dao_ase.espresso.close_pairs import MOLECULES, SHORTER, ClosePairRules, close_frames, label_close_pairs
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
    frames = list(close_frames(name, 1.6))
    assert len(frames) == sum(len(SHORTER[hydrogen]) for hydrogen in bonds)
    for frame in frames:
        changed = np.abs(frame.get_all_distances() - molecule(name).get_all_distances()) > 1e-6
        moved = changed.sum(1).argmax()
        assert changed.any() and not np.delete(np.delete(changed, moved, 0), moved, 1).any(), "one atom moves"
        assert frame.pbc.all() and frame.cell.lengths().min() >= 3.2 - 1e-9


def test_lengths_are_parts_of_the_bond():
    bond = molecule("NH3").get_distance(0, 1)
    found = [frame.get_all_distances()[0, 1:].min() / bond for frame in close_frames("NH3", 1.6)]
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
    assert counts == {"molecules": 1, "frames": 3, "left out": 2}, "carbon has no pseudopotential"
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
