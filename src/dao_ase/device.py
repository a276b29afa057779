"""Where the models compute: the processor, or one of the GPUs that torch sees."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def usable_device(name: str | torch.device | None = None) -> str:
    """The name of this device if DAO can compute there; without a name CUDA where there is any, else the processor.

    >>> usable_device("cpu")
    'cpu'
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device {name!r} is none that torch knows; give 'cpu' or 'cuda'") from error
    name = str(name)
    if device.type not in ("cpu", "cuda"):  # mps, for one, has no float64, in which positions are
        raise ValueError(f"device {name!r} is none that dao-ase computes on; give 'cpu' or 'cuda'")
    if device.type == "cuda":
        _refuse_missing_gpu(name, device.index or 0)
    return name


def own_precision(device: torch.device | str) -> AbstractContextManager:
    """A block that computes in the type of its tensors, also where a caller has torch.autocast on."""
    return torch.autocast(torch.device(device).type, enabled=False)


def _refuse_missing_gpu(name: str, index: int) -> None:
    if not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r} cannot be used: torch sees no GPU here (dao-ase doctor says more); give 'cpu'"
        )
    count = torch.cuda.device_count()
    if index >= count:
        known = "only 'cuda:0'" if count == 1 else f"'cuda:0' to 'cuda:{count - 1}'"
        raise ValueError(f"device {name!r} cannot be used: torch sees {known} here; give one of these, or 'cpu'")
