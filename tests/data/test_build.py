"""Builds: the rules do what they say, counts add up, and a build that is killed or fails leaves nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from test_matching import disguised

import dao_ase.data.build as build_module
from crystals import CRYSTALS, quartz, rock_salt, rutile, write_csv, write_npz
from dao_ase.cli import main
from dao_ase.data.build import BuildRules, build
from dao_ase.data.shards import ShardError
from dao_ase.data.sources import open_source
from dao_ase.data.store import CrystalStore

AS_IS = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)


def build_from(path, output, rules=AS_IS, workers=1):
    store = build([open_source(path)], output, rules, workers)
    left_out = [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]
    counts = store.about["counts"]
    assert counts["read"] == counts["kept"] + len(left_out) == counts["kept"] + sum(counts["left out"].values())
    assert counts["kept"] == len(store)
    assert not list(output.glob(".*")), "nothing temporary is left"
    return store, {entry["id"]: entry["rule"] for entry in left_out}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("niggli", [True, False])
def test_crystals_are_kept_as_they_are(tmp_path, workers, niggli):
    source = write_npz(tmp_path / "a.npz", CRYSTALS, e_above_hull=[0.0, 0.1, np.nan, 2.0])
    rules = BuildRules(1, 1000, None, deduplicate=False, niggli=niggli)
    store, left_out = build_from(source, tmp_path / "store", rules, workers)
    assert not left_out and store.ids.tolist() == list(CRYSTALS)
    assert store.num_atoms.tolist() == [len(one) for one in CRYSTALS.values()]
    np.testing.assert_allclose(store.labels["e_above_hull"], [0.0, 0.1, np.nan, 2.0])
    for crystal, expected in zip((store[i] for i in range(4)), CRYSTALS.values(), strict=True):
        assert crystal.volume.item() == pytest.approx(expected.volume, rel=1e-5)
        found = Structure(crystal.lattice[0].numpy(), crystal.atomic_numbers.tolist(), crystal.frac_coords.numpy())
        assert found.matches(expected, scale=False)


def test_the_materials_projects_name_of_the_energy_above_the_hull(tmp_path):
    columns = {"energy_above_hull": [0.0, 0.1, np.nan, 2.0], "e_above_hull": [np.nan, 0.2, np.nan, np.nan]}
    source = write_npz(tmp_path / "a.npz", CRYSTALS, **columns)
    store, left_out = build_from(source, tmp_path / "store", BuildRules(1, 1000))
    assert left_out == {list(CRYSTALS)[3]: "above hull"}
    np.testing.assert_allclose(store.labels["e_above_hull"], [0.0, 0.2, np.nan])


@pytest.mark.parametrize(("name", "text"), [("a.xyz", ""), ("a.csv", "material_id,cif\n")])
def test_a_file_without_a_row_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"no row to read in {name}"):
        build([open_source(tmp_path / name)], tmp_path / "store", AS_IS)
    assert not list((tmp_path / "store").iterdir())


def test_left_handed_cells_become_right_handed_and_stay_the_same_crystal(tmp_path):
    """Quartz is chiral: its mirror image would be another crystal."""
    structure = quartz()
    matrix = structure.lattice.matrix[[1, 0, 2]]
    left = Structure(matrix, structure.species, structure.frac_coords[:, [1, 0, 2]])
    assert np.linalg.det(matrix) < 0
    for niggli in (True, False):
        rules = BuildRules(1, 1000, None, deduplicate=False, niggli=niggli)
        store, _ = build_from(write_npz(tmp_path / "a.npz", {"x": left}), tmp_path / f"{niggli}", rules)
        assert store[0].volume.item() > 0
        found = Structure(store[0].lattice[0].numpy(), store[0].atomic_numbers.tolist(), store[0].frac_coords.numpy())
        rotation, _, _, _ = np.linalg.lstsq(left.distance_matrix, found.distance_matrix, rcond=None)
        np.testing.assert_allclose(rotation, np.eye(len(left)), atol=1e-3)
        assert found.get_space_group_info()[1] == structure.get_space_group_info()[1] == 154


def test_rules_of_the_paper(tmp_path):
    structures = {
        "salt": rock_salt(),
        "twin": disguised(rock_salt(), 3, 0.02),
        "small": Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]]),
        "large": rutile().make_supercell([2, 2, 2], in_place=False),
        "high": rock_salt("Mg", "O", 4.2),
        "test": disguised(rutile(), 5, 0.02),
        "metal": Structure.from_spacegroup("Pm-3n", Lattice.cubic(4.68), ["Cr", "Os"], [[0.25, 0, 0.5], [0, 0, 0]]),
    }
    source = write_csv(tmp_path / "a.csv", structures, e_above_hull=[0, 0, 0, 0, 1.2, 0, 0])
    exclude = write_npz(tmp_path / "test.npz", {"rutile": rutile()})
    rules = BuildRules(exclude=(str(exclude),), exclude_formulas=("Cr3Os",))
    store, left_out = build_from(source, tmp_path / "store", rules)
    assert store.ids.tolist() == ["salt"]
    assert left_out == {
        "twin": "duplicate",
        "small": "too few atoms",
        "large": "too many atoms",
        "high": "above hull",
        "test": "excluded structure",
        "metal": "excluded formula",
    }


def test_hull_is_built_where_only_formation_energies_exist(tmp_path):
    """Crystals that are too small for the set still belong on the hull."""
    small = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5] * 3]
    ).get_primitive_structure()
    structures = {"small": small, "same": rock_salt("Mg", "O", 4.2), "high": rock_salt("Mg", "O", 5.0)}
    source = write_npz(tmp_path / "a.npz", structures, formation_energy_per_atom=[-3.0, -2.9, -1.5])
    store, left_out = build_from(source, tmp_path / "store", BuildRules(deduplicate=False))
    assert left_out == {"small": "too few atoms", "high": "above hull"}
    np.testing.assert_allclose(store.labels["e_above_hull"], [0.1], atol=1e-9)
    with pytest.raises(
        ValueError, match="no crystal has the label 'energy', of which hulls are built; labels: formation"
    ):
        build([open_source(source)], tmp_path / "other", BuildRules(energy_label="energy"))


def test_repeated_ids_and_excluded_ids(tmp_path):
    first = write_npz(tmp_path / "a.npz", {"mp-1": rock_salt(), "mp-2": rutile()})
    second = write_npz(tmp_path / "b.npz", {"mp-1": rock_salt(a=5.0), "mp-3": quartz()})
    exclude = write_npz(tmp_path / "c.npz", {"mp-3": rock_salt("K", "Br", 6.6)})
    rules = BuildRules(exclude=(str(exclude),))
    store = build([open_source(first), open_source(second)], tmp_path / "store", rules)
    assert store.ids.tolist() == ["mp-1", "mp-2"]
    assert store.about["counts"]["left out"] == {"excluded id": 1, "repeated id": 1}


def test_excluded_rows_that_cannot_be_read_count_by_their_identifiers(tmp_path):
    source = write_npz(tmp_path / "a.npz", {"mp-1": rock_salt(), "mp-2": rutile(), "mp-3": quartz()})
    broken = "mp-1,no structure\n"
    (tmp_path / "none.csv").write_text("material_id,cif\n" + broken)
    with pytest.raises(
        ValueError, match=r"none\.csv' holds no crystal to leave out that can be read: 'no structure' begins"
    ):
        build([open_source(source)], tmp_path / "store", replace(AS_IS, exclude=(str(tmp_path / "none.csv"),)))
    write_csv(tmp_path / "some.csv", {"mp-2": rutile()})
    with (tmp_path / "some.csv").open("a") as table:
        table.write("1,mp-1,NaCl,no structure\n")
    store = build([open_source(source)], tmp_path / "store", replace(AS_IS, exclude=(str(tmp_path / "some.csv"),)))
    assert store.ids.tolist() == ["mp-3"]


def test_files_of_one_name_do_not_share_identifiers(tmp_path):
    for folder, metals in {"a": ("Cu", "Ag", "Au"), "b": ("Ni", "Pd", "Pt")}.items():
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.extxyz", [bulk(metal, a=4.0) for metal in metals])
    sources = [open_source(tmp_path / folder / "train.extxyz") for folder in "ab"]
    rules = replace(AS_IS, deduplicate=True)
    ids = ["train", "train/1", "train/2", "2/train", "2/train/1", "2/train/2"]
    assert build(sources, tmp_path / "store", rules).ids.tolist() == ids
    rules = replace(rules, exclude=(str(tmp_path / "b" / "train.extxyz"),))
    kept = build(sources, tmp_path / "other", rules)
    assert kept.ids.tolist() == ["train", "train/1", "train/2"]
    assert kept.about["counts"]["left out"] == {"excluded structure": 3}


def test_a_table_is_read_again_when_a_file_that_it_names_has_changed(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("id,file\nsalt,POSCAR\n")
    write(tmp_path / "POSCAR", bulk("NaCl", "rocksalt", a=5.6))
    build([open_source(table)], tmp_path / "store", AS_IS)
    write(tmp_path / "POSCAR", bulk("NaCl", "rocksalt", a=5.75))
    with pytest.raises(FileExistsError, match="holds another store"):
        build([open_source(table)], tmp_path / "store", AS_IS)


def test_same_build_is_done_once_and_another_is_refused(tmp_path):
    source = write_npz(tmp_path / "a.npz", CRYSTALS)
    build_from(source, tmp_path / "store")
    before = (tmp_path / "store" / "index.json").stat().st_mtime_ns
    build_from(source, tmp_path / "store")
    assert (tmp_path / "store" / "index.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="another store"):
        build([open_source(source)], tmp_path / "store", BuildRules())


def test_a_build_that_keeps_nothing_leaves_nothing_to_resume(tmp_path):
    source = write_npz(tmp_path / "a.npz", CRYSTALS)
    with pytest.raises(ValueError, match=r"none of the 4 crystals .*; the first: a\.npz, row 0: 8 atoms; at least 29"):
        build([open_source(source)], tmp_path / "store", BuildRules(min_atoms=29))
    assert not list((tmp_path / "store").iterdir())


def test_a_build_that_fails_resumes(tmp_path, monkeypatch):
    """A full disk in the last step: nothing is readable, what was read is not read again, the second run finishes."""
    source = write_npz(tmp_path / "a.npz", CRYSTALS)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "write_shard", full)
        with pytest.raises(OSError, match="No space left"):
            build([open_source(source)], tmp_path / "store", AS_IS)
    with pytest.raises(ShardError, match="did not finish"):
        CrystalStore.open(tmp_path / "store")
    staged = next((tmp_path / "store").glob(".build-*/stage-*"))
    before = staged.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(build_module.shutil, "rmtree", lambda path: None)
        build([open_source(source)], tmp_path / "store", AS_IS)
    assert staged.stat().st_mtime_ns == before
    assert staged.exists()  # as after a kill between the index and the end
    build_from(source, tmp_path / "store")


def test_what_a_build_of_other_rules_had_read_is_removed(tmp_path, monkeypatch):
    source = write_npz(tmp_path / "a.npz", CRYSTALS)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build_module, "_select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build([open_source(source)], tmp_path / "store", AS_IS)
    assert list((tmp_path / "store").glob(".build-*/stage-*"))
    build_from(source, tmp_path / "store", BuildRules(min_atoms=2, max_e_hull=None, deduplicate=False))


@pytest.mark.slow
def test_a_killed_build_resumes(tmp_path):
    structures = {f"{name}-{i}": one for i in range(1200) for name, one in CRYSTALS.items()}
    source = write_npz(tmp_path / "a.npz", structures)
    code = (
        "from dao_ase.cli import main\n"
        f"main(['data', 'build', {str(source)!r}, '-o', {str(tmp_path / 'store')!r}, '--as-is', '--workers', '1'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "store").glob(".build-*/stage-000001*")):
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ShardError, match="did not finish"):
        CrystalStore.open(tmp_path / "store")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert CrystalStore.open(tmp_path / "store").ids.tolist() == list(structures)


def test_broken_rows_are_listed_and_the_rest_is_kept(tmp_path):
    source = write_csv(tmp_path / "a.csv", CRYSTALS)
    source.write_text(source.read_text().replace("_cell_length_a   4.21", "_cell_length_a   nan"))
    store, left_out = build_from(source, tmp_path / "store")
    assert store.ids.tolist() == ["salt", "rutile", "quartz"] and set(left_out) == {"magnesia"}


def test_command_line(tmp_path):
    source = write_npz(tmp_path / "a.npz", CRYSTALS)
    output, runner = str(tmp_path / "store"), CliRunner()
    done = runner.invoke(
        main, ["data", "build", str(source), "-o", output, "--workers", "1", "--exclude-formula", "TiO2"]
    )
    assert done.exit_code == 0, done.output
    assert "3 of 4 crystals" in done.output and "excluded formula" in done.output
    done = runner.invoke(main, ["data", "stats", output, "--plot", str(tmp_path / "a.png")])
    assert done.exit_code == 0 and "3 crystals, 25 atoms, 5 elements" in done.output
    assert (tmp_path / "a.png").stat().st_size > 10_000
    counts = json.loads(runner.invoke(main, ["data", "stats", output, "--json"]).output)
    assert counts["num_elements"] == {"2": 3} and counts["elements"]["O"] == 2
    done = runner.invoke(main, ["data", "build", str(source), "-o", output, "--as-is"])
    assert done.exit_code == 1 and "another store" in done.output
    done = runner.invoke(main, ["data", "stats", str(tmp_path)])
    assert done.exit_code == 1 and "is no store of crystals" in done.output
    with pytest.raises(ShardError, match="it is a file; make one of its crystals"):
        CrystalStore.open(source)
