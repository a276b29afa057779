"""The training loop: it learns, resumes exactly, and refuses what it does not know."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from dao_ase.checkpoint import CheckpointError, load
from dao_ase.crystals import Crystals
from dao_ase.data.batches import BucketedBatches
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.train.config import TrainConfig
from dao_ase.train.denoising import DenoisingObjective, stratified_times
from dao_ase.train.loop import Trainer

TINY = DenoiserConfig(width=16, layers=1, heads=2, pair_width=8, frequencies=2, radial=4)


class RockSalt:
    """Two-atom and four-atom crystals, all alike."""

    num_atoms = np.array([2] * 30 + [4] * 30)

    def batch(self, indices: np.ndarray) -> Crystals:
        counts = torch.from_numpy(self.num_atoms[indices])
        coords = torch.cat([torch.arange(int(n)).unsqueeze(1).expand(-1, 3) / int(n) for n in counts])
        numbers = torch.cat([torch.tensor([11, 17]).repeat(int(n) // 2) for n in counts])
        sizes = torch.linspace(4, 5, 60)[torch.from_numpy(indices)]
        return Crystals(sizes[:, None, None] * torch.eye(3), coords, numbers, counts)


def trainer(folder, process: str = "flow", **settings) -> Trainer:
    defaults = {"total_steps": 40, "warmup_steps": 5, "compile": False, "autocast": False, "learning_rate": 3e-3}
    config = TrainConfig(**(defaults | settings))
    torch.manual_seed(0)
    denoiser = Denoiser(TINY)
    source = RockSalt()
    everything = source.batch(np.arange(60))
    denoiser.fit_lattice(everything.lattice, everything.num_atoms)
    batches = BucketedBatches(source, crystals=8)
    validation = [next(BucketedBatches(source, crystals=8, seed=1))]
    objective = DenoisingObjective(denoiser, process)
    return Trainer(denoiser, objective, batches, config, folder, val_batches=validation, log_every=10, val_every=20)


@pytest.mark.parametrize("process", ["flow", "diffusion"])
def test_training_lowers_the_validation_loss(tmp_path, process):
    run = trainer(tmp_path, process, total_steps=150, ema_decay=0.9)
    before = run.validate()["loss"]
    run.run(progress=False)
    assert run.validate()["loss"] < 0.95 * before
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 150 and any("val_loss" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_termination_saves_and_leaves(tmp_path, monkeypatch, number):
    before = signal.getsignal(number)
    run = trainer(tmp_path, total_steps=1000)
    step = run._train_step

    def killed_at_seven() -> dict[str, float]:
        if run.step == 6:
            os.kill(os.getpid(), number)
        return step()

    monkeypatch.setattr(run, "_train_step", killed_at_seven)
    run.run(progress=False)
    assert trainer(tmp_path, total_steps=1000).step == 7
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_within_a_step_training_goes_on_exactly(tmp_path, monkeypatch, times):
    """One Ctrl-C lets the step end; a second leaves at once, and its step is taken again from the state before."""
    whole = trainer(tmp_path / "whole", total_steps=12)
    whole.run(progress=False)
    run = trainer(tmp_path / "run", total_steps=12)
    run.run(minutes=1e-9, progress=False)
    loss = run.objective.loss

    def interrupted(*arguments):
        if run.step == 3:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return loss(*arguments)

    monkeypatch.setattr(run.objective, "loss", interrupted)
    run.run(progress=False)
    second = trainer(tmp_path / "run", total_steps=12)
    assert second.step == (4 if times == 1 else 1)
    second.run(progress=False)
    assert all(one.equal(whole.average.tensors[name]) for name, one in second.average.tensors.items())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_training_equals_uninterrupted(tmp_path, optimizer):
    trainer(tmp_path / "whole", optimizer=optimizer).run(progress=False)
    part = trainer(tmp_path / "part", optimizer=optimizer)
    for _ in range(17):
        part._train_step()
    part.save()
    trainer(tmp_path / "part", optimizer=optimizer).run(progress=False)
    whole, resumed = (load(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "part"))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_steps_that_a_kill_lost_are_logged_once(tmp_path):
    """The log is written as the run goes, the state now and then: a kill leaves lines of steps that are taken again."""
    part = trainer(tmp_path)
    for _ in range(17):
        part._train_step()
    part.save()
    logged = ['{"step": 10, "loss": 1.5}\n', '{"step": 20, "loss": 2.5}\n', '{"step": 30, "lo']
    (tmp_path / "log.jsonl").write_text("".join(logged))
    trainer(tmp_path).run(progress=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30, 40]
    assert lines[0]["loss"] == 1.5 and lines[1]["loss"] != 2.5


def test_a_run_goes_on_with_other_settings_and_says_so(tmp_path):
    trainer(tmp_path, total_steps=6).run(progress=False)
    assert trainer(tmp_path, total_steps=6).changed == []
    longer = trainer(tmp_path, total_steps=9, learning_rate=1e-4)
    assert longer.step == 6 and longer.changed == ["learning_rate", "total_steps"]
    assert json.loads((tmp_path / "config.json").read_text())["total_steps"] == 9
    with pytest.raises(ValueError, match="is of the optimizer 'adamw', which 'muon' cannot continue"):
        trainer(tmp_path, optimizer="muon")


def test_a_state_of_another_model_is_refused(tmp_path, monkeypatch):
    trainer(tmp_path, total_steps=2).run(progress=False)
    monkeypatch.setitem(globals(), "TINY", replace(TINY, width=24))
    with pytest.raises(CheckpointError, match="another model"):
        trainer(tmp_path, total_steps=4)


def test_muon_takes_the_matrices_of_linear_maps(tmp_path):
    run = trainer(tmp_path, optimizer="muon")
    adamw, muon = ([w for group in part.param_groups for w in group["params"]] for part in run.optimizer.parts)
    everything = [weight for weight in run.model.parameters() if weight.requires_grad]
    assert len(adamw) + len(muon) == len(everything) and muon
    assert all(weight.ndim == 2 for weight in muon)
    run.run(progress=False)
    assert run.validate()["loss"] < trainer(tmp_path / "fresh").validate()["loss"]


def test_time_limit_stops_and_the_rest_follows(tmp_path):
    run = trainer(tmp_path)
    run.run(minutes=0, progress=False)
    assert 0 < run.step < 40
    again = trainer(tmp_path)
    assert again.step == run.step
    again.run(progress=False)
    assert again.step == 40


def test_bad_gradient_is_skipped(tmp_path):
    run = trainer(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.objective = Broken()
    assert run._train_step()["skipped"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())


class Broken:
    """An objective that gives NaN."""

    def loss(self, model, batch, rng):
        return {"loss": sum(parameter.sum() for parameter in model.parameters()) * torch.nan}


def test_times_are_stratified():
    times = stratified_times(100, torch.Generator().manual_seed(0))
    assert sorted((times * 100).long().tolist()) == list(range(100))


def test_config_file_round_trip(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('task = "generate"\nlearning_rate = 0.01\n[model]\npreset = "base"\n')
    config = TrainConfig.load(file)
    assert config.learning_rate == 0.01 and config.model == {"preset": "base"}
    assert TrainConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "reason"),
    [("learn = 1", "unknown training settings"), ("= 3", "not valid TOML"), ('schedule = "step"', "schedule"),
     ("total_steps = 0", "at least 1"), ('total_steps = "6"', "total_steps is '6'; it must be of the type int"),
     ('compile = "no"', "type bool"), ("seed = true", "type int"), ("model = 3", "type dict"),
     ("gradient_clip = -1.0", "gradient_clip is -1.0; it must be above 0"), ("weight_decay = -1.0", "at least 0"),
     ("ema_decay = 2.0", "ema_decay is 2.0; it must lie")],
)  # fmt: skip
def test_bad_config_is_a_clear_error(tmp_path, text, reason):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises((ValueError, TypeError), match=reason):
        TrainConfig.load(file)
