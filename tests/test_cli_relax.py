"""dao-ase relax and dao-ase energy, as a newcomer calls them."""

import json

import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from click.testing import CliRunner

from dao_ase.calculator import save_potential
from dao_ase.cli import main
from named import random_potential, rattled


@pytest.fixture
def folder(tmp_path):
    save_potential(tmp_path / "weights.safetensors", random_potential().float())
    write(tmp_path / "copper.cif", rattled(bulk("Cu", a=3.7)))
    write(tmp_path / "salt.vasp", rattled(bulk("NaCl", "rocksalt", a=5.6)))
    write(tmp_path / "two.extxyz", [bulk("Cu"), bulk("Al")])
    write(tmp_path / "water.xyz", molecule("H2O"))
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 4\nloop_\n")
    return tmp_path


def run(folder, command, *arguments):
    settings = ["--model", str(folder / "weights.safetensors")]
    return CliRunner().invoke(main, [command, *map(str, arguments), *settings])


def test_relaxed_structure_is_written_and_reported(folder):
    done = run(
        folder, "relax", folder / "copper.cif", "--fmax", "5", "-o", folder / "out.cif", "--traj", folder / "t.traj"
    )
    assert done.exit_code == 0, done.output
    assert "converged after" in done.stdout
    assert "space group" in done.stdout
    assert len(read(folder / "out.cif")) == 1
    assert len(read(folder / "t.traj", ":")) >= 1


def test_json_has_start_and_end(folder):
    done = run(folder, "relax", folder / "copper.cif", folder / "salt.vasp", "--json", "--steps", "2", "--fmax", "1e-6")
    assert done.exit_code == 1  # two steps are not enough
    rows = json.loads(done.stdout)
    assert [row["formula"] for row in rows] == ["Cu", "ClNa"]
    for row in rows:
        assert (row["converged"], row["steps"]) == (False, 2)
        assert row["end"]["energy"] <= row["start"]["energy"]
        assert {"max_force", "pressure", "volume", "space_group", "energy_per_atom"} <= set(row["end"])
        assert row["volume_change"] == pytest.approx(row["end"]["volume"] / row["start"]["volume"] - 1)


def test_many_files_go_into_a_folder_and_bad_ones_are_named(folder):
    inputs = [folder / name for name in ("copper.cif", "two.extxyz", "broken.cif", "water.xyz", "missing.cif")]
    done = run(folder, "relax", *inputs, "--fmax", "100", "-o", folder / "out")
    assert done.exit_code == 1
    assert {path.name for path in (folder / "out").iterdir()} == {"copper.cif", "two.extxyz_0.cif", "two.extxyz_1.cif"}
    for name in ("broken.cif", "water.xyz", "missing.cif"):
        assert name in done.stderr
    assert "a crystal is periodic in three directions" in done.stderr and "there is no such file" in done.stderr


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("-o", "out.cif", "give a folder"),
        ("-o", "out.foo", "give a folder"),
        ("--traj", "steps.foo", "writes no .foo files"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(folder, option, name, reason):
    done = run(folder, "relax", folder / "two.extxyz", "--fmax", "100", option, folder / name)
    assert done.exit_code == 1
    assert reason in done.output and "converged" not in done.output


@pytest.mark.parametrize("command", ["relax", "energy"])
def test_device_that_is_none_is_refused(folder, command):
    done = run(folder, command, folder / "copper.cif", "--device", "abacus")
    assert done.exit_code == 1 and "give 'cpu' or 'cuda'" in done.output
    assert run(folder, command, folder / "copper.cif", "--device", "cpu").exit_code == 0


def test_energy_of_anything(folder):
    done = run(folder, "energy", folder / "copper.cif", folder / "water.xyz", "--json")
    assert done.exit_code == 0, done.output
    crystal, water = json.loads(done.stdout)
    assert crystal["pressure"] is not None
    assert water["pressure"] is None
    assert len(water["forces"]) == 3
    assert run(folder, "energy", folder / "copper.cif").stdout.count("eV/atom") == 1


def test_bad_settings_are_said_plainly(folder):
    done = run(folder, "relax", folder / "copper.cif", "--fmax", "-1")
    assert done.exit_code == 1
    assert "fmax is -1.0 eV/Å; it must be positive" in done.output
    missing = CliRunner().invoke(main, ["relax", str(folder / "copper.cif"), "--model", str(folder / "no.safetensors")])
    assert missing.exit_code == 1
    assert "no weight file" in missing.output
