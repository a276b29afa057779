"""dao-ase md, eos and phonons: files, JSON, plots, and what happens to bad input."""

import csv
import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLengths, Hookean
from ase.io import read, write
from click.testing import CliRunner

from dao_ase.cli import main
from dao_ase.simulate import dynamics
from dao_ase.simulate.equation_of_state import EquationOfStateFit
from named import rattled


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("salt.cif", bulk("NaCl", "rocksalt", a=5.7))
    write("two.extxyz", [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.7)])
    write("water.xyz", molecule("H2O"))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_equation_of_state_of_salt(folder):
    done = run("eos", "two.extxyz", "--index", 1, "--points", 5, "--json", "-o", "out")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads((folder / "out" / "eos.json").read_text())
    assert found["formula"] == "ClNa"
    assert found["bulk_modulus_GPa"] > 0
    rows = list(csv.DictReader((folder / "out" / "eos.csv").read_text().splitlines()))
    assert [float(row["volume_A3"]) for row in rows] == pytest.approx(found["volumes"])
    assert (folder / "out" / "eos.png").stat().st_size > 5000
    assert "GPa" in run("eos", "salt.cif", "--points", 5).stdout
    assert (folder / "salt_eos" / "eos.png").exists()


def test_each_structure_of_a_file_has_a_folder_of_its_own(folder):
    for index in (0, 1):
        assert run("eos", "two.extxyz", "--index", index, "--points", 5, "--no-relax").exit_code == 0
    formulas = [json.loads((folder / f"two_{index}_eos" / "eos.json").read_text())["formula"] for index in (0, 1)]
    assert formulas == ["Cu", "ClNa"]


def test_copies_of_a_cell_do_not_move_as_one(folder):
    moving = bulk("NaCl", "rocksalt", a=5.7)
    moving.set_momenta([[3.0, 0, 0], [0, 2, 0]])
    write(folder / "moving.traj", moving)
    settings = ["moving.traj", "--ensemble", "nve", "--supercell", 2, 1, 1, "-o", "out"]
    done = run("md", *settings, "--steps", 10)
    assert done.exit_code == 0, done.output
    assert "has velocities for one cell, not for all copies of it; new ones are drawn" in done.stderr
    first = read(folder / "out" / "md.traj", 0).get_momenta()
    assert np.abs(first[:2] - first[2:]).max() > 0.1
    assert run("md", *settings, "--steps", 20).exit_code == 0
    assert run("md", "moving.traj", "--ensemble", "nve", "--steps", 0, "-o", "one").stderr == ""
    assert read(folder / "one" / "md.traj", 0).get_momenta() == pytest.approx(moving.get_momenta())


def test_an_equation_of_state_across_two_structures_is_doubted(folder, monkeypatch):
    command = ["eos", "salt.cif", "--points", 5, "--no-relax", "--move", "nothing", "-o", "out"]
    assert run(*command).stderr == ""
    monkeypatch.setattr(EquationOfStateFit, "hump", 0.01)
    done = run(*command)
    assert done.exit_code == 0
    assert done.stderr.startswith("salt.cif: the energies have more than one minimum") and "--span" in done.stderr


def test_results_are_those_of_one_call_or_none(folder, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    common = ["eos", "salt.cif", "--points", 5, "--no-relax", "--move", "nothing", "-o", "out"]
    assert run(*common).exit_code == 0
    before = {file: file.read_bytes() for file in (folder / "out").iterdir()}
    monkeypatch.setattr("dao_ase.simulate.plots.draw_equation_of_state", full)
    done = run(*common, "--span", 4)
    assert (done.exit_code, done.stderr) == (1, "Error: No space left on device\n")
    assert {file: file.read_bytes() for file in (folder / "out").iterdir()} == before


def test_results_of_a_packed_file_bear_its_bare_name(folder):
    write("salt.cif.gz", bulk("NaCl", "rocksalt", a=5.7))
    assert run("md", "salt.cif.gz", "--steps", 0).exit_code == 0
    assert (folder / "salt_md" / "md.traj").exists()


def test_phonons_take_the_masses_of_the_file(folder):
    """As deuterium has them in a CIF."""
    pytest.importorskip("phonopy", reason='needs phonopy: pip install "dao-ase[phonons]"')
    heavy = bulk("NaCl", "rocksalt", a=5.7)
    heavy.set_masses(4 * heavy.get_masses())
    write("heavy.extxyz", heavy)
    settings = ("--no-relax", "--supercell", 1, 1, 1, "--mesh", 5, "--json")
    usual, slow = (json.loads(run("phonons", name, *settings).stdout) for name in ("salt.cif", "heavy.extxyz"))
    assert slow["gamma_THz"][3:] == pytest.approx([frequency / 2 for frequency in usual["gamma_THz"][3:]], rel=1e-3)


def test_constraints_are_not_kept_and_that_is_said(folder):
    atoms = bulk("Cu")
    atoms.set_constraint(FixAtoms([0]))
    write("fixed.traj", atoms)
    arguments = ("--points", 5, "--no-relax", "--move", "nothing", "--span", 20)
    assert "fixed.traj: constraints of atoms are not kept" in run("eos", "fixed.traj", *arguments).stderr
    assert "constraints" not in run("eos", "two.extxyz", "--index", 0, *arguments).stderr


def test_phonons_of_salt(folder):
    pytest.importorskip("phonopy", reason='needs phonopy: pip install "dao-ase[phonons]"')
    done = run("phonons", "salt.cif", "--supercell", 2, 2, 2, "--mesh", 15, "--fmax", 0.001, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["gamma_THz"]) == 6
    assert found["displacements"] == 2
    names = {path.name for path in (folder / "salt_phonons").iterdir()}
    assert names == {"phonons.json", "phonons.png", "thermal.csv", "phonopy_params.yaml"}
    import phonopy

    again = phonopy.load(folder / "salt_phonons" / "phonopy_params.yaml", log_level=0)
    again.run_qpoints([[0, 0, 0]])
    assert sorted(again.qpoints.frequencies[0]) == pytest.approx(found["gamma_THz"], abs=0.02)


def test_dynamics_go_on_where_they_stopped(folder, monkeypatch):
    settings = ["salt.cif", "--supercell", 2, 1, 1, "--interval", 2, "--json", "-o", "out", "--temperature", 200]
    real, frames = dynamics.run_dynamics, []

    def stopping(*arguments):
        for seen in real(*arguments):
            frames.append(seen)
            yield seen
            if len(frames) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(dynamics, "run_dynamics", stopping)
    stopped = run("md", *settings, "--steps", 10)
    assert stopped.exit_code == 130
    assert "the same command continues" in stopped.stderr
    assert json.loads(stopped.stdout)["steps"] == 4
    monkeypatch.setattr(dynamics, "run_dynamics", real)
    ended = run("md", *settings, "--steps", 10)
    assert ended.exit_code == 0, ended.output
    report = json.loads(ended.stdout)
    assert (report["atoms"], report["steps"], report["frames"]) == (4, 10, 6)
    assert len(read(folder / "out" / "md.traj", ":")) == 6
    rows = list(csv.DictReader((folder / "out" / "md.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 6, 8, 10]
    assert (folder / "out" / "md.png").stat().st_size > 5000
    assert "held 10 steps already, more than 8" in run("md", *settings, "--steps", 8).stderr
    other = run("md", *settings, "--steps", 10, "--temperature", 500)
    assert other.exit_code == 1
    assert "other settings (temperature 200.0)" in other.output


def test_dynamics_that_are_interrupted_at_once_say_so(folder, monkeypatch):
    def stopping(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(dynamics, "run_dynamics", stopping)
    stopped = run("md", "salt.cif", "--steps", 10)
    assert stopped.exit_code == 130
    assert stopped.stderr.strip().endswith("interrupted: the same command continues")


def test_springs_and_bonds_hold_where_the_cell_is_not_repeated(folder):
    salt = bulk("NaCl", "rocksalt", a=5.7, cubic=True)
    salt.set_constraint([Hookean(0, 1, k=5.0, rt=2.0), FixBondLengths([[2, 3]])])
    write("tied.traj", salt)
    done = run("md", "tied.traj", "--steps", 0)
    assert done.exit_code == 0, done.output
    assert [type(one) for one in read("tied_md/md.traj").constraints] == [Hookean, FixBondLengths]
    assert "Repeat is not compatible" in run("md", "tied.traj", "--supercell", 2, 1, 1).stderr


def test_a_molecule_moves_but_has_no_bulk_modulus(folder):
    done = run("md", "water.xyz", "--steps", 10)
    assert done.exit_code == 0, done.output
    assert "pressure" not in done.stdout
    for command in ("eos", "phonons"):
        refused = run(command, "water.xyz")
        assert refused.exit_code == 1
        assert "no crystal" in refused.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["eos", "two.extxyz"], "holds 2 structures; choose one with --index"),
        (["eos", "two.extxyz", "--index", 5], "has no structure 5; it holds 2"),
        (["eos", "missing.cif"], "there is no such file"),
        (["eos", "salt.cif", "--points", 3], "at least 5"),
        (["phonons", "salt.cif", "--steps", 0], "could not be relaxed first"),
        (["phonons", "salt.cif", "--no-relax", "--supercell", 0, 1, 1], "three positive whole numbers"),
        (["phonons", "salt.cif", "--no-relax", "--mesh", 0], "mesh is 0.0 Å; it must be positive"),
        (["md", "salt.cif", "--steps", 15], "not a multiple"),
        (["md", "salt.cif", "--pressure", 2], "needs the ensemble npt"),
        (["md", "salt.cif", "--supercell", 0, 1, 1], "three positive whole numbers"),
        (["md", "salt.cif", "--supercell", 99999, 99999, 99999], "GiB are free on cpu; use a smaller cell"),
        (["md", "water.xyz", "--supercell", 2, 1, 1], "Cannot repeat along undefined lattice vector"),
        (["md", "salt.cif", "--model", "no.safetensors"], "no weight file"),
    ],
)
def test_bad_input_is_said_plainly(folder, arguments, reason):
    done = run(*arguments)
    assert done.exit_code == 1
    assert reason in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_rattled_is_relaxed_first(folder):
    write("bent.cif", rattled(bulk("NaCl", "rocksalt", a=5.7), 0.02))
    done = run("eos", "bent.cif", "--points", 5, "--json", "--fmax", 0.01)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"] == []
