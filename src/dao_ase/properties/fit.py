"""Training of one fold: the heads on a frozen trunk, and the trunk with them if asked for. Both stop early.

A part of the fold's training crystals, by formula, decides when to stop; the crystals that the fold reports on are not
looked at. Each member of the ensemble keeps the weights that were best for itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dao_ase.potential import Potential
from dao_ase.properties.graphs import Graphs
from dao_ase.properties.kernel import MOST
from dao_ase.properties.model import HeadConfig, HeadEnsemble, features_of, features_of_batch


@dataclass(frozen=True)
class FitSettings:
    """How a fold is trained."""

    trunk: str = "frozen"  # or "full": the trunk is trained too, after the heads
    epochs: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    crystals: int = 64  # in a batch, fewer where there are less than a thousand
    patience: int = 25  # epochs without a better member before the heads stop
    trunk_epochs: int = 30
    trunk_learning_rate: float = 3e-4
    trunk_slots: int = 12_000  # neighbours in a batch
    trunk_patience: int = 6
    kernel_up_to: int = MOST  # crystals to train on; with more, or at 0, the networks read alone
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        if self.trunk not in ("frozen", "full"):
            raise ValueError(f"trunk {self.trunk!r} is neither 'frozen' nor 'full'")


@dataclass(frozen=True)
class TrainingSet:
    """Crystals with features (of the trunk as it came) and values; everything that the folds share."""

    graphs: Graphs
    constants: Tensor
    features: Tensor
    values: Tensor
    groups: NDArray[np.int64]  # the formula of each, numbered

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Fold:
    """Indices of the crystals to train on, to stop by, and to report on."""

    train: NDArray[np.int64]
    stop: NDArray[np.int64]
    test: NDArray[np.int64]


Progress = Callable[[str], None]


def fit_fold(
    data: TrainingSet, trunk: Potential, fold: Fold, settings: FitSettings, seed: int, say: Progress = lambda text: None
) -> tuple[HeadEnsemble, Potential | None, dict[str, Any]]:
    """Heads, the trunk if it was trained, and how it went."""
    torch.manual_seed(seed)
    head = HeadEnsemble(data.features.shape[1], settings.head)
    head.fit_scales(data.features[fold.train], data.values[fold.train])
    notes: dict[str, Any] = {"epochs of the heads": fit_heads(head, data, fold, settings, seed, say)}
    notes["error to stop by, frozen trunk"] = stopping_error(head, data.features[fold.stop], data.values[fold.stop])
    if settings.trunk == "frozen":
        both = np.concatenate([fold.train, fold.stop])
        if len(both) <= settings.kernel_up_to:
            reference = rounded_features(data.features)
            kernel = head.add_kernel(reference, data.constants.shape[1])
            kernel.fit(head.standardise(reference), data.values, data.groups, both, seed)
            notes["kernel: length, mixture, median"] = kernel.settings.tolist()
        return head.eval(), None, notes
    trained = copy.deepcopy(trunk).float().train().requires_grad_(True)
    notes["epochs of the trunk"] = fit_trunk(trained, head, data, fold, settings, seed, say)
    trained = trained.eval().requires_grad_(False)
    return head.eval(), trained, notes


def fit_heads(
    head: HeadEnsemble, data: TrainingSet, fold: Fold, settings: FitSettings, seed: int, say: Progress
) -> int:
    """Trains all members at once, each with its own order of crystals; the epochs that it took."""
    inputs = head.standardise(data.features)
    targets = (data.values - head.center) / head.scale
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    train, best = torch.from_numpy(fold.train), _Best(head)
    size = min(settings.crystals, max(8, len(train) // 16))
    steps = math.ceil(len(train) / size)
    for epoch in range(settings.epochs):
        orders = torch.stack([torch.randperm(len(train), generator=rng) for _ in range(settings.head.members)])
        head.train()
        for step in range(steps):
            _set_rate(optimizer, settings.learning_rate, epoch + step / steps, settings.epochs)
            chosen = train[orders[:, step * size : (step + 1) * size]]
            loss = (head(inputs[chosen]) - targets[chosen]).abs().mean(1).sum()  # each member on its own
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        best.keep(_errors(head, inputs[fold.stop], targets[fold.stop]), epoch)
        say(f"heads, epoch {epoch + 1}: error {float(best.errors.mean() * head.scale):.4g}")
        if epoch - best.latest >= settings.patience:
            break
    best.restore()
    return epoch + 1


def fit_trunk(
    trunk: Potential,
    head: HeadEnsemble,
    data: TrainingSet,
    fold: Fold,
    settings: FitSettings,
    seed: int,
    say: Progress,
) -> int:
    """Trains trunk and heads together, from the heads that the frozen trunk gave; the epochs that it took.

    The weights that are kept are those with the least error of the mean of the members; with no better ones, the first.
    """
    targets = (data.values - head.center) / head.scale
    groups = [
        {"params": list(trunk.parameters()), "peak": settings.trunk_learning_rate},
        {"params": list(head.parameters()), "peak": 0.3 * settings.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=settings.weight_decay, fused=True)
    rng = np.random.default_rng([seed, 1])
    kept = copy.deepcopy((trunk.state_dict(), head.state_dict()))
    least, since = stopping_error(head, data.features[fold.stop], data.values[fold.stop]), 0
    for epoch in range(settings.trunk_epochs):
        parts = _shuffled_parts(data.graphs, fold.train, settings.trunk_slots, rng)
        head.train()
        trunk.train()
        for step, part in enumerate(parts):
            place = epoch + step / len(parts)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * _rate(place, settings.trunk_epochs, warm_up=1.0)
            features = features_of_batch(trunk, data.graphs.batch(part), data.constants[part])
            loss = (head(head.standardise(features)) - targets[part]).abs().mean(1).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([*trunk.parameters(), *head.parameters()], 5.0)
            optimizer.step()
        error = stopping_error(head, trunk_features(trunk, data, fold.stop), data.values[fold.stop])
        say(f"trunk, epoch {epoch + 1}: error {error:.4g}")
        since += 1
        if error < least:
            kept, least, since = copy.deepcopy((trunk.state_dict(), head.state_dict())), error, 0
        if since >= settings.trunk_patience:
            break
    trunk.load_state_dict(kept[0])
    head.load_state_dict(kept[1])
    return epoch + 1


def rounded_features(features: Tensor) -> Tensor:
    """Features in the precision in which a model file keeps them."""
    return features.half().float()


def trunk_features(trunk: Potential, data: TrainingSet, chosen: NDArray[np.int64]) -> Tensor:
    """Features of some crystals with a trunk that was trained."""
    trunk.eval()
    with torch.no_grad():
        return features_of(trunk, data.graphs.select(chosen), data.constants[chosen])


@torch.no_grad()
def stopping_error(head: HeadEnsemble, features: Tensor, values: Tensor) -> float:
    """The mean absolute error of the mean of the members, in the units of the values."""
    head.eval()
    return float((head.values(features).mean(0) - values).abs().mean())


class _Best:
    """The best weights that each member had so far."""

    def __init__(self, head: HeadEnsemble) -> None:
        self.head = head
        self.errors = torch.full((head.config.members,), float("inf"))
        self.weights = [parameter.detach().clone() for parameter in head.parameters()]
        self.latest = 0

    def keep(self, errors: Tensor, epoch: int) -> None:
        better = errors < self.errors
        if bool(better.any()):
            self.latest = epoch
            self.errors = torch.where(better, errors, self.errors)
            for kept, parameter in zip(self.weights, self.head.parameters(), strict=True):
                kept[better] = parameter.detach()[better]

    @torch.no_grad()
    def restore(self) -> None:
        for kept, parameter in zip(self.weights, self.head.parameters(), strict=True):
            parameter.copy_(kept)


@torch.no_grad()
def _errors(head: HeadEnsemble, inputs: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute error of each member, standardised."""
    head.eval()
    return (head(inputs) - targets).abs().mean(1)


def _set_rate(optimizer: torch.optim.Optimizer, peak: float, epoch: float, epochs: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = peak * _rate(epoch, epochs, warm_up=1.0)


def _rate(epoch: float, epochs: int, warm_up: float) -> float:
    """The share of the peak rate: up within the first epochs, then a cosine to zero."""
    return min(1.0, (epoch + 0.05) / warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))


def _shuffled_parts(
    graphs: Graphs, chosen: NDArray[np.int64], slots: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of crystals of similar cost, in a new order each time."""
    blurred = graphs.degree[chosen] * (1 + 0.3 * rng.random(len(chosen)))
    parts = graphs.parts(chosen[np.argsort(blurred, kind="stable")], slots)
    return [parts[place] for place in rng.permutation(len(parts))]
