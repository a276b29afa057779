"""A device that cannot be used is refused with what there is, before anything is loaded."""

import pytest
import torch

from dao_ase.device import usable_device


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_device_that_is_there_is_taken(monkeypatch):
    with_gpus(monkeypatch, 2)
    for name in ("cpu", "cuda", "cuda:1"):
        assert usable_device(name) == usable_device(torch.device(name)) == name
    assert usable_device() == "cuda"
    with_gpus(monkeypatch, 0)
    assert usable_device() == "cpu"


@pytest.mark.parametrize(
    ("gpus", "name", "reason"),
    [
        (0, "cuda:7", "device 'cuda:7' cannot be used: torch sees no GPU here"),
        (1, "cuda:7", "device 'cuda:7' cannot be used: torch sees only 'cuda:0' here"),
        (4, "cuda:7", "device 'cuda:7' cannot be used: torch sees 'cuda:0' to 'cuda:3' here"),
        (1, "mps", "device 'mps' is none that dao-ase computes on"),
        (1, "gpu", "device 'gpu' is none that torch knows"),
    ],
)
def test_another_is_refused_with_what_there_is(monkeypatch, gpus, name, reason):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ValueError, match=reason):
        usable_device(name)
