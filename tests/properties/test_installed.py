"""The property models that the package carries: found by name, listed, sensible; and how that of the band gap is made."""

import json

import numpy as np
import pytest
from ase.build import bulk
from click.testing import CliRunner

from dao_ase.cli import main
from dao_ase.properties import materials_project
from dao_ase.properties.fit import FitSettings
from dao_ase.properties.installed import installed_models
from dao_ase.properties.model import HeadConfig
from dao_ase.properties.predictor import DAOPredictor
from dao_ase.properties.table import Target


def test_each_installed_model_is_listed_in_the_help():
    done = CliRunner().invoke(main, ["predict", "--help"])
    assert done.exit_code == 0, done.output
    assert {"tc", "gap"} <= set(installed_models())
    for name, target in installed_models().items():
        assert any(
            line.split() == [name, *target.name.split(), f"({target.unit})"] for line in done.output.splitlines()
        )


def test_a_name_that_is_not_installed_names_those_that_are(tmp_path):
    bulk("Cu").write(tmp_path / "copper.cif")
    done = CliRunner().invoke(main, ["predict", "hardness", str(tmp_path / "copper.cif")])
    assert done.exit_code == 1 and "'hardness'" in done.output
    assert all(name in done.output for name in installed_models())


def test_gaps_of_metals_and_insulators(tmp_path):
    files = {"Cu": bulk("Cu"), "NaCl": bulk("NaCl", "rocksalt", a=5.64), "MgO": bulk("MgO", "rocksalt", a=4.21)}
    for name, atoms in files.items():
        atoms.write(tmp_path / f"{name}.cif")
    command = ["predict", "gap", *(str(tmp_path / f"{name}.cif") for name in files), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    copper, salt, oxide = json.loads(done.stdout)
    assert copper["unit"] == "eV" and 0 <= copper["value"] < 0.5
    assert salt["value"] > 3 and oxide["value"] > 3
    assert all(row["low"] <= row["value"] <= row["high"] for row in (copper, salt, oxide))


def test_the_installed_gap_says_how_it_was_made():
    header = DAOPredictor("gap").model.header
    assert header["excluded"] == ["CsV3Sb5", "Zr4Rh2O", "Zr4Pd2O", "Cr3Os"]
    assert "CC BY 4.0" in header["sources"][0]
    assert header["val"]["MAE"] < 0.5 * header["val"]["MAE of a constant"]
    assert 0.6 < header["val"]["share within the uncertainty"] < 0.85


def test_no_prediction_is_below_the_least_value():
    target = Target("band gap", "eV", least=0.0)
    np.testing.assert_array_equal(target.restored(np.array([-0.1, 1.2]), np.array([1, 2])), [0.0, 1.2])
    assert Target("energy").restored(np.array([-0.1]), np.array([1]))[0] == -0.1


@pytest.mark.parametrize("name", sorted(materials_project.RECIPES))
def test_a_recipe_from_its_files(name, tmp_path, monkeypatch):
    """Trained on the training file alone; missing labels and what is held out are counted; validated on the other file."""
    column = materials_project.RECIPES[name].column
    images = [bulk(a + b, "rocksalt", a=4 + 0.3 * i + 0.4 * j)
              for i, a in enumerate(["Li", "Na", "K", "Rb"]) for j, b in enumerate(["F", "Cl", "Br"])]  # fmt: skip
    values = np.array([atoms.get_volume() for atoms in images])
    values[5] = np.nan

    def write(file: str, chosen: slice) -> None:
        some = images[chosen]
        np.savez(
            tmp_path / file,
            n_atoms=np.array([len(atoms) for atoms in some]),
            numbers=np.concatenate([atoms.numbers for atoms in some]),
            frac_coords=np.concatenate([atoms.get_scaled_positions() for atoms in some]),
            lattice=np.array([atoms.cell.array for atoms in some]),
            id=np.array([f"mp-{place}" for place in range(len(some))]),
            **{column: values[chosen]},
        )

    write(materials_project.TRAIN, slice(0, 9))
    write(materials_project.VALIDATION, slice(9, 12))
    quick = FitSettings(epochs=2, kernel_up_to=0, head=HeadConfig(members=2, width=8))
    monkeypatch.setattr(materials_project, "SETTINGS", quick)
    result = materials_project.train(name, tmp_path, tmp_path / "out", folds=2)
    assert len(result.table) == 8 and result.table.counts == {"missing target": 1}
    stored = DAOPredictor(tmp_path / "out")
    assert stored.target == materials_project.RECIPES[name].target
    assert stored.model.header["val"]["crystals"] == 3 and stored.model.heads[0].kernel is None
