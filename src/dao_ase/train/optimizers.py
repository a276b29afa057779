"""Optimizers, learning rate schedule and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dao_ase.train.config import TrainConfig


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for what is left.

    Muon (momentum, orthogonalised by Newton–Schulz) moves a matrix by a step of AdamW's size at the same rate.
    """
    adam = {"lr": config.learning_rate, "betas": (0.9, 0.99), "weight_decay": config.weight_decay}
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(trained.values(), **adam)]
    matrices = {name for name, weight in trained.items() if weight.ndim == 2 and "blocks." in name}
    muon = torch.optim.Muon(
        [trained[name] for name in sorted(matrices)],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, torch.optim.AdamW([weight for name, weight in trained.items() if name not in matrices], **adam)]


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
