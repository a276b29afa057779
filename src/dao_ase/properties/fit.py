"""Training of one fold: the readers on a frozen trunk, and the trunk with networks if asked for.

On a frozen trunk the fold's training crystals are parted by formula. Each network and each forest goes without one part, by
which networks stop; all parts together are trained on, and what every reader says of what it had not seen decides how much
it counts (blend.py). A trunk that is trained stops by one part, parted off for that. The crystals that the fold reports on
are never looked at.
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

from dao_ase.data.splits import formula_folds
from dao_ase.potential import Potential
from dao_ase.properties.blend import blend_weights
from dao_ase.properties.graphs import Graphs
from dao_ase.properties.kernel import MOST
from dao_ase.properties.model import HeadConfig, HeadEnsemble, features_of, features_of_batch

PARTS = 4
"""Parts of the training crystals, each left out by some networks and one forest."""


@dataclass(frozen=True)
class FitSettings:
    """How a fold is trained."""

    trunk: str = "frozen"  # or "full": the trunk is trained too, after the heads
    epochs: int = 40
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    crystals: int = 64  # in a batch, fewer where there are less than a thousand
    patience: int = 15  # epochs without a better member before the heads stop
    trunk_epochs: int = 30
    trunk_learning_rate: float = 3e-4
    trunk_slots: int = 12_000  # neighbours in a batch
    trunk_patience: int = 6
    kernel_up_to: int = MOST  # crystals to train on; with more, or at 0, there is no kernel reader
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        if self.trunk not in ("frozen", "full"):
            raise ValueError(f"trunk {self.trunk!r} is neither 'frozen' nor 'full'")
        if self.head.members < 2:
            raise ValueError(
                f"{self.head.members} network: two are needed, each without crystals of its own to stop by"
            )


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
    """Readers, the trunk if it was trained, and how it went."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers go on as they would have
        torch.manual_seed(seed)
        both = np.concatenate([fold.train, fold.stop])
        head = HeadEnsemble(data.features.shape[1], settings.head)
        if settings.trunk == "frozen":
            return head, None, fit_readers(head, data, both, settings, seed, say)
        head.fit_scales(data.features[fold.train], data.values[fold.train])
        held = np.tile(np.isin(both, fold.stop), (settings.head.members, 1))
        notes: dict[str, Any] = {"epochs of the heads": fit_heads(head, data, both, held, settings, seed, say)[0]}
        notes["error to stop by, frozen trunk"] = stopping_error(head, data.features[fold.stop], data.values[fold.stop])
        trained = copy.deepcopy(trunk).float().train().requires_grad_(True)
        notes["epochs of the trunk"] = fit_trunk(trained, head, data, fold, settings, seed, say)
        trained = trained.eval().requires_grad_(False)
        return head.eval(), trained, notes


def fit_readers(
    head: HeadEnsemble, data: TrainingSet, both: NDArray[np.int64], settings: FitSettings, seed: int, say: Progress
) -> dict[str, Any]:
    """Fits networks, kernel reader and trees to crystals with a frozen trunk, and how much each counts; how it went."""
    head.fit_scales(data.features[both], data.values[both])
    groups, constants, members = data.groups[both], data.constants.shape[1], settings.head.members
    parts = formula_folds([((int(one), 1),) for one in groups], min(PARTS, members, len(set(groups))), seed)
    forests = int(parts.max()) + 1
    held = parts == np.arange(members)[:, None] % forests
    epochs, said = fit_heads(head, data, both, held, settings, seed, say)
    readers = {"networks": (np.where(held, said, 0).sum(0) / held.sum(0))}
    reference = rounded_features(data.features)
    standard = head.standardise(reference)
    if len(both) <= settings.kernel_up_to:
        say("kernel reader")
        reader = head.add_kernel(reference, constants)
        readers["kernel"] = reader.fit(standard, data.values, data.groups, both, parts, seed)
    say("trees")
    readers["trees"] = head.add_trees(forests).fit(
        head.standardise(data.features[both]), data.values[both], parts, constants, seed
    )
    values = data.values[both].double().numpy()
    weights = dict(zip(readers, blend_weights(np.stack(list(readers.values())), values).tolist(), strict=True))
    head.blend.copy_(torch.tensor([weights.get(name, 0.0) for name in ("networks", "kernel", "trees")]))
    head.eval()
    errors = {name: float(np.abs(one - values).mean()) for name, one in readers.items()}
    return {"epochs of the heads": epochs, "weights of the readers": weights, "their errors left out": errors}


def fit_heads(
    head: HeadEnsemble,
    data: TrainingSet,
    chosen: NDArray[np.int64],
    held: NDArray[np.bool_],
    settings: FitSettings,
    seed: int,
    say: Progress,
) -> tuple[int, NDArray[np.float64]]:
    """Trains all members at once; the epochs that it took, and what each member says of what it held back.

    Each trains, in an order of its own, on those of the chosen crystals that are not ``held`` ([members, chosen]).
    """
    inputs = head.standardise(data.features[chosen])
    targets = (data.values[chosen] - head.center) / head.scale
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    train = [torch.from_numpy(np.flatnonzero(~mine)) for mine in held]
    least = min(len(mine) for mine in train)
    best = _Best(head, held, data.groups[chosen], seed)
    size = min(settings.crystals, max(8, least // 16))
    steps = math.ceil(least / size)
    for epoch in range(settings.epochs):
        orders = torch.stack([mine[torch.randperm(len(mine), generator=rng)[:least]] for mine in train])
        head.train()
        for step in range(steps):
            _set_rate(optimizer, settings.learning_rate, epoch + step / steps, settings.epochs)
            batch = orders[:, step * size : (step + 1) * size]
            loss = (head(inputs[batch]) - targets[batch]).abs().mean(1).sum()  # each member on its own
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        head.eval()
        with torch.no_grad():
            best.keep(head(inputs), targets, epoch)
        say(f"heads, epoch {epoch + 1}: error {float(best.errors.mean() * head.scale):.4g}")
        if epoch - best.latest >= settings.patience:
            break
    best.restore()
    return epoch + 1, (head.center + head.scale * best.answers).double().numpy()


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
    """The best weights that each member had so far, by what it held back.

    What a member says of it is not kept from then, or it would look better than it is, but from the epoch that was best for
    the other half of it.
    """

    def __init__(self, head: HeadEnsemble, held: NDArray[np.bool_], groups: NDArray[np.int64], seed: int) -> None:
        self.head, self.held = head, torch.from_numpy(held)
        half = torch.from_numpy(np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % 2 == 0)
        self.halves = [self.held & half, self.held & ~half]
        self.errors = torch.full((len(held),), float("inf"))
        self.errors_of_halves = torch.full((2, len(held)), float("inf"))
        self.answers = torch.zeros(held.shape)
        self.weights = [parameter.detach().clone() for parameter in head.parameters()]
        self.latest = 0

    def keep(self, answers: Tensor, targets: Tensor, epoch: int) -> None:
        errors = (answers - targets).abs()
        of_all = _mean_where(self.held, errors, errors.mean(1))
        better = of_all < self.errors
        if bool(better.any()):
            self.latest = epoch
            self.errors = torch.where(better, of_all, self.errors)
            for kept, parameter in zip(self.weights, self.head.parameters(), strict=True):
                kept[better] = parameter.detach()[better]
        for side, half in enumerate(self.halves):
            of_half = _mean_where(half, errors, of_all)
            mine = (of_half < self.errors_of_halves[side])[:, None] & self.halves[1 - side]
            self.answers = torch.where(mine, answers, self.answers)
            self.errors_of_halves[side] = torch.minimum(of_half, self.errors_of_halves[side])

    @torch.no_grad()
    def restore(self) -> None:
        for kept, parameter in zip(self.weights, self.head.parameters(), strict=True):
            parameter.copy_(kept)


def _mean_where(chosen: Tensor, values: Tensor, otherwise: Tensor) -> Tensor:
    """The mean of the chosen of each row, or another value where there are none."""
    count = chosen.sum(1)
    return torch.where(count > 0, (values * chosen).sum(1) / count.clamp(min=1), otherwise)


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
