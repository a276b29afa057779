"""Optimizers, learning rate schedule and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dao_ase.train.config import TrainConfig

NARROW = 8
"""A matrix with so few rows or columns mixes too little to be worth orthogonalising."""


class Optimizers:
    """Several optimizers, each over its own weights, that step together and are saved as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """What they remember, by part, weight and kind."""
        return {
            f"{number}.{index}.{key}": value
            for number, part in enumerate(self.parts)
            for index, state in part.state_dict()["state"].items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Remembers what `tensors` gave."""
        for number, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                owner, index, key = name.split(".", 2)
                if int(owner) == number:
                    state.setdefault(int(index), {})[key] = tensor
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizers:
    """AdamW over the weights that are trained, or Muon over the matrices of linear maps and AdamW over the others.

    Decay acts on matrices only. Muon steps along the nearest orthogonal matrix to the mean gradient, scaled to the size of
    AdamW's steps, so that both share a rate.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    mixing = [w for w in trained if config.optimizer == "muon" and id(w) in linear and min(w.shape) > NARROW]
    chosen = {id(weight) for weight in mixing}
    others = [weight for weight in trained if id(weight) not in chosen]
    groups = [
        {"params": [weight for weight in others if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in others if weight.ndim < 2], "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    ]
    if mixing:
        decay, rate = config.weight_decay, config.learning_rate
        parts.append(torch.optim.Muon(mixing, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return Optimizers(parts)


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """The share of the peak learning rate at a step."""
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    progress = min(1.0, step / config.total_steps)
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "linear":
        return warmup * (1 - progress)
    return warmup


class MovingAverage:
    """An exponential moving average of a model's weights and buffers: the weights that are kept."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the model; the first steps count more, so that it forgets the start."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        floating = [name for name in self.tensors if self.tensors[name].is_floating_point()]
        torch._foreach_lerp_(_pick(self.tensors, floating), _pick(state, floating), weight)


def _pick(tensors: dict[str, Tensor], names: Iterable[str]) -> list[Tensor]:
    return [tensors[name] for name in names]
