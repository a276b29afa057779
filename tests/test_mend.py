"""Relaxing the unstable crystals of a store: gates, what is kept, resuming."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dao_ase import mend as mending
from dao_ase.cli import main
from dao_ase.crystals import Crystals
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.data.store import CrystalStore
from dao_ase.mend import RELAXED, MendRules, fate, mend
from generation import write_rock_salts


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> CrystalStore:
    """Six rock salts from compressed to stretched; the first four lie where they are to be relaxed."""
    folder = tmp_path_factory.mktemp("salts")
    write_rock_salts(folder / "salt.npz", 6)
    columns = dict(np.load(folder / "salt.npz"))
    energies = np.array([0.2, 0.3, 0.09, 0.5, 0.01, np.nan])
    np.savez(folder / "labelled.npz", **columns, e_above_hull=energies)
    rules = BuildRules(min_atoms=1, deduplicate=False, max_e_hull=None)
    return build([open_source(folder / "labelled.npz")], folder / "store", rules)


def test_unstable_crystals_are_relaxed_and_the_others_kept(store, tmp_path):
    report = mend(store, tmp_path / "new", MendRules(steps=20), progress=False)
    new = CrystalStore.open(tmp_path / "new")
    assert sum(report.fates.values()) == 4 and report.fates[RELAXED] >= 2
    assert (report.energy_changes < 0).all() and len(report.energy_changes) == report.fates[RELAXED]
    everything = np.arange(6)
    old_volume, new_volume = (one.batch(everything).volume.numpy() for one in (store, new))
    moved = np.isfinite(new.labels["energy_change"])
    assert np.ptp(new_volume[moved]) < 0.5 * np.ptp(old_volume[moved])  # they move towards one volume
    np.testing.assert_array_equal(new_volume[~moved], old_volume[~moved])
    np.testing.assert_array_equal(new.labels["e_above_hull"], store.labels["e_above_hull"])
    assert np.isnan(new.labels["energy_change"][4:]).all() and list(new.ids) == list(store.ids)
    lines = [json.loads(line) for line in (tmp_path / "new" / "relaxed.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert not list((tmp_path / "new").glob(".*"))
    with pytest.raises(FileExistsError, match="another store"):
        mend(store, tmp_path / "new", MendRules(steps=21), progress=False)


def test_an_interrupted_run_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr(mending, "PART", 2)
    done = []
    relax_part = mending._relax_part

    def stop_at_the_second(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return relax_part(*arguments)

    monkeypatch.setattr(mending, "_relax_part", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        mend(store, tmp_path / "new", MendRules(steps=3), progress=False)
    done.clear()
    for name in (".1.part.shard-00000.safetensors", "shard-00007.safetensors", ".1.part.relaxed.jsonl"):
        (tmp_path / "new" / name).write_bytes(b"of a run that was killed")
    resumed = mend(store, tmp_path / "new", MendRules(steps=3), progress=False)  # would be stopped at a second part
    left = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert left == ["index.json", "relaxed.jsonl", "shard-00000.safetensors"]
    monkeypatch.setattr(mending, "_relax_part", relax_part)
    whole = mend(store, tmp_path / "whole", MendRules(steps=3), progress=False)
    assert resumed.fates == whole.fates
    np.testing.assert_array_equal(resumed.energy_changes, whole.energy_changes)


def test_gates():
    lattice = 4.0 * torch.eye(3, dtype=torch.float64)[None]
    coords = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    before = Crystals(lattice, coords, torch.tensor([55, 17]), torch.tensor([2]))
    rules = MendRules()
    assert fate(before, before, -0.01, rules) == RELAXED
    assert fate(before, before, 0.0, rules) == "energy did not fall"
    assert fate(before, before, float("nan"), rules) == "energy did not fall"
    assert fate(before, before, -2.0, rules) == "energy fell too far"
    assert fate(before, before.replace(lattice=1.2 * lattice), -0.01, rules) == "volume changed too much"
    assert fate(before, before.replace(frac_coords=0.5 * coords), -0.01, rules) == "atoms came too close"


def test_command(store, tmp_path):
    arguments = [str(store.path), "-o", str(tmp_path / "new"), "--steps", "3", "--workers", "1"]
    done = CliRunner().invoke(main, ["data", "relax", *arguments, "--plot", str(tmp_path / "changes.png")])
    assert done.exit_code == 0, done.output
    assert "relaxed" in done.output and (tmp_path / "changes.png").stat().st_size > 0
    (tmp_path / "new" / ".relax-0").mkdir()  # of a run with other rules, or of one that was killed at its very end
    again = CliRunner().invoke(main, ["data", "relax", *arguments, "--json"])
    assert not list((tmp_path / "new").glob(".*"))
    assert sum(json.loads(again.output)["fates"].values()) == 4


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(store, tmp_path):
    arguments = [str(store.path), "-o", str(tmp_path / "new"), "--plot", str(tmp_path / "changes.txt")]
    refused = CliRunner().invoke(main, ["data", "relax", *arguments])
    assert refused.exit_code == 2 and ".svg" in refused.output
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_relaxed_is_said(store, tmp_path):
    with pytest.raises(ValueError, match="leaves nothing"):
        MendRules(lower=0.5, upper=0.1)
    write_rock_salts(tmp_path / "bare.npz", 2)
    bare = build([open_source(tmp_path / "bare.npz")], tmp_path / "bare", BuildRules(1, 9, None, deduplicate=False))
    with pytest.raises(ValueError, match="no label e_above_hull"):
        mend(bare, tmp_path / "new")
    arguments = [str(store.path), "-o", str(tmp_path / "none"), "--lower", "5", "--upper", "6", "--workers", "1"]
    none = CliRunner().invoke(main, ["data", "relax", *arguments])
    assert none.exit_code == 0 and "no crystal is 5 to 6 eV/atom above the hull" in none.output
    assert "None" not in none.output
