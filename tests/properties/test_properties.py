"""Property models: physics, folds, bad rows, files; on an untrained trunk and on numbers that are easy to learn."""

import csv
import gzip
import json
import math
import random
import re
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.io import write
from click.testing import CliRunner
from pymatgen.core import Molecule

from dao_ase import checkpoint
from dao_ase.calculator import save_potential
from dao_ase.cli import main
from dao_ase.composition import reduced_key
from dao_ase.convert import from_atoms, structure_from_atoms
from dao_ase.data.reading import read
from dao_ase.data.sources import open_source
from dao_ase.data.splits import formula_folds
from dao_ase.potential import Potential
from dao_ase.properties.calibration import calibrate
from dao_ase.properties.crossvalidation import fine_tune, folds_of
from dao_ase.properties.descriptors import PROPERTIES, composition_statistics, element_table, statistic_names
from dao_ase.properties.ensemble import PropertyModel, fingerprint
from dao_ase.properties.fit import FitSettings
from dao_ase.properties.graphs import Graphs
from dao_ase.properties.installed import find_model
from dao_ase.properties.model import HeadConfig
from dao_ase.properties.plan import plan_of
from dao_ase.properties.predictor import DAOPredictor
from dao_ase.properties.report import write_results
from dao_ase.properties.table import PropertyTable, Target, read_table, refuse_unlearnable
from named import STATES_OF_TORCH, random_potential, rattled, skewed

ALKALI, HALIDE = ("Li", "Na", "K", "Rb"), ("F", "Cl", "Br", "I")
QUICK = FitSettings(epochs=80, head=HeadConfig(members=2, width=8))
VOLUME = Target("volume", "Å³ an atom")


def salts() -> list:
    return [
        rattled(bulk(a + b, "rocksalt", a=4.0 + 0.4 * i + 0.5 * j), seed=4 * i + j)
        for i, a in enumerate(ALKALI)
        for j, b in enumerate(HALIDE)
    ]


def volume(atoms) -> float:
    return atoms.get_volume() / len(atoms)


@pytest.fixture(scope="module")
def trunk():
    return random_potential().float()


@pytest.fixture(scope="module")
def table() -> PropertyTable:
    images = salts() + [rattled(one, seed=99) for one in salts()]
    formulas = [reduced_key(one.numbers) for one in images]
    values = np.array([volume(one) for one in images])
    return PropertyTable([str(i) for i in range(len(images))], from_atoms(images), values, formulas, [""] * len(images))


@pytest.fixture(scope="module")
def result(table, trunk, tmp_path_factory):
    return fine_tune(table, trunk, VOLUME, QUICK, folds=3, folder=tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(result) -> DAOPredictor:
    return DAOPredictor(result.model)


def test_symmetries(predictor):
    """A supercell, a rotation, another order of the atoms, another origin: the same prediction."""
    atoms = skewed()
    turned = atoms.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    moved = atoms[[3, 1, 4, 0, 2]]
    moved.positions += [0.3, 1.7, -2.2]
    doubled = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])
    values = [found.value for found in predictor.predict([atoms, turned, moved, doubled])]
    np.testing.assert_allclose(values, values[0], rtol=2e-4)


def test_an_extensive_property_grows_with_the_cell(table, trunk):
    target = Target("volume", extensive=True)
    values = table.values * table.crystals.num_atoms.numpy()
    cells = PropertyTable(table.ids, table.crystals, values, table.formulas, table.families)
    predictor = DAOPredictor(fine_tune(cells, trunk, target, QUICK, folds=2).model)
    one, two = predictor.predict([skewed(), skewed().repeat((2, 1, 1))])
    assert two.value == pytest.approx(2 * one.value, rel=1e-3)


def test_it_learns(result):
    found = result.model.header["cross_validation"]
    assert found["MAE"] < 0.8 * found["MAE of a constant"]


def test_saved_and_loaded_predictions_are_equal(predictor, tmp_path):
    predictor.save(tmp_path / "volume.safetensors")
    loaded = DAOPredictor.load(tmp_path / "volume.safetensors")
    assert loaded.predict(salts()[:3]) == predictor.predict(salts()[:3])
    assert loaded.target == VOLUME and loaded.cross_validation == predictor.cross_validation


def test_a_model_is_read_again_where_only_smaller_folds_have_a_kernel_reader(table, trunk, tmp_path):
    uneven = table.select(np.array([*range(16), *[0] * 6]))
    sizes = [len(fold.train) + len(fold.stop) for fold in folds_of(uneven.formulas, 3, 0)]
    settings = replace(QUICK, epochs=1, kernel_up_to=min(sizes))
    model = fine_tune(uneven, trunk, VOLUME, settings, folds=3).model
    heads = sorted(model.heads, key=lambda head: head.kernel is not None)
    assert [head.kernel is not None for head in heads] in ([False, False, True], [False, True, True])
    model = replace(model, heads=heads)  # the fold without one comes first
    model.save(tmp_path / "model.safetensors")
    found = PropertyModel.load(tmp_path / "model.safetensors").learnt(table.crystals)
    np.testing.assert_array_equal(found, model.learnt(table.crystals))


def test_an_interrupted_run_continues_with_the_same_result(table, trunk, result, tmp_path):
    class Stop(Exception):
        pass

    def stop(text: str) -> None:
        if text.startswith("fold 3"):
            raise Stop

    with pytest.raises(Stop):
        fine_tune(table, trunk, VOLUME, QUICK, folds=3, folder=tmp_path, say=stop)
    said: list[str] = []
    again = fine_tune(table, trunk, VOLUME, QUICK, folds=3, folder=tmp_path, say=said.append)
    assert said[:2] == ["fold 1 of 3 was finished before", "fold 2 of 3 was finished before"]
    np.testing.assert_array_equal(again.predicted, result.predicted)


def test_the_trunk_can_be_trained_too(table, trunk, tmp_path):
    settings = FitSettings(trunk="full", epochs=5, trunk_epochs=2, head=HeadConfig(members=2, width=8))
    full = fine_tune(table, trunk, VOLUME, settings, folds=2, folder=tmp_path)
    assert len(full.model.trunks) == 2
    full.model.save(tmp_path / "model.safetensors")
    loaded = DAOPredictor(tmp_path)
    assert loaded.predict(salts()[:2]) == DAOPredictor(full.model).predict(salts()[:2])
    again = fine_tune(table, trunk, VOLUME, settings, folds=2, folder=tmp_path)
    np.testing.assert_allclose(again.predicted, full.predicted, rtol=1e-5)
    assert not trunk.embedding.weight.requires_grad  # the trunk that was given is left as it was


def test_a_trunk_of_the_same_weights_with_another_bound_is_another(trunk):
    other = Potential(replace(trunk.config, logit_bound=5.0))
    other.load_state_dict(trunk.state_dict())
    assert fingerprint(other) != fingerprint(trunk)


def test_folds_of_the_same_geometry_with_other_elements_are_trained_anew(table, trunk):
    numbers = table.crystals.atomic_numbers
    other = replace(table, crystals=replace(table.crystals, atomic_numbers=numbers.flip(0)))
    mine, others = (plan_of(one, trunk, VOLUME, QUICK, 3, 0) for one in (table, other))
    assert [name for name in mine if mine[name] != others[name]] == ["data"]


def test_no_formula_stands_in_two_parts_of_a_fold(table):
    reported = []
    for fold in folds_of(table.formulas, 4, seed=1):
        parts = [{table.formulas[i] for i in part} for part in (fold.train, fold.stop, fold.test)]
        assert all(parts) and not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        reported += fold.test.tolist()
    assert sorted(reported) == list(range(len(table)))


def test_folds_are_equally_large_and_do_not_depend_on_the_order():
    formulas = [((z, 1),) for z in range(1, 40)]
    place = formula_folds(formulas, 5)
    assert np.ptp(np.bincount(place)) <= 1
    np.testing.assert_array_equal(formula_folds(formulas[::-1], 5), place[::-1])
    with pytest.raises(ValueError, match="cannot be split"):
        formula_folds(formulas[:3], 5)


def test_a_constant_target_and_too_few_formulas_are_refused(table):
    flat = PropertyTable(table.ids, table.crystals, np.full(len(table), 2.5), table.formulas, table.families)
    with pytest.raises(ValueError, match=r"all have the value 2\.5"):
        refuse_unlearnable(flat, 3)
    with pytest.raises(ValueError, match="fewer than the 5 folds"):
        refuse_unlearnable(table.select(np.arange(3)), 5)


def test_a_fold_needs_two_formulas_to_train_on(table):
    """Folds are equal in crystals: one formula may fill a fold, and the others the other one."""
    for rows in ([0, 1, 2], [0, 0, 0, 0, 0, 1, 2, 3]):
        with pytest.raises(ValueError, match="a single formula to train on"):
            refuse_unlearnable(table.select(np.array(rows)), 2)
    refuse_unlearnable(table.select(np.arange(4)), 2)


@pytest.mark.parametrize("unit", [1e-15, 1e200])
def test_units_that_float32_cannot_learn_are_refused(table, trunk, unit):
    scaled = PropertyTable(table.ids, table.crystals, unit * table.values, table.formulas, table.families)
    with pytest.raises(ValueError, match="give them in another unit"):
        fine_tune(scaled, trunk, VOLUME, QUICK, folds=3)


def test_values_that_float32_cannot_tell_apart_are_refused(table, trunk):
    far = PropertyTable(table.ids, table.crystals, 1e9 + table.values, table.formulas, table.families)
    with pytest.raises(ValueError, match=r"are about 1e\+09 and differ by .* give them less a constant"):
        fine_tune(far, trunk, VOLUME, QUICK, folds=3)


def test_what_is_no_crystal_is_named(predictor):
    with pytest.raises(TypeError, match="crystal 1 is 5"):
        predictor.predict([bulk("NaCl", "rocksalt", a=5.6), 5])
    with pytest.raises(TypeError, match="crystal 0 is Molecule"):
        predictor.predict([Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]])])
    with pytest.raises(ValueError, match="crystal 1: volume is nan; do two of its atoms stand on one place"):
        predictor.predict([bulk("NaCl", "rocksalt", a=5.6), one_place()])


def test_of_a_table_its_column_is_predicted(predictor):
    table = pd.DataFrame({"crystal": [bulk("NaCl", "rocksalt", a=5.6)], "gap": [5.0]})
    assert predictor.predict(table["crystal"]) == predictor.predict(list(table["crystal"]))
    for names in (table, dict(table)):
        with pytest.raises(TypeError, match=f"a list of crystals, not a {type(names).__name__}; of a table the column"):
            predictor.predict(names)


def one_place() -> Atoms:
    """Two atoms that coincide, as a slip of a site's coordinates makes them."""
    return Atoms("NaCl", cell=[4, 4, 4], scaled_positions=[[0.1, 0, 0], [1.1, 0, 0]], pbc=True)


def test_crystals_that_cannot_be_learnt_are_named_before_any_training():
    crystals = salts()
    with pytest.raises(ValueError, match="crystal 16 cannot be learnt: two of its atoms stand nearly on one place"):
        DAOPredictor.fit([*crystals, one_place()], range(17))
    with pytest.raises(ValueError, match="contains Og, which is outside"):
        DAOPredictor.fit([*crystals, bulk("Og", "fcc", a=5)], range(17))
    with pytest.raises(ValueError, match=r"values have the shape \(16, 1\); each crystal needs one number"):
        DAOPredictor.fit(crystals, np.ones((16, 1)))
    with pytest.raises(ValueError, match="16 crystals but 3 values"):
        DAOPredictor.fit(iter(crystals), (float(value) for value in range(3)))
    for folds, seed in ((1, 0), (0, 0), (5, -1)):
        with pytest.raises(ValueError, match=f"folds is {folds} and seed {seed}; give"):
            DAOPredictor.fit(crystals, range(16), folds=folds, seed=seed)


def line(**entry) -> str:
    cell = {"lattice": [[4.2, 0, 0], [0, 4.2, 0], [0, 0, 4.2]], "sites": [[[["Mg", 1.0]], [0, 0, 0]]]}
    return json.dumps({**cell, **entry}) + "\n"


def test_bad_rows_are_named_and_counted(tmp_path, trunk):
    half = [[[["Mg", 0.5], ["Ca", 0.5]], [0, 0, 0]]]
    lines = [
        line(id="good", tc=1.5),
        line(id="half", tc=2, sites=half),
        line(id="none", tc=None),
        line(id="zero", tc=0),
        line(id="endless", tc=math.inf),
        line(id="flat", tc=1, lattice=[[1, 0, 0]] * 3),
        '{"id": "cut\n',
        line(id="strange", tc=1, sites=[[[["Xx", 1.0]], [0, 0, 0]]]),
        json.dumps({"id": "pymatgen", "structure": {}, "tc": 1}) + "\n",
        line(id="twice", tc=1, sites=[[[["Mg", 1.0]], [0, 0, 0]], [[["O", 1.0]], [0, 1, 0]]]),
        line(
            id="doped", tc=9, sites=[[[["Cr", 1.0]], [0, 0, k / 8]] for k in range(6)] + [[[["Os", 1.0]], [0.5, 0, 0]]]
        ),
    ]
    with gzip.open(tmp_path / "set.jsonl.gz", "wt") as file:
        file.writelines(lines)
    source = open_source(tmp_path / "set.jsonl.gz")
    table = read_table([source], Target("tc", log=True), trunk.elements, exclude=["Cr3Os"])
    assert table.ids == ["good"]
    assert {row.id: row.rule for row in table.left_out if row.id} == {
        "half": "partial occupancy",
        "none": "missing target",
        "zero": "not positive",
        "endless": "not finite",
        "flat": "singular cell",
        "strange": "unknown element",
        "pymatgen": "broken",
        "twice": "atoms coincide",
        "doped": "held out",
    }
    (other,) = (row for row in table.left_out if row.id == "pymatgen")
    assert "a line needs 'lattice'" in other.reason and "it has id, structure, tc" in other.reason
    assert len(table.left_out) == 10
    with pytest.raises(ValueError, match="columns with numbers: tc; 5 cannot be used, half: a site"):
        read_table([source], Target("gap"), trunk.elements)


def test_disorder_and_untrained_elements_are_refused_with_the_reason(predictor):
    from pymatgen.core import Lattice, Structure

    mixed = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"crystal 1 .* partly occupied"):
        predictor.predict([bulk("Cu"), mixed])
    predictor.model.trunks[0].trained[29] = False
    try:
        with pytest.raises(ValueError, match="Cu is outside"):
            predictor.predict([bulk("Cu")])
    finally:
        predictor.model.trunks[0].trained[29] = True


def test_files_structures_and_atoms_give_the_same(predictor, tmp_path):
    from dao_ase.convert import structure_from_atoms

    atoms = salts()[3]
    atoms.write(tmp_path / "one.extxyz")
    structure = structure_from_atoms(atoms)
    structure.to(str(tmp_path / "one.json"))
    (tmp_path / "entries.json").write_text(json.dumps([{"material_id": "mp-1", "structure": structure.as_dict()}]))
    files = [tmp_path / name for name in ("one.extxyz", "one.json", "entries.json")]
    first, *others = predictor.predict(one for one in [atoms, structure, *files])
    assert len(others) == 4
    assert all(other.value == pytest.approx(first.value, rel=1e-4) for other in others)
    assert predictor.predict([]) == []
    with pytest.raises(TypeError, match="give a list"):
        predictor.predict(atoms)


@pytest.mark.parametrize("state", STATES_OF_TORCH)
def test_what_torch_is_told_changes_nothing(predictor, state, tmp_path):
    predictor.save(tmp_path / "model.safetensors")
    expected = predictor.predict(salts()[:3])
    with STATES_OF_TORCH[state]():
        again = DAOPredictor(tmp_path / "model.safetensors")
        found = [one.predict(salts()[:3]) for one in (predictor, again)]
    for predictions in [*found, again.predict(salts()[:3])]:
        for one, other in zip(predictions, expected, strict=True):
            assert one.value == pytest.approx(other.value, rel=1e-4)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("calibration", "says nothing of 'calibration'"),
        ("trunk", "says nothing of 'trunk'"),
        ("target", "says nothing of 'target'"),
        ("elements", "says nothing of 'elements'"),
        ("version", "is of version None, this program reads"),
    ],
)
def test_a_model_of_another_version_is_refused_with_its_file(predictor, tmp_path, missing, reason):
    predictor.save(tmp_path / "model.safetensors")
    tensors, header = checkpoint.load(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if name != missing}
    checkpoint.save(tmp_path / "model.safetensors", kept, {key: header[key] for key in header if key != missing})
    with pytest.raises(checkpoint.CheckpointError, match=rf"model\.safetensors' .*{reason}"):
        DAOPredictor(tmp_path / "model.safetensors")


def test_a_folder_without_a_model_says_that_it_is_not_finished(tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="did not finish"):
        find_model(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="installed models"):
        find_model("melting point")


def test_composition_statistics():
    graphs = Graphs(from_atoms([bulk("NaCl", "rocksalt", a=5.6), bulk("Cu")]), [])
    found = dict(zip(statistic_names(), composition_statistics(graphs.counts).T, strict=True))
    np.testing.assert_allclose(found["mean number"], [14, 29])
    np.testing.assert_allclose(found["range number"], [6, 0])
    np.testing.assert_allclose(found["deviation electronegativity"], [(3.16 - 0.93) / 2, 0], rtol=1e-5)
    np.testing.assert_allclose(found["elements"], [2, 1])
    assert element_table()[26, PROPERTIES.index("valence_d")] == 6
    assert element_table()[26, PROPERTIES.index("empty_d")] == 4
    assert np.isfinite(element_table()).all()


def test_uncertainties_cover_two_thirds_of_the_errors():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 1, 4000)
    errors = rng.normal(size=4000) * 2 * spread
    calibration = calibrate(errors, spread)
    assert (np.abs(errors) <= calibration.uncertainty(spread)).mean() == pytest.approx(0.683, abs=0.01)
    assert calibration.factor == pytest.approx(2, rel=0.15)


def test_published_json_files(tmp_path):
    site = {"species": [{"element": "Cu", "occu": 1}], "abc": [0, 0, 0]}
    structure = {"lattice": {"matrix": (3.6 * np.eye(3)).tolist()}, "sites": [site]}
    matbench = {"index": [7], "columns": ["structure", "n"], "data": [[structure, 1.5]]}
    with gzip.open(tmp_path / "matbench_dielectric.json.gz", "wt") as file:
        json.dump(matbench, file)
    atoms = {
        "lattice_mat": [[2, 0, 0], [0, 4, 0], [0, 0, 4]],
        "coords": [[1, 2, 0]],
        "elements": ["Cu"],
        "cartesian": True,
    }
    entries = [{"jid": "JVASP-1", "atoms": atoms, "mbj_bandgap": "na", "bulk_modulus_kv": 140.2}]
    (tmp_path / "jdft_3d.json").write_text(json.dumps(entries))
    (row,) = [open_source(tmp_path / "matbench_dielectric.json.gz").record(0, raw)
              for raw in open_source(tmp_path / "matbench_dielectric.json.gz").rows()]  # fmt: skip
    assert (row.id, row.labels["n"], row.atomic_numbers.tolist()) == ("matbench_dielectric-7", 1.5, [29])
    source = open_source(tmp_path / "jdft_3d.json")
    (row,) = [source.record(0, raw) for raw in source.rows()]
    assert row.id == "JVASP-1" and np.isnan(row.labels["mbj_bandgap"]) and row.labels["bulk_modulus_kv"] == 140.2
    np.testing.assert_allclose(row.frac_coords, [[0.5, 0.5, 0]])


def test_a_table_may_name_files(tmp_path):
    bulk("Cu").write(tmp_path / "copper.cif")
    (tmp_path / "table.csv").write_text("id,file,hardness\nCu,copper.cif,3\nAg,silver.cif,2.5\n")
    left_out = []
    (record,) = read(open_source(tmp_path / "table.csv"), left_out.append)
    assert (record.id, record.labels["hardness"], len(record.atomic_numbers)) == ("Cu", 3.0, 1)
    assert left_out[0].id == "Ag" and "silver.cif" in left_out[0].reason


def test_a_table_may_name_json_of_pymatgen_and_have_spaces_before_names(tmp_path):
    structure = structure_from_atoms(bulk("Cu"))
    structure.to(filename=str(tmp_path / "copper.json"))
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress((tmp_path / "copper.json").read_bytes()))
    write(tmp_path / "database.json", bulk("Ag"), format="json")
    (tmp_path / "table.csv").write_text("id, file\na, copper.json\nb, packed.json.gz\nc, database.json \n")
    records = list(read(open_source(tmp_path / "table.csv")))
    assert [record.atomic_numbers.tolist() for record in records] == [[29], [29], [47]]
    np.testing.assert_allclose(records[0].lattice, structure.lattice.matrix)


@pytest.mark.parametrize("name", ["table.csv", "lines.jsonl", "list.json", "frames.extxyz", "folder/frames.extxyz"])
def test_a_file_without_crystals_is_named(predictor, trunk, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_text({"table.csv": "id,file,v\n", "list.json": "[]"}.get(name, ""))
    given = tmp_path / name.partition("/")[0]
    with pytest.raises(ValueError, match=r"no crystals: .*holds no crystals"):
        predictor.predict([bulk("Cu"), given])
    salt = bulk("Cu")
    salt.info["v"] = 1.0
    write(tmp_path / "copper.extxyz", salt)
    table = read_table([open_source(given), open_source(tmp_path / "copper.extxyz")], Target("v"), trunk.elements)
    assert len(table) == 1 and table.counts == {"no crystals": 1}
    assert name.rpartition("/")[2] in table.left_out[0].reason
    if given.is_file():
        predictor.save(tmp_path / "volume.safetensors")
        done = CliRunner().invoke(main, ["predict", str(tmp_path / "volume.safetensors"), str(given)])
        assert done.exit_code == 1 and given.name in done.stderr


def test_a_quotation_mark_without_its_second_is_told_where_a_cell_becomes_too_large(tmp_path):
    (tmp_path / "table.csv").write_text('id,cif,v\nCu,no cif,1\nAg,"' + "data_Ag\n" * 1000)
    command = ["finetune", str(tmp_path / "table.csv"), "--target", "v", "-o", str(tmp_path / "model")]
    usual = csv.field_size_limit(1000)
    try:
        done = CliRunner().invoke(main, command)
    finally:
        csv.field_size_limit(usual)
    assert done.exit_code == 1 and "after line 2: field larger than field limit" in done.output
    assert "quotation mark" in done.output and done.exception.__class__ is SystemExit


def test_text_in_place_of_a_number_is_shown(tmp_path, trunk):
    bulk("Cu").write(tmp_path / "copper.cif")
    (tmp_path / "table.csv").write_text('id, file , hardness \nCu,copper.cif,3\nAg,copper.cif,"1,234.5"\n')
    source = open_source(tmp_path / "table.csv")
    table = read_table([source], Target("hardness"), trunk.elements)
    assert table.ids == ["Cu"] and table.left_out[0].rule == "not a number" and "'1,234.5'" in table.left_out[0].reason
    (tmp_path / "table.csv").write_text('id,file,hardness\nCu,copper.cif,"3,5"\n')
    with pytest.raises(
        ValueError,
        match=r"with numbers: none; 1 cannot be used, Cu: the column 'hardness' holds '3,5'; .* decimal point",
    ):
        read_table([source], Target("hardness"), trunk.elements)


def test_decimal_commas_are_read_where_semicolons_separate(tmp_path):
    bulk("Cu").write(tmp_path / "copper.cif")
    numbers = ["3,5", "-1,25E-3", " 7 ", "1.234,5", "3,4,5", "a, 5"]
    rows = "".join(f"{place};copper.cif;{number}\n" for place, number in enumerate(numbers))
    (tmp_path / "table.csv").write_text(f"id;file;hardness\n{rows}")
    records = list(read(open_source(tmp_path / "table.csv")))
    assert [record.labels["hardness"] for record in records[:3]] == [3.5, -1.25e-3, 7]
    assert [record.texts["hardness"] for record in records[3:]] == numbers[3:]


def test_a_row_that_names_a_file_of_many_crystals_is_left_out(tmp_path):
    copper, silver = bulk("Cu"), bulk("Ag")
    copper.write(tmp_path / "copper.cif")
    silver.write(tmp_path / "silver.cif")
    blocks = [(tmp_path / name).read_text().replace("image0", name) for name in ("copper.cif", "silver.cif")]
    (tmp_path / "both.cif").write_text("\n".join(blocks))
    write(tmp_path / "both.extxyz", [copper, silver])
    (tmp_path / "table.csv").write_text("file,hardness\ncopper.cif,3\nboth.cif,2\nboth.extxyz,1\n")
    left_out = []
    assert len(list(read(open_source(tmp_path / "table.csv"), left_out.append))) == 1
    assert ["holds 2 structures" in row.reason for row in left_out] == [True, True]


def test_tables_of_matbench_without_structures_and_truth_values_say_so(tmp_path, trunk):
    site = {"species": [{"element": "Cu", "occu": 1}], "abc": [0, 0, 0]}
    structure = {"lattice": {"matrix": (3.6 * np.eye(3)).tolist()}, "sites": [site]}
    for name, columns, row in (
        ("matbench_expt_gap.json", ["composition", "gap expt"], ["NaCl", 8.5]),
        ("matbench_mp_is_metal.json", ["structure", "is_metal"], [structure, True]),
    ):
        (tmp_path / name).write_text(json.dumps({"index": [0], "columns": columns, "data": [row]}))
    with pytest.raises(ValueError, match=r"no column 'structure'; it has composition, gap expt"):
        read_table([open_source(tmp_path / "matbench_expt_gap.json")], Target("gap expt"), trunk.elements)
    with pytest.raises(ValueError, match=r"the column 'is_metal' holds 'True'"):
        read_table([open_source(tmp_path / "matbench_mp_is_metal.json")], Target("is_metal"), trunk.elements)


def test_families_may_have_numbers(tmp_path, trunk):
    bulk("Cu").write(tmp_path / "copper.cif")
    (tmp_path / "table.csv").write_text("file,hardness,group\ncopper.cif,3,225\ncopper.cif,3,\ncopper.cif,3,Fm-3m\n")
    table = read_table([open_source(tmp_path / "table.csv")], Target("hardness"), trunk.elements, family="group")
    assert table.families == ["225", "", "Fm-3m"]
    with pytest.raises(ValueError, match="no row has a text or a number in the column 'grup'"):
        read_table([open_source(tmp_path / "table.csv")], Target("hardness"), trunk.elements, family="grup")


def test_a_number_in_two_columns_or_two_cells_is_not_guessed(tmp_path):
    bulk("Cu").write(tmp_path / "copper.cif")
    (tmp_path / "table.csv").write_text("id,file,hardness\nCu,copper.cif,3,,\nAg,copper.cif,1,234.5\n")
    left_out = []
    (record,) = read(open_source(tmp_path / "table.csv"), left_out.append)
    assert record.id == "Cu" and left_out[0].id == "Ag" and "more cells than there are columns" in left_out[0].reason
    (tmp_path / "table.csv").write_text("id,file,hardness,,, hardness \nCu,copper.cif,3,,,4\n")
    with pytest.raises(ValueError, match=r"table.csv' has two columns 'hardness'; rename or remove one of them"):
        list(read(open_source(tmp_path / "table.csv")))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_spreadsheets(tmp_path, separator):
    bulk("Cu").write(tmp_path / "POSCAR_Cu", format="vasp")
    lines = [["File", "id", "hardness"], ["POSCAR_Cu", "Cu", "3"], ["table.csv", "it", "2"]]
    text = "".join(separator.join(line) + "\r\n" for line in lines)
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    left_out = []
    (record,) = read(open_source(tmp_path / "table.csv"), left_out.append)
    assert (record.id, record.labels["hardness"], record.atomic_numbers.tolist()) == ("Cu", 3.0, [29])
    assert left_out[0].id == "it" and "cannot be read" in left_out[0].reason


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.json.gz", "a.json.zip", "a.npz"])
def test_packed_files_that_are_cut_are_named(tmp_path, name):
    file = tmp_path / name
    if name.endswith("gz"):
        file.write_bytes(gzip.compress(b'cif,x\n"' + random.Random(0).randbytes(4000) + b'",1\n')[:2000])
    else:
        file.write_bytes(b"PK\x03\x04 cut")
    command = ["finetune", str(file), "--target", "x", "-o", str(tmp_path / "model")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1 and name in done.output and done.exception.__class__ is SystemExit


def test_rows_that_were_left_out_are_listed_even_if_no_model_can_be_made(tmp_path):
    bulk("Cu").write(tmp_path / "copper.cif")
    (tmp_path / "table.csv").write_text("id,file,hardness\nCu,copper.cif,3\nAg,silver.cif,2.5\n")
    command = ["finetune", str(tmp_path / "table.csv"), "--target", "hardness", "-o", str(tmp_path / "model")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1 and "fewer than the 5 folds need" in done.output
    assert json.loads((tmp_path / "model" / "left_out.jsonl").read_text())["id"] == "Ag"


@pytest.fixture
def command(tmp_path, monkeypatch) -> list[str]:
    """A call of ``dao-ase finetune`` on the salts, one of which lacks its number, that takes a second."""
    save_potential(tmp_path / "trunk.safetensors", random_potential(width=16, layers=1).float())
    with open(tmp_path / "salts.jsonl", "w") as file:
        for place, atoms in enumerate(salts()):
            sites = [[[[s, 1.0]], f] for s, f in zip(atoms.symbols, atoms.get_scaled_positions().tolist(), strict=True)]
            number = None if place == 2 else volume(atoms)
            file.write(
                json.dumps({"id": str(place), "lattice": atoms.cell.tolist(), "sites": sites, "v": number}) + "\n"
            )
    monkeypatch.setattr("dao_ase.properties.fit.FitSettings.epochs", 3)
    command = ["finetune", str(tmp_path / "salts.jsonl"), "--target", "v", "--log", "--folds", "2", "--json"]
    return [*command, "--weights", str(tmp_path / "trunk.safetensors"), "-o", str(tmp_path / "model")]


def test_a_model_is_not_replaced_by_that_of_another_call(command, tmp_path):
    def refused(*changes: str) -> str:
        before = contents(tmp_path / "model")
        done = CliRunner().invoke(main, [*command, *changes])
        assert done.exit_code == 1 and contents(tmp_path / "model") == before
        return done.stderr

    assert CliRunner().invoke(main, command).exit_code == 0
    file = tmp_path / "model" / "model.safetensors"
    model = said(file)
    assert "other target (column, logarithm or unit), seed; give another folder" in refused(
        "--seed", "1", "--extensive"
    )
    assert "a model with other data; " in refused("--least", "20")  # its rows are other, and none is listed as left out
    assert CliRunner().invoke(main, command).exit_code == 0 and said(file) == model
    tensors, header = checkpoint.load(file)
    del header["plan"]
    checkpoint.save(file, tensors, header)
    assert "a model with other data or settings; " in refused("--seed", "1")  # as earlier versions made it
    file.write_bytes(b"mine")
    assert "was not written by dao-ase" in refused()
    file.unlink()
    assert "an interrupted run with other seed; " in refused("--seed", "1")
    assert CliRunner().invoke(main, command).exit_code == 0 and said(file) == model


def test_a_model_is_replaced_as_a_whole_or_not_at_all(result, tmp_path, monkeypatch):
    """As when a disk is full, or a figure fails, while another model is written into the folder."""
    write_results(result, tmp_path)
    before = contents(tmp_path)
    other = replace(result, predicted=result.predicted + 1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("matplotlib.figure.Figure.savefig", raises(OSError("full")))
        write_results(other, tmp_path)
    assert contents(tmp_path) == before
    write_results(other, tmp_path)
    assert contents(tmp_path).keys() == before.keys() and contents(tmp_path) != before


def raises(error: BaseException):
    """A function that does nothing else."""

    def call(*arguments, **keywords):
        raise error

    return call


def test_what_is_learnt_is_said_where_its_errors_stand(table, trunk, tmp_path):
    target = Target("volume", "Å³", log=True, extensive=True)
    write_results(fine_tune(table, trunk, target, QUICK, folds=2), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["learnt"] == "ln(volume per atom)"
    assert "Learnt is ln(volume per atom)." in (tmp_path / "model_card.md").read_text()


def said(file) -> tuple[str, dict]:
    """What a weight file holds; its bytes may come in another order."""
    tensors, header = checkpoint.load(file)
    return checkpoint.checksum(tensors), header


def contents(folder) -> dict:
    """The bytes of every file of a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_large_beside_its_uncertainty_is_written_in_full(table, trunk, tmp_path):
    """And names with dollar signs are drawn as they are: matplotlib looks for a formula between two."""
    high = replace(table, values=12000 + table.values / 50, families=[r"$\unit$"] * len(table))
    target = Target(r"T ($\unit{K}$)")
    found = fine_tune(high, trunk, target, QUICK, folds=2)
    write_results(found, tmp_path / "model")
    written = pd.read_csv(tmp_path / "model" / "predictions.csv")
    np.testing.assert_allclose(written[target.name], high.values, rtol=1e-8)
    assert (written.low < written.predicted).all() and (written.predicted < written.high).all()
    assert f"values: {high.values.min():.7g} to" in (tmp_path / "model" / "model_card.md").read_text()
    bulk("NaCl", "rocksalt", a=5.6).write(tmp_path / "salt.cif")
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "model"), str(tmp_path / "salt.cif")])
    value, low, high_end = (float(one) for one in re.search(r"([\d.]+) ± .* \((.*) to (.*)\)", done.stdout).groups())
    assert 11900 < low < value < high_end < 12100


def test_the_two_commands(command, tmp_path):
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["left out"] == {"missing target": 1} and report["rows"] == 15
    assert "missing target: 2" in done.stderr
    files = {file.name for file in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "predictions.csv", "left_out.jsonl", "model_card.md", "parity.png"} <= files
    bulk("NaCl", "rocksalt", a=5.6).write(tmp_path / "salt.cif")
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "model"), str(tmp_path / "salt.cif"), "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["low"] < row["value"] < row["high"] and len(row["folds"]) == 2
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "model"), str(tmp_path / "missing.cif")])
    assert done.exit_code == 1 and "missing.cif" in done.stderr
    assert torch.is_grad_enabled()


def test_predictions_come_one_by_one_and_outlive_an_interruption(predictor, tmp_path, monkeypatch):
    predictor.save(tmp_path / "volume.safetensors")
    for place, salt in enumerate(salts()[:3]):
        salt.write(tmp_path / f"{place}.extxyz")
    predict = DAOPredictor.predict_crystals

    def interrupted(self, crystals):
        if crystals.atomic_numbers[1] == 35:  # the third, LiBr
            raise KeyboardInterrupt
        return predict(self, crystals)

    monkeypatch.setattr(DAOPredictor, "predict_crystals", interrupted)
    command = [
        "predict",
        str(tmp_path / "volume.safetensors"),
        *(str(tmp_path / f"{place}.extxyz") for place in range(3)),
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 130 and done.stderr == "interrupted: 2 of 3 crystals are predicted\n"
    assert ["LiF" in done.stdout, "LiCl" in done.stdout] == [True, True] and done.stdout.count("\n") == 2
    done = CliRunner().invoke(main, [*command, "--json"])
    assert [row["formula"] for row in json.loads(done.stdout)] == ["LiF", "LiCl"]


def test_tables_are_predicted_whatever_case_their_names_have(predictor, tmp_path):
    predictor.save(tmp_path / "volume.safetensors")
    bulk("NaCl", "rocksalt", a=5.6).write(tmp_path / "salt.cif")
    (tmp_path / "TABLE.CSV").write_text("id,file\nhalite,salt.cif\n")
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "volume.safetensors"), str(tmp_path / "TABLE.CSV")])
    assert done.exit_code == 0 and "TABLE.CSV#halite  NaCl  volume" in done.stdout


def test_whatever_can_be_learnt_from_can_be_predicted(predictor, tmp_path):
    predictor.save(tmp_path / "volume.safetensors")
    salt = bulk("NaCl", "rocksalt", a=5.6)
    salt.write(tmp_path / "salt.cif")
    (tmp_path / "table.tsv").write_text("id\tfile\nhalite\tsalt.cif\n")
    quoted = (tmp_path / "salt.cif").read_text().replace('"', '""')
    with zipfile.ZipFile(tmp_path / "table.csv.zip", "w") as archive:
        archive.writestr("table.csv", f'id,cif\nhalite,"{quoted}"\n')
    structure = structure_from_atoms(salt)
    with gzip.open(tmp_path / "matbench_k.json.gz", "wt") as file:
        json.dump({"index": [7], "columns": ["structure", "k"], "data": [[structure.as_dict(), 1]]}, file)
    atoms = {"lattice_mat": salt.cell.tolist(), "coords": salt.positions.tolist(), "elements": ["Na", "Cl"]}
    (tmp_path / "jarvis.json").write_text(json.dumps([{"jid": "JVASP-1", "atoms": atoms | {"cartesian": True}}]))
    (tmp_path / "structures.json").write_text(json.dumps([structure.as_dict()]))
    names = ["table.tsv", "table.csv.zip", "matbench_k.json.gz", "jarvis.json", "structures.json", "salt.cif"]
    files = [str(tmp_path / name) for name in names]
    done = CliRunner().invoke(main, ["predict", str(tmp_path / "volume.safetensors"), *files, "--json"])
    assert done.exit_code == 0, done.output
    values = [row["value"] for row in json.loads(done.stdout)]
    assert len(values) == len(names) and values == pytest.approx(values[:1] * len(names), rel=1e-4)


def test_a_folder_of_other_things_does_not_hide_an_installed_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gap").mkdir()
    assert find_model("gap") == checkpoint.default_weights("gap")
    (tmp_path / "gap" / "left_out.jsonl").write_text("")  # of a fine-tuning that was interrupted
    with pytest.raises(checkpoint.CheckpointError, match="did not finish"):
        find_model("gap")
