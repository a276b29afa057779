"""The property models that are installed with the package: every weight file whose header says that it is one."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from dao_ase import checkpoint
from dao_ase.properties.table import Target

PACKAGE, MODEL = "dao_ase", "property"
MODEL_FILE = "model.safetensors"
"""In the folder of a fine-tuning."""
LEFT_OUT = "left_out.jsonl"
"""There, too, and the first file that comes: what tells the folder of an interrupted fine-tuning from any other."""


def installed_models() -> dict[str, Target]:
    """The name of each installed property model, and what it predicts.

    >>> installed_models()["tc"].unit
    'K'
    """
    folder = Path(str(resources.files(PACKAGE) / "weights"))
    headers = {file.stem: checkpoint.read_header(file) for file in sorted(folder.glob("*.safetensors"))}
    return {name: Target(**header["target"]) for name, header in headers.items() if header.get("model") == MODEL}


def listing() -> list[tuple[str, str]]:
    """Name, and property with its unit, of each installed model, as a user reads them."""
    return [(name, f"{t.name} ({t.unit})" if t.unit else t.name) for name, t in installed_models().items()]


def find_model(name: str | os.PathLike[str]) -> Path:
    """The file of a model: a file, the folder that ``dao-ase finetune`` wrote, or an installed name."""
    path = Path(name)
    if path.is_dir():
        if (path / MODEL_FILE).is_file():
            return path / MODEL_FILE
        if (path / LEFT_OUT).is_file() or str(name) not in installed_models():
            raise checkpoint.CheckpointError(
                f"{str(path)!r} holds no {MODEL_FILE}: its fine-tuning did not finish; run it again"
            )
    if path.is_file():
        return path
    if str(name) in installed_models():
        return checkpoint.default_weights(str(name))
    known = ", ".join(f"{one} ({what})" for one, what in listing())
    raise checkpoint.CheckpointError(
        f"{str(name)!r} is no file, no folder and none of the installed models: {known or 'there are none'}"
    )
