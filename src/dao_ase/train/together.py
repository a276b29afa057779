"""Several processes that train one model, as ``torchrun`` starts them: gradients are averaged, and all stop at one step."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """The number of this process among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join(model: nn.Module, device: torch.device) -> None:
    """Meets the other processes, and takes over the weights of the first."""
    if world_size() > 1:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)


def average_gradients(weights: Iterable[Tensor]) -> None:
    """Puts the mean of all processes in the place of each weight's gradient."""
    if world_size() > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = (flat / world_size()).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def any_wants(this: bool, device: torch.device) -> bool:
    """Whether one of the processes wants something, which all learn at the same time."""
    if world_size() == 1:
        return this
    wish = torch.tensor(float(this), device=device)
    dist.all_reduce(wish)
    return float(wish) > 0
