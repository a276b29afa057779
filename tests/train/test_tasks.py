"""From a TOML file and a folder of crystals to weights that generate."""

import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from dao_ase.checkpoint import load, read_header
from dao_ase.cli import main
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.data.store import CrystalStore
from dao_ase.generator import DAOGenerator
from dao_ase.train import publish
from dao_ase.train.config import TrainConfig
from dao_ase.train.tasks import build_trainer, formula_unit_table, trained_elements
from generation import write_rock_salts

CONFIG = """
task = "generate"
data = "{data}"
val_data = "{data}"
total_steps = 6
warmup_steps = 2
compile = false

[model]
preset = "small"
width = 16
layers = 1
heads = 2
pair_width = 8

[batches]
crystals = 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run of six steps: ``run.toml``, ``store``, ``run``."""
    folder = tmp_path_factory.mktemp("training")
    write_rock_salts(folder / "salt.npz", 40)
    rules = BuildRules(min_atoms=1, deduplicate=False)
    build([open_source(folder / "salt.npz")], folder / "store", rules)
    (folder / "run.toml").write_text(CONFIG.format(data=folder / "store"))
    result = CliRunner().invoke(main, ["train", str(folder / "run.toml"), "-o", str(folder / "run"), "--threads", "1"])
    assert result.exit_code == 0, result.output
    return folder


def test_a_trained_run_generates(folder):
    generator = DAOGenerator(str(folder / "run" / "weights.safetensors"), steps=2)
    assert generator.elements == ["Na", "Cl"]
    assert len(generator.sampler.sample_cells(generator.cells("NaCl", 3), [0, 1, 2])) == 3
    with pytest.raises(ValueError, match="at most 2"):
        generator.generate("Na2Cl2")


def test_the_header_tells_what_was_trained(folder):
    header = read_header(folder / "run" / "weights.safetensors")
    assert header["training"]["step"] == 6
    assert header["training"]["config"]["data"] == str(folder / "store")


def test_a_finished_run_says_where_it_stands(folder):
    result = CliRunner().invoke(main, ["train", str(folder / "run.toml"), "-o", str(folder / "run"), "--threads", "1"])
    assert result.exit_code == 0 and "is complete: 6 steps" in result.output


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("total_steps = 6", "total_steps = 4"), 0, "is complete: 6 steps"),
        (("total_steps = 6", "total_steps = 7"), 0, "at step 6 of 7, with other total_steps than before"),
        (("width = 16", "width = 24"), 1, "holds weights of another model"),
        (('task = "generate"', 'task = "stability"'), 1, "has no label e_above_hull"),
    ],
)
def test_a_run_whose_configuration_changed(folder, tmp_path, change, code, words):
    copy = shutil.copytree(folder / "run", tmp_path / "run")
    text = (folder / "run.toml").read_text()
    assert change[0] in text
    (tmp_path / "run.toml").write_text(text.replace(*change))
    result = CliRunner().invoke(main, ["train", str(tmp_path / "run.toml"), "-o", str(copy), "--threads", "1"])
    assert result.exit_code == code and words in result.output, result.output


def test_runs_follow_each_other_as_long_as_there_is_time(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = (folder / "run.toml").read_text()
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(text)
    command = ["train", "one.toml", "two.toml", "--threads", "1"]
    assert CliRunner().invoke(main, [*command, "--minutes", "1e-3"]).exit_code == 0
    assert (folder / "runs" / "one").exists() and not (folder / "runs" / "two").exists(), "the first took all the time"
    assert CliRunner().invoke(main, command).exit_code == 0
    assert [
        read_header(folder / "runs" / name / "weights.safetensors")["training"]["step"] for name in ("one", "two")
    ] == [6, 6]
    assert "one run" in CliRunner().invoke(main, [*command, "-o", "elsewhere"]).output


def test_training_can_start_from_weights(folder):
    config = TrainConfig.load(folder / "run.toml").to_dict()
    initial = str(folder / "run" / "weights.safetensors")
    trainer = build_trainer(TrainConfig.from_dict(config | {"initial": initial}), folder / "second")
    expected = load(initial)[0]
    assert all(tensor.equal(expected[name]) for name, tensor in trainer.model.state_dict().items())


@pytest.mark.filterwarnings("error")
def test_a_run_on_one_crystal_generates(folder, tmp_path):
    """The spread of one lattice is not a number, and weights that hold it make nothing."""
    write_rock_salts(tmp_path / "salt.npz", 1)
    build([open_source(tmp_path / "salt.npz")], tmp_path / "store", BuildRules(min_atoms=1))
    text = (folder / "run.toml").read_text().replace(str(folder / "store"), str(tmp_path / "store"))
    (tmp_path / "run.toml").write_text(text)
    result = CliRunner().invoke(main, ["train", str(tmp_path / "run.toml"), "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    tensors, header = load(tmp_path / "run" / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert header["formula_units"] == {"any": {"1": 1}}
    generator = DAOGenerator(str(tmp_path / "run" / "weights.safetensors"), steps=2)
    assert generator.cells("NaCl", 2, "auto")


def test_tables_of_the_training_set(folder):
    store = CrystalStore.open(folder / "store")
    assert trained_elements(store) == ["Na", "Cl"]
    assert formula_unit_table(store) == {"1-1": {"1": 40}, "any": {"1": 40}}


def test_published_weights_are_small_and_say_how_good_they_are(folder, monkeypatch):
    report = {"settings": {"file": "val.npz"}, "references": 9, "samples": 1, "match_rate": 0.5, "rmse": 0.1}
    report |= {"match_rate_filtered": 0.4, "rmse_filtered": 0.1}
    (folder / "report.json").write_text(json.dumps(report))
    source, target = str(folder / "run" / "weights.safetensors"), str(folder / "dao_g.safetensors")
    options = ["--name", "tiny", "--steps", "7", "--anti-annealing", "3", "--report", str(folder / "report.json")]
    monkeypatch.setattr("sys.argv", ["publish", source, target, *options])
    publish.main()
    header = read_header(target)
    assert header["val"]["match_rate"] == 0.5 and header["name"] == "tiny"
    assert DAOGenerator(target).sampler.settings.steps == 7
    monkeypatch.setattr(publish, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="at most 20"):
        publish.main()


def test_published_weights_of_other_models(folder, monkeypatch):
    (folder / "more.json").write_text(json.dumps({"guidance": {"start": 0.5}, "val": {"MAE": 0.1}}))
    source, target = str(folder / "run" / "weights.safetensors"), str(folder / "other.safetensors")
    monkeypatch.setattr("sys.argv", ["publish", source, target, "--name", "s", "--header", str(folder / "more.json")])
    publish.main()
    header = read_header(target)
    assert header["name"] == "s" and header["guidance"] == {"start": 0.5} and header["training"]["step"] == 6
    monkeypatch.setattr("sys.argv", [*sys.argv, "--config", '{"logit_bound": 7.0}'])
    publish.main()
    assert read_header(target)["config"] == header["config"] | {"logit_bound": 7.0}
    monkeypatch.setattr("sys.argv", ["publish", source, target, "--name", "s"])
    with pytest.raises(SystemExit):
        publish.main()


@pytest.mark.parametrize(
    ("change", "reason"), [({"task": "fly"}, "task 'fly'"), ({"model": {"preset": "huge"}}, "preset 'huge'")]
)
def test_unknown_tasks_and_presets(folder, change, reason):
    config = TrainConfig.load(folder / "run.toml").to_dict()
    with pytest.raises(ValueError, match=reason):
        build_trainer(TrainConfig.from_dict(config | change), folder / "third")
