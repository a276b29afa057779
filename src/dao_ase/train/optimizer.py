"""Optimizer, learning rate schedule and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dao_ase.train.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW over the weights that are trained; decay acts on matrices only."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in trained if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


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
