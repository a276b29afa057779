"""Weights and training states on disk: safetensors with a JSON header and a checksum. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8
from torch.nn import Module

from dao_ase.whole_files import replacing


class CheckpointError(ValueError):
    """A weight file that is missing, damaged or made for something else."""


def save(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes tensors and a JSON-able header; the file appears under its name only when it is complete."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(kept, str(temporary), metadata={"header": json.dumps(header), "checksum": checksum(kept)})
        except SafetensorError as error:  # as where the disk is full
            raise OSError(f"{str(path)!r} cannot be written: {error}") from error
        os.chmod(temporary, 0o644)  # safetensors makes files that only their owner may read


def load(path: str | Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that `save` wrote."""
    with _opened(path, device) as (file, header):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        expected = file.metadata().get("checksum")
    if expected is not None and checksum(tensors) != expected:
        raise CheckpointError(f"{str(path)!r} is damaged: its tensors are not those that were written")
    return tensors, header


def fill(model: Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Puts the tensors of a file into a model; those of another model are refused."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        wrong = _misfit(model.state_dict(), tensors)
        raise CheckpointError(
            f"{str(path)!r} holds weights of another model than the one described; tensors: {wrong}"
        ) from error


def _misfit(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Which tensors are missing, too many or of another shape: the first of each kind, and how many there are."""
    shapes = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    kinds = {
        "missing": [name for name in wanted if name not in found],
        "not known": [name for name in found if name not in wanted],
        "of another shape": [f"{name} {[*found[name].shape]} for {[*wanted[name].shape]}" for name in shapes],
    }
    return "; ".join(f"{len(names)} {kind}, like {names[0]}" for kind, names in kinds.items() if names)


@contextmanager
def described_by(path: str | Path) -> Iterator[None]:
    """In this block a model is built as the header of a weight file says; an error names the file.

    It is built on the processor and from random numbers of its own: a caller's default device and seed stay as they are.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it says nothing of {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{str(path)!r} has a header that describes no model: {reason}; was it written by another version of dao-ase?"
        ) from error


def checksum(tensors: dict[str, Tensor]) -> str:
    """A digest of the names and bytes of tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().flatten().view(uint8).numpy().tobytes())
    return digest.hexdigest()


def read_header(path: str | Path) -> dict[str, Any]:
    """Only the header: what the model is, how it was trained, its validation figures."""
    with _opened(path) as (_, header):
        return header


@contextmanager
def _opened(path: str | Path, device: str = "cpu") -> Iterator[tuple[Any, dict[str, Any]]]:
    """A weight file that is open, and its header; damage is named wherever it shows."""
    if not Path(path).is_file():
        raise CheckpointError(f"there is no weight file {str(path)!r}")
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            yield file, json.loads((file.metadata() or {})["header"])
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged or was not written by dao-ase: {error}") from error


def default_weights(name: str) -> Path:
    """The weight file of this name that is installed with the package, for example ``dao_g``."""
    path = Path(str(resources.files("dao_ase") / "weights" / f"{name}.safetensors"))
    if not path.is_file():
        raise CheckpointError(f"this installation carries no weights named {name!r}; looked for {str(path)!r}")
    return path
