"""The property benchmark on the published files of Matbench and JARVIS, and with generated structures to train on."""

import gzip
import json
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dao_ase.composition import reduced_key
from dao_ase.convert import from_atoms
from dao_ase.properties.fit import Fold
from dao_ase.properties.table import PropertyTable
from named import random_potential


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


def salts() -> list[Atoms]:
    return [
        bulk(a + b, "rocksalt", a=4 + 0.3 * i + 0.4 * j)
        for i, a in enumerate(["Li", "Na", "K", "Rb", "Cs"])
        for j, b in enumerate(["F", "Cl", "Br", "I"])
    ]


def write_matbench(file: Path, column: str, disordered: int) -> None:
    """As published: pymatgen structures in JSON; one row has a mixed site."""
    data = []
    for place, atoms in enumerate(salts()):
        sites = [
            {"species": [{"element": symbol, "occu": 0.5 if place == disordered else 1}], "abc": coords}
            for symbol, coords in zip(atoms.symbols, atoms.get_scaled_positions().tolist(), strict=True)
        ]
        data.append([{"lattice": {"matrix": atoms.cell.tolist()}, "sites": sites}, atoms.get_volume()])
    with gzip.open(file, "wt") as text:
        json.dump({"index": list(range(len(data))), "columns": ["structure", column], "data": data}, text)


def test_matbench_has_its_own_folds(tmp_path):
    """Its folds count the rows of the file: one that cannot be read moves no other to another fold."""
    from property_sets import MATBENCH_SEED, load, matbench_sets
    from sklearn.model_selection import KFold

    write_matbench(tmp_path / "matbench_dielectric.json.gz", "n", disordered=3)
    sets = matbench_sets(tmp_path)
    assert list(sets) == ["Matbench dielectric"]
    table, folds, notes = load(sets["Matbench dielectric"], random_potential(), False, 0)
    assert notes["left out"] == {"partial occupancy": 1} and notes["split"] == "5 folds of Matbench"
    published = KFold(5, shuffle=True, random_state=MATBENCH_SEED).split(np.arange(20))
    for fold, (_, test) in zip(folds, published, strict=True):
        assert {table.ids[i] for i in fold.test} == {f"matbench_dielectric-{i}" for i in test if i != 3}
        assert sorted(np.concatenate([fold.train, fold.stop, fold.test])) == list(range(19))


def test_a_folder_without_published_files_says_what_it_looked_for(tmp_path):
    from property_sets import jarvis_sets, matbench_sets

    with pytest.raises(FileNotFoundError, match=r"matbench_jdft2d\.json\.gz"):
        matbench_sets(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file"):
        jarvis_sets(tmp_path / "jdft_3d.json")


def test_jarvis_is_measured(tmp_path):
    """From the zipped file as published, missing values and all, to a line of the table."""
    from bench_properties import measure, table_of
    from property_sets import jarvis_sets

    entries = [
        {
            "jid": f"JVASP-{place}",
            "atoms": {"lattice_mat": atoms.cell.tolist(), "coords": atoms.get_scaled_positions().tolist(),
                      "elements": list(atoms.symbols), "cartesian": False},
            "bulk_modulus_kv": "na" if place == 0 else atoms.get_volume(), "shear_modulus_gv": "na", "mbj_bandgap": "na",
        }
        for place, atoms in enumerate(salts())
    ]  # fmt: skip
    with zipfile.ZipFile(tmp_path / "jdft_3d-12-12-2022.json.zip", "w") as archive:
        archive.writestr("jdft_3d-12-12-2022.json", json.dumps(entries))
    one = jarvis_sets(tmp_path / "jdft_3d-12-12-2022.json.zip")["JARVIS bulk_modulus_kv"]
    options = Namespace(quick=True, seed=0, augment=0, chgnet=False, full=False)
    found = measure("JARVIS bulk_modulus_kv", one, random_potential().float(), options, {})
    assert found["crystals"] == 19 and found["left out"] == {"missing target": 1}
    assert found["DAO-P, frozen trunk"]["MAE"] > 0
    assert "| JARVIS bulk_modulus_kv | GPa | 19 |" in table_of({"JARVIS bulk_modulus_kv": found})


def table_of_atoms(images: list[Atoms]) -> PropertyTable:
    formulas = [reduced_key(atoms.numbers) for atoms in images]
    ids = [atoms.get_chemical_formula() for atoms in images]
    return PropertyTable(ids, from_atoms(images), np.ones(len(images)), formulas, [""] * len(images))


def test_generated_structures_are_trained_on_only():
    """None is of a formula of the set; relatives of what a fold reports on can be left out of it."""
    from bench_properties import with_generated

    def row(symbols: str) -> Atoms:
        numbers = Atoms(symbols).numbers
        return Atoms(
            numbers, scaled_positions=np.linspace(0, 0.9, len(numbers))[:, None] * [1, 1, 1], cell=[9] * 3, pbc=True
        )

    table = table_of_atoms([row("Nb3Sn"), row("MgB2"), row("V3Si")])
    generated = table_of_atoms([row("Nb6Sn2"), row("Nb15Sn4Ge"), row("LaH10")])
    folds = [Fold(np.array([1]), np.array([2]), np.array([0])), Fold(np.array([0]), np.array([2]), np.array([1]))]
    whole, every, apart = with_generated(table, folds, generated)
    assert whole.ids[3:] == ["GeNb15Sn4", "H10La"]
    assert [fold.train.tolist() for fold in every] == [[1, 3, 4], [0, 3, 4]]
    assert [fold.train.tolist() for fold in apart] == [[1, 4], [0, 3, 4]]
    assert [fold.test.tolist() for fold in every] == [[0], [1]] and [fold.stop.tolist() for fold in every] == [[2], [2]]


def test_compositions_without_an_ordered_structure(tmp_path):
    from generated_superconductors import whole_cell, without_structure

    rows = [
        ("Nb3Sn1", 18.0, True), ("Nb0.75Sn0.25", 17.0, False), ("Ba0.5K0.5Fe2As2", 37.0, False),
        ("Nb0.9Zr0.1", 10.0, False), ("Nb0.97Zr0.03", 9.0, False), ("Cu0.5Au0.5", 0.0, False), ("Sr0.5Ca0.5", None, False),
    ]  # fmt: skip
    with gzip.open(tmp_path / "3dsc.jsonl.gz", "wt") as file:
        for formula, tc, ordered in rows:
            file.write(json.dumps({"formula": formula, "tc_by_formula": tc, "is_ordered": ordered, "sites": []}) + "\n")
    found = without_structure(tmp_path / "3dsc.jsonl.gz", 20)
    assert [(cell.formula, tc) for cell, tc in found] == [("BaKFe4As4", 37.0), ("Nb9Zr", 10.0)]
    third = whole_cell({"Nb": 0.333, "Ti": 0.667}, 20)
    assert third is not None and third.formula == "NbTi2" and whole_cell({"Nb": 0.97, "Zr": 0.03}, 20) is None


def test_trees_of_the_peers_choose_the_loss_that_is_better_for_what_they_stop_by(monkeypatch):
    """Of numbers most of which are zero the absolute loss sees the median alone; of outliers the squared one little else."""
    import bench_properties

    monkeypatch.setattr(bench_properties, "MOST_TREES", 20)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    folds = [Fold(np.arange(200), np.arange(200, 250), np.arange(250, 300))]
    test = folds[0].test
    half = np.maximum(0, x[:, 0] - 0.3)
    said, _ = bench_properties.run_trees(x, half, folds, 0)
    assert np.abs(said[test] - half[test]).mean() < 0.5 * half[test].mean()
    wild = np.where(rng.random(300) < 0.1, 100.0 * rng.standard_cauchy(300), x[:, 0])
    said, _ = bench_properties.run_trees(x, wild, folds, 0)
    assert np.median(np.abs(said[test] - wild[test])) < 0.5
