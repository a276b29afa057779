"""From a configuration to a trainer: which model, which objective and which batches belong to each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dao_ase import checkpoint
from dao_ase.composition import SYMBOLS
from dao_ase.data.batches import BucketedBatches
from dao_ase.data.store import CrystalStore
from dao_ase.denoiser import PRESETS, Denoiser, DenoiserConfig
from dao_ase.stability import StabilityModel
from dao_ase.train.config import TrainConfig
from dao_ase.train.denoising import DenoisingObjective
from dao_ase.train.kinds import kind_batches
from dao_ase.train.loop import Trainer
from dao_ase.train.potential_task import build_potential_trainer
from dao_ase.train.stabilising import HullBatches, StabilityObjective
from dao_ase.train.together import rank

VAL_BATCHES = 12
"""Batches on which validation losses are averaged."""


def build_trainer(config: TrainConfig, folder: str | Path, device: str = "cpu", **options: Any) -> Trainer:
    """The trainer of a configuration; on a folder with a saved state it continues."""
    if config.task not in TASKS:
        raise ValueError(f"task {config.task!r} is none of {sorted(TASKS)}")
    torch.manual_seed(config.seed)
    return TASKS[config.task](config, folder, device, options)


def _generation(config: TrainConfig, folder: str | Path, device: str, options: dict[str, Any]) -> Trainer:
    """DAO-G: the denoiser on crystals of equal size."""
    denoiser = Denoiser(_denoiser_config(config))
    store = CrystalStore.open(config.data)
    source = kind_batches if denoiser.config.kinds else BucketedBatches
    batches = source(store, seed=config.seed, rank=rank(), **config.batches)
    if config.initial:
        tensors = checkpoint.load(config.initial)[0]
        if denoiser.config.kinds:  # weights that were trained without kinds take all for stable, until they learn
            tensors.setdefault("kind.weight", torch.zeros_like(denoiser.kind.weight))
        checkpoint.fill(denoiser, tensors, config.initial)
    else:
        everything = store.batch(np.arange(len(store)))
        denoiser.fit_lattice(everything.lattice, everything.num_atoms)
    objective = DenoisingObjective(denoiser, **config.objective)
    header = {
        "model": "denoiser",
        "config": asdict(denoiser.config),
        "process": objective.process.name,
        "max_atoms": int(max(n for n in store.num_atoms if n <= config.batches.get("max_atoms", np.inf))),
        "elements": trained_elements(store),
        "formula_units": formula_unit_table(store),
    }
    return Trainer(
        denoiser, objective, batches, config, folder, header=header, device=device,
        val_batches=_validation_batches(config), **options,
    )  # fmt: skip


def _stability(config: TrainConfig, folder: str | Path, device: str, options: dict[str, Any]) -> Trainer:
    """DAO-P's stability model; ``config.initial`` are weights of DAO-G, with which it shares trunk and denoising heads, or
    of an earlier stability model."""
    model = StabilityModel(_denoiser_config(config))
    store = CrystalStore.open(config.data)
    batches = HullBatches(store, seed=config.seed, rank=rank(), **config.batches)
    model.fit_energies(batches.known)
    if config.initial:
        tensors, initial = checkpoint.load(config.initial)
        begun = model.denoiser if initial.get("model") == "denoiser" else model
        checkpoint.fill(begun, tensors, config.initial)
    else:
        everything = store.batch(np.arange(len(store)))
        model.denoiser.fit_lattice(everything.lattice, everything.num_atoms)
    objective = StabilityObjective(model, **config.objective)
    header = model.header(objective.process.name) | {
        "max_atoms": int(batches.num_atoms[batches.num_atoms <= config.batches.get("max_atoms", np.inf)].max()),
        "elements": trained_elements(store),
        "labelled": len(batches.known),
    }
    val_batches = []
    if config.val_data:
        val = HullBatches(CrystalStore.open(config.val_data), seed=1, **config.batches)
        val_batches = [next(val) for _ in range(VAL_BATCHES)]
    return Trainer(
        model, objective, batches, config, folder, header=header, device=device, val_batches=val_batches, **options
    )


def _denoiser_config(config: TrainConfig) -> DenoiserConfig:
    settings = dict(config.model)
    preset = settings.pop("preset", "small")
    if preset not in PRESETS:
        raise ValueError(f"model preset {preset!r} is none of {sorted(PRESETS)}")
    return replace(PRESETS[preset], **settings)


def _validation_batches(config: TrainConfig) -> list:
    if not config.val_data:
        return []
    batches = BucketedBatches(CrystalStore.open(config.val_data), seed=1, **config.batches)
    return [next(batches) for _ in range(VAL_BATCHES)]


def trained_elements(store: CrystalStore) -> list[str]:
    """Symbols of the elements that the crystals contain."""
    numbers = store.batch(np.arange(len(store))).atomic_numbers.unique()
    return [SYMBOLS[int(number)] for number in numbers]


def formula_unit_table(store: CrystalStore) -> dict[str, dict[str, int]]:
    """How often each kind of formula has how many formula units in its cell.

    The kind is the sorted counts of the reduced formula, "1-3-5" for CsV3Sb5; kinds seen less than 10 times are left out and
    "any" holds the sum over all of them, however few.
    """
    crystals = store.batch(np.arange(len(store)))
    table: dict[str, Counter] = {"any": Counter()}
    ends = crystals.num_atoms.cumsum(0).tolist()
    numbers = crystals.atomic_numbers.numpy()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        counts = np.unique(numbers[start:end], return_counts=True)[1]
        units = int(np.gcd.reduce(counts))
        kind = "-".join(str(count) for count in sorted(counts // units))
        table.setdefault(kind, Counter())[str(units)] += 1
        table["any"][str(units)] += 1
    return {kind: dict(units) for kind, units in sorted(table.items()) if kind == "any" or sum(units.values()) >= 10}


TASKS: dict[str, Callable[[TrainConfig, str | Path, str, dict[str, Any]], Trainer]] = {
    "generate": _generation,
    "potential": build_potential_trainer,
    "stability": _stability,
}
"""Builders of trainers by the name of the task."""
