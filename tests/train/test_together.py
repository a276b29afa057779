"""Processes that train together: the same weights, the mean of the gradients, and one decision to stop."""

import os
import socket

import torch
import torch.multiprocessing as mp
from torch import nn

from dao_ase.train import together


def meet(rank: int, port: int, folder: str) -> None:
    """One of two processes: begins with other weights, has another gradient and another wish than the other."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    model.register_buffer("trained", torch.tensor([rank == 0]))
    together.join(model, torch.device("cpu"))
    for number, weight in enumerate(model.parameters()):
        weight.grad = torch.full_like(weight, float(number + rank))
    together.average_gradients(model.parameters())
    found = {
        "weights": model.state_dict(),
        "gradients": [weight.grad for weight in model.parameters()],
        "stop": [together.any_wants(wish, torch.device("cpu")) for wish in (rank == 1, False)],
    }
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(meet, (port, str(tmp_path)), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert bool(second["weights"]["trained"])
    for found in (first, second):
        assert [float(gradient.unique()) for gradient in found["gradients"]] == [0.5, 1.5, 2.5]
        assert found["stop"] == [True, False]


def test_a_lone_process_decides_alone():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    together.average_gradients([weight])
    assert together.world_size() == 1 and weight.grad.tolist() == [1.0, 1.0]
    assert together.any_wants(True, torch.device("cpu")) and not together.any_wants(False, torch.device("cpu"))
