"""The training loop, the same for every model: steps, moving average, log, checkpoints, exact resume."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dao_ase import checkpoint
from dao_ase.train import together
from dao_ase.train.config import TrainConfig
from dao_ase.train.optimizer import MovingAverage, build_optimizer, learning_rate_factor
from dao_ase.whole_files import write_json, write_text


@runtime_checkable
class Batches(Protocol):
    """An endless, resumable iterator of batches."""

    def __iter__(self) -> Iterator: ...
    def __next__(self) -> Any: ...
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> None: ...


@runtime_checkable
class Objective(Protocol):
    """What is minimised: ``loss`` returns named scalars; the one named "loss" is differentiated."""

    def loss(self, model: nn.Module, batch: Any, rng: torch.Generator) -> dict[str, Tensor]: ...


@runtime_checkable
class Compilable(Protocol):
    """A model that knows which of its parts are worth compiling."""

    def compile_layers(self) -> None: ...


class Trainer:
    """Trains ``model`` in ``folder``; a second Trainer on the same folder continues the first one exactly.

    The folder holds ``config.json``, ``log.jsonl`` (a line every ``log_every`` steps), ``state.safetensors`` (everything
    needed to resume) and ``weights.safetensors`` (the moving average, ready for use). Settings may change on the way, but
    for the model and the optimizer; ``changed`` names those that are others than when the state was saved.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        batches: Batches,
        config: TrainConfig,
        folder: str | Path,
        *,
        header: dict[str, Any] | None = None,
        val_batches: list | None = None,
        device: str = "cpu",
        log_every: int = 50,
        val_every: int = 1000,
    ) -> None:
        self.config, self.folder, self.device = config, Path(folder), torch.device(device)
        self.model = model.to(self.device)
        self.objective, self.batches, self.val_batches = objective, batches, val_batches or []
        self.header, self.log_every, self.val_every = header or {}, log_every, val_every
        self.optimizer = build_optimizer(model, config)
        self.average = MovingAverage(model, config.ema_decay)
        self.rank = together.rank()
        self.rng = torch.Generator(device=self.device).manual_seed(config.seed + 7919 * self.rank)
        self.step = self.samples = 0
        self.seconds = 0.0
        self._within_step = False
        self.changed: list[str] = []
        if config.compile and isinstance(model, Compilable):
            model.compile_layers()
        if (self.folder / "state.safetensors").exists():
            self._resume()
        if self.rank == 0:
            write_json(self.folder / "config.json", config.to_dict())
        together.join(model, self.device)

    def run(self, *, minutes: float | None = None, save_every_s: float = 120.0, progress: bool = True) -> None:
        """Trains until the schedule ends or the time is over; Ctrl-C and SIGTERM (`kill`, a batch system) save and leave."""
        start = saved = time.monotonic()
        spent = self.seconds
        bar = tqdm(total=self.config.total_steps, initial=self.step, disable=not (progress and self.rank == 0))
        window: list[dict[str, float]] = []
        self._cut_log()
        asked_to_stop, restore = _watch_for_termination()
        try:
            while self.step < self.config.total_steps:
                window.append(self._train_step())
                now = time.monotonic()
                self.seconds = spent + now - start
                if self.step % self.log_every == 0:
                    means = {name: sum(values[name] for values in window) / len(window) for name in window[0]}
                    self._log(means)
                    bar.set_postfix_str(f"loss {means['loss']:.4f}")
                    window = []
                if self.step % self.val_every == 0 and self.val_batches:
                    self._log({f"val_{name}": value for name, value in self.validate().items()})
                bar.update()
                if now - saved > save_every_s:
                    self.save()
                    saved = now
                over = asked_to_stop.is_set() or (minutes is not None and now - start > 60 * minutes)
                if together.any_wants(over, self.device):
                    break
            if asked_to_stop.is_set() and self.rank == 0:
                tqdm.write("interrupted: saving the state", file=sys.stderr)
        except KeyboardInterrupt:
            tqdm.write("interrupted within a step: the run goes on from the state saved last", file=sys.stderr)
        finally:
            bar.close()
            if not self._within_step:  # of half a step a state would not go on exactly
                self.save()
            restore()

    def _train_step(self) -> dict[str, float]:
        self._within_step = True
        batch = _to_device(next(self.batches), self.device)
        factor = learning_rate_factor(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * factor
        self.optimizer.zero_grad()
        values = self._loss(batch, self.rng)
        values["loss"].backward()
        together.average_gradients(self.model.parameters())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        if torch.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.model, self.step)
        self.step += 1
        self.samples += len(batch)
        self._within_step = False
        numbers = {name: float(value.detach()) for name, value in values.items()}
        return numbers | {"gradient_norm": float(norm), "skipped": float(not torch.isfinite(norm))}

    def validate(self) -> dict[str, float]:
        """Mean losses of the averaged weights on the validation batches, with the same noise every time."""
        kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.tensors)
        self.model.eval()
        rng = torch.Generator(device=self.device).manual_seed(0)
        sums: dict[str, float] = {}
        try:
            for batch in self.val_batches:
                for name, value in self._loss(_to_device(batch, self.device), rng).items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(self.val_batches)
        finally:
            self.model.load_state_dict(kept)
            self.model.train()
        return sums

    def save(self) -> None:
        """Writes the state to resume from, and the averaged weights."""
        if self.rank != 0:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        tensors["rng"] = self.rng.get_state()
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        progress = {"step": self.step, "samples": self.samples, "seconds": round(self.seconds, 1)}
        position = {"batches": self.batches.state_dict(), "config": self.config.to_dict(), **progress}
        checkpoint.save(self.folder / "state.safetensors", tensors, position)
        header = self.header | {"training": {"config": self.config.to_dict(), **progress}}
        checkpoint.save(self.folder / "weights.safetensors", self.average.tensors, header)

    def _resume(self) -> None:
        file = self.folder / "state.safetensors"
        tensors, position = checkpoint.load(file, str(self.device))
        begun = position["config"]
        self.changed = [name for name, value in self.config.to_dict().items() if begun.get(name, value) != value]
        if "optimizer" in self.changed:
            raise ValueError(
                f"{str(file)!r} is of the optimizer {begun['optimizer']!r}, which {self.config.optimizer!r} cannot "
                "continue; name its weights as initial in the configuration of another run"
            )
        checkpoint.fill(self.model, _under(tensors, "model."), file)
        self.average.tensors = _under(tensors, "average.")
        self.rng.set_state(tensors["rng"].cpu())
        self.optimizer.load_tensors(_under(tensors, "optimizer."))
        self.batches.load_state_dict(position["batches"])
        self.step, self.samples, self.seconds = position["step"], position["samples"], position["seconds"]

    def _loss(self, batch: Any, rng: torch.Generator) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.autocast):
            return self.objective.loss(self.model, batch, rng)

    def _cut_log(self) -> None:
        """Takes what a kill left beyond the step of the state out of the log: those steps are taken again."""
        file = self.folder / "log.jsonl"
        if self.rank != 0 or not file.exists():
            return
        lines = file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _is_until(line, self.step)]
        if len(kept) < len(lines):
            write_text(file, "".join(kept))

    def _log(self, values: dict[str, float]) -> None:
        if self.rank != 0:
            return
        line = {"step": self.step, "samples": self.samples, "seconds": round(self.seconds, 1)}
        line |= {name: float(f"{value:.6g}") for name, value in values.items()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _is_until(line: str, step: int) -> bool:
    """Whether a line of the log is whole and of this step or an earlier one."""
    try:
        return json.loads(line)["step"] <= step
    except ValueError:  # a kill cut it
        return False


def _watch_for_termination() -> tuple[threading.Event, Callable[[], object]]:
    """An event that SIGTERM and Ctrl-C set, so that a step is finished before the state is saved; and what undoes this.

    A second Ctrl-C is a KeyboardInterrupt.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        return event, lambda: None

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # as nohup says
    for number in before:
        signal.signal(number, stop)
    return event, lambda: [signal.signal(number, handler) for number, handler in before.items()]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _to_device(batch: Any, device: torch.device) -> Any:
    return batch.to(device) if device.type != "cpu" else batch
