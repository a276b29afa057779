"""dao-ase relax and dao-ase energy, as a newcomer calls them."""

import importlib
import json
import signal

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import read, write
from click.testing import CliRunner
from monty.serialization import dumpfn
from pymatgen.core import Lattice, Structure

from dao_ase import relax as relaxation
from dao_ase.calculator import DAOCalculator, save_potential
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


@pytest.mark.parametrize("kind", ["db", "json"])
def test_rows_of_a_database_keep_what_stands_beside_the_atoms(folder, kind):
    with connect(folder / f"in.{kind}") as rows:
        for name in ("first", "second"):
            rows.write(bulk("Cu"), name=name, place=3, data={"code": "12", "source": [1, 2]})
    for source, output in ((f"in.{kind}", f"out.{kind}"), (f"out.{kind}", "out.extxyz"), ("out.extxyz", f"new.{kind}")):
        done = run(folder, "relax", folder / source, "--fmax", "1e3", "-o", folder / output)
        assert done.exit_code == 0, done.output
    for output in ("out", "new"):
        rows = list(connect(folder / f"{output}.{kind}").select())
        assert [row.name for row in rows] == ["first", "second"] and {row.place for row in rows} == {3}
        assert [row.file[-2:] for row in rows] == ["#0", "#1"]
        assert all(np.isfinite(row.energy) and row.forces.shape == (1, 3) for row in rows)
        assert output == "new" or rows[1].data == {"code": "12", "source": [1, 2]}


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


@pytest.mark.parametrize("command", ["relax", "energy"])
def test_where_nothing_can_be_read_there_is_json_all_the_same(folder, command):
    done = run(folder, command, folder / "broken.cif", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == []


def test_many_files_go_into_a_folder_and_bad_ones_are_named(folder):
    inputs = [folder / name for name in ("copper.cif", "two.extxyz", "broken.cif", "water.xyz", "missing.cif")]
    done = run(folder, "relax", *inputs, "--fmax", "100", "-o", folder / "out")
    assert done.exit_code == 1
    assert {path.name for path in (folder / "out").iterdir()} == {"copper.cif", "two.extxyz_0.cif", "two.extxyz_1.cif"}
    for name in ("broken.cif", "water.xyz", "missing.cif"):
        assert name in done.stderr
    assert "a crystal is periodic in three directions" in done.stderr and "there is no such file" in done.stderr


def test_standard_output_takes_no_structures(folder):
    done = run(folder, "relax", folder / "copper.cif", "-o", "-")
    assert done.exit_code == 1 and "not written to standard output" in done.stderr


@pytest.mark.parametrize(
    ("option", "name", "reason"),
    [
        ("-o", "out.cif", "give a folder"),
        ("-o", "out.foo", "give a folder"),
        ("--traj", "steps.foo", "writes no .foo files"),
        ("-o", "scf.pwi", "cannot write .pwi files of atoms alone"),
        ("--traj", "steps.cif", "cannot hold every step"),
        ("--traj", "steps", "cannot hold every step"),
        ("-o", "copper.cif/out", "cannot be written there"),
        ("--traj", "copper.cif/steps.traj", "cannot be written there"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(folder, option, name, reason):
    crystals = "copper.cif" if name == "scf.pwi" else "two.extxyz"
    done = run(folder, "relax", folder / crystals, "--fmax", "100", option, folder / name)
    assert done.exit_code == 1
    assert reason in done.output and "converged" not in done.output


@pytest.mark.parametrize("way", [".", "also/.."])
def test_steps_and_results_are_not_one_file(folder, way):
    (folder / "also").mkdir()
    steps = folder / way / "same.extxyz"
    done = run(folder, "relax", folder / "copper.cif", "-o", folder / "same.extxyz", "--traj", steps)
    assert done.exit_code == 1 and "is the file for the relaxed structures, too" in done.output


def test_chosen_frames_and_empty_files(folder):
    (folder / "empty.cif").write_text("")
    done = run(folder, "energy", f"{folder / 'two.extxyz'}@-1", folder / "empty.cif")
    assert "Al" in done.stdout and "Cu" not in done.stdout
    assert "empty.cif: is empty" in done.stderr


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


def test_what_has_one_name_in_two_folders_loses_nothing(folder):
    for place, atoms in (("a", bulk("Cu")), ("b", bulk("Al"))):
        (folder / place).mkdir()
        write(folder / place / "x.cif", atoms)
    write(folder / "x_2.cif", bulk("Ag"))
    inputs = [folder / "a" / "x.cif", folder / "b" / "x.cif", folder / "x_2.cif"]
    done = run(folder, "relax", *inputs, "--fmax", "1e3", "--steps", "0", "-o", folder / "out", "--json")
    rows = json.loads(done.stdout)
    assert [str(read(row["output"]).symbols) for row in rows] == ["Cu", "Al", "Ag"]


@pytest.mark.parametrize("name", ["end.cif.gz", "CONTCAR", "new/end.vasp", "Ende ü 1.CIF"])
def test_names_of_files_that_are_written(folder, name):
    done = run(folder, "relax", folder / "copper.cif", "--fmax", "1e3", "-o", folder / name)
    assert done.exit_code == 0, done.output
    assert str(read(folder / name).symbols) == "Cu"


def test_what_stands_beside_the_atoms_stays_with_them(folder):
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.set_tags([1, 2])
    atoms.info |= {"material": "mp-22862", "row": np.int64(3), "axis": np.array([0, 0, 1])}
    atoms.set_constraint(FixAtoms([0]))
    write(folder / "in.traj", atoms)
    done = run(folder, "relax", folder / "in.traj", "--fmax", "1e3", "-o", folder / "out.extxyz")
    assert "constraints of atoms are not kept" in done.stderr
    out = read(folder / "out.extxyz")
    assert out.get_tags().tolist() == [1, 2]
    assert out.info["row"] == 3 and out.info["axis"].tolist() == [0, 0, 1]
    assert out.info["material"] == "mp-22862" and out.info["file"] == str(folder / "in.traj")


def test_what_is_said_of_the_geometry_is_said_of_the_new_one(folder):
    salt = bulk("NaCl", "rocksalt", a=5.6)
    salt.info = {"energy_per_atom": 1.0, "e_above_hull": 2.0, "space_group": "P1", "converged": True, "relax_steps": 7}
    write(folder / "in.extxyz", [salt, bulk("NaCl", "rocksalt", a=5.6)])
    run(folder, "relax", folder / "in.extxyz", "--steps", "1", "--fmax", "1e-9", "-o", folder / "out.db",
        "--traj", folder / "steps.traj")  # fmt: skip
    first, second = connect(folder / "out.db").select()
    assert first.key_value_pairs == pytest.approx(
        {
            "file": f"{folder / 'in.extxyz'}#0",
            "energy_per_atom": first.energy / 2,
            "space_group": "Fm-3m",
            "converged": False,
            "relax_steps": 1,
        }
    )
    assert second.key_value_pairs == {"file": f"{folder / 'in.extxyz'}#1"}  # nothing was said of it
    assert not {"energy_per_atom", "converged"} & read(folder / "steps.traj").info.keys()


def test_results_of_the_old_geometry_go(folder):
    """As pymatgen's structures bear them among their properties; an XYZ file has no room for those and the new ones."""
    salt = Structure(
        Lattice.cubic(3.3), ["Cs", "Cl"], [[0] * 3, [0.5] * 3],
        site_properties={"forces": [[1.0, 0, 0]] * 2, "label": [1, 2]}, properties={"energy": -99.0, "stress": 7, "row": 3},
    )  # fmt: skip
    salt.to(str(folder / "in.json"))
    done = run(folder, "relax", folder / "in.json", "--steps", 0, "-o", folder / "out.extxyz", "--traj", folder / "all.xyz",
               "--json")  # fmt: skip
    (row,) = json.loads(done.stdout)
    for name in ("out.extxyz", "all.xyz"):
        out = read(folder / name)
        assert out.get_potential_energy() == pytest.approx(row["end"]["energy"])
        assert np.abs(out.get_forces()).max() < 0.1
        assert out.info["row"] == 3 and out.get_array("label").tolist() == [1, 2]


@pytest.mark.parametrize("name", ["out.cif", "out.vasp"])
def test_left_handed_cells_are_not_mirrored(folder, name):
    quartz = Structure.from_spacegroup(
        "P3_121", Lattice.hexagonal(4.91, 5.40), ["Si", "O"], [[0.47, 0, 1 / 3], [0.41, 0.27, 0.452]]
    ).to_ase_atoms()
    quartz.cell = quartz.cell[[1, 0, 2]]  # the same places
    write(folder / "left.vasp", quartz)
    done = run(folder, "relax", folder / "left.vasp", "--steps", 0, "-o", folder / name, "--json")
    (row,) = json.loads(done.stdout)
    assert row["end"]["space_group"] == "P3_121 (152)"
    assert Structure.from_file(folder / name).get_space_group_info() == ("P3_121", 152)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_keeps_what_it_has(folder, monkeypatch, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    real, calls = relaxation.Rows.evaluate, []

    def stopping(rows, crystals):
        calls.append(len(crystals))
        if len(calls) == 3:
            signal.raise_signal(number)
        return real(rows, crystals)

    monkeypatch.setattr(relaxation.Rows, "evaluate", stopping)
    before = signal.getsignal(signal.SIGTERM)
    done = run(folder, "relax", folder / "two.extxyz", "--fmax", "1e-9", "-o", folder / "out", "--json")
    assert signal.getsignal(signal.SIGTERM) is before
    assert done.exit_code == 130
    assert done.stderr.endswith("interrupted\n")
    rows = json.loads(done.stdout)
    assert [row["reason"] for row in rows] == ["interrupted after 2 steps"] * 2
    assert [str(read(row["output"]).symbols) for row in rows] == ["Cu", "Al"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_energies_are_printed_as_far_as_they_came(folder, monkeypatch, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    real, calls = DAOCalculator.calculate, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(DAOCalculator, "calculate", stopping)
    done = run(folder, "energy", folder / "two.extxyz", folder / "copper.cif", "--json")
    assert done.exit_code == 130
    assert [row["formula"] for row in json.loads(done.stdout)] == ["Cu"]
    assert "interrupted: 1 of 3 structures" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_results_are_written_loses_none(folder, monkeypatch, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = importlib.import_module("dao_ase.cli.relax")
    real = command._report

    def stopping(*arguments):
        signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(command, "_report", stopping)
    done = run(folder, "relax", folder / "two.extxyz", "--fmax", "1e3", "-o", folder / "out", "--json")
    assert done.exit_code == 130
    assert [str(read(row["output"]).symbols) for row in json.loads(done.stdout)] == ["Cu", "Al"]


def test_results_are_told_where_they_cannot_be_written(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ase.io.write", full)
    done = run(folder, "relax", folder / "copper.cif", "--fmax", "1e3", "-o", folder / "out.cif")
    assert done.exit_code == 1
    assert "eV/atom" in done.stdout and "No space left" in done.stderr


def test_structures_as_pymatgen_writes_them_and_folders(folder):
    Structure.from_file(folder / "copper.cif").add_oxidation_state_by_element({"Cu": 1}).to(str(folder / "one.json"))
    (folder / "some").mkdir()
    (folder / "plain").write_text((folder / "salt.vasp").read_text())
    done = run(folder, "energy", folder / "one.json", folder / "some", folder / "plain", "--json")
    assert [row["formula"] for row in json.loads(done.stdout)] == ["Cu"]
    assert "is a folder" in done.stderr and "usual ending" in done.stderr


def test_a_structure_that_is_refused_leaves_the_others_of_its_file(folder):
    good, mixed = Structure.from_file(folder / "copper.cif"), Structure.from_file(folder / "copper.cif")
    mixed.replace_species({"Cu": {"Cu": 0.5, "Au": 0.5}})
    dumpfn([good, mixed, good], folder / "many.json")
    done = run(folder, "energy", folder / "many.json", "--json")
    assert done.exit_code == 1
    assert [row["formula"] for row in json.loads(done.stdout)] == ["Cu", "Cu"]
    assert "many.json, structure 2 of 3: the structure (Cu0.5Au0.5) has partly occupied sites" in done.stderr
