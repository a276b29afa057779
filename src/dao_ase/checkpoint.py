"""Weights and training states on disk: safetensors with a JSON header. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class CheckpointError(ValueError):
    """A weight file that is missing, damaged or made for something else."""


def save(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes tensors and a JSON-able header; the file appears under its name only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            str(temporary),
            metadata={"header": json.dumps(header)},
        )
        os.chmod(temporary, 0o644)  # safetensors makes files that only their owner may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that `save` wrote."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {str(path)!r}")
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            header = json.loads((file.metadata() or {})["header"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or was not written by dao-ase: {error}") from error


def read_header(path: str | Path) -> dict[str, Any]:
    """Only the header: what the model is, how it was trained, its validation figures."""
    return load(path)[1]


def default_weights(name: str) -> Path:
    """The weight file of this name that is installed with the package, for example ``dao_g``."""
    path = Path(str(resources.files("dao_ase") / "weights" / f"{name}.safetensors"))
    if not path.is_file():
        raise CheckpointError(f"this installation carries no weights named {name!r}; looked for {str(path)!r}")
    return path
