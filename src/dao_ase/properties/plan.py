"""What a property model is made from: fine-tunings with one plan give one model, and continue each other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dao_ase.checkpoint import read_header
from dao_ase.potential import Potential
from dao_ase.properties.ensemble import fingerprint
from dao_ase.properties.fit import FitSettings
from dao_ase.properties.installed import MODEL_FILE
from dao_ase.properties.table import PropertyTable, Target

NAMES = {
    "settings": "settings of the training",
    "trunk": "weights of DAO-P",
    "target": "target (column, logarithm or unit)",
}
"""What is said of parts of a plan whose own names tell too little."""


def plan_of(
    table: PropertyTable, trunk: Potential, target: Target, settings: FitSettings, folds: int, seed: int
) -> dict[str, Any]:
    """Everything that the numbers of a model depend on, as JSON gives it back."""
    plan = {
        "settings": asdict(settings),
        "target": asdict(target),
        "folds": folds,
        "seed": seed,
        "trunk": fingerprint(trunk.float()),
        "data": _digest(table),
    }
    return json.loads(json.dumps(plan))


def key_of(plan: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits that tell a plan from others."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]


def refuse_another(folder: str | Path, plan: dict[str, Any]) -> None:
    """Raises `ValueError` where a folder holds the model of another plan, or the finished folds of one without a model."""
    model = Path(folder) / MODEL_FILE
    for file in [model] if model.exists() else sorted(Path(folder).glob("folds/*.safetensors")):
        header = read_header(file)
        if header.get("key") != key_of(plan):
            found = header.get("plan", {})  # models that an earlier version made do not say
            other = ", ".join(NAMES.get(name, name) for name in plan if found and found.get(name) != plan[name])
            raise ValueError(
                f"{str(folder)!r} holds {'a model' if file == model else 'an interrupted run'} with other "
                f"{other or 'data or settings'}; give another folder, or delete it"
            )


def _digest(table: PropertyTable) -> str:
    digest = hashlib.sha256("\n".join(table.ids).encode())
    digest.update(table.values.tobytes())
    crystals = table.crystals
    for tensor in (crystals.frac_coords, crystals.lattice, crystals.atomic_numbers, crystals.num_atoms):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]
