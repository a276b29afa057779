"""What a training run is, as a dataclass and as a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,), "bool": (bool,), "int": (int,), "float": (int, float), "dict[str, Any]": (dict,),
}  # fmt: skip
"""What a TOML file may give for a field of each type."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Everything that decides the result is here; where it runs and for how long is not."""

    task: str = "generate"  # what is trained; see dao_ase.train.tasks
    data: str = ""  # folder of the training crystals
    val_data: str = ""  # folder of the validation crystals
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "small"})  # preset and changes to it
    objective: dict[str, Any] = field(default_factory=dict)  # settings of the objective
    batches: dict[str, Any] = field(default_factory=dict)  # settings of the batches
    initial: str = ""  # weights to start from; empty: random
    optimizer: str = "adamw"  # or "muon", which orthogonalises the steps of matrices
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"  # after the warm-up: "cosine" or "linear" to zero, or "constant"
    warmup_steps: int = 300
    total_steps: int = 20_000  # where the schedule ends, and the run
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    autocast: bool = True  # matrix products in bfloat16
    compile: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "linear", "constant"):
            raise ValueError(f"schedule {self.schedule!r} is none of 'cosine', 'linear', 'constant'")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer {self.optimizer!r} is none of 'adamw', 'muon'")
        if self.total_steps < 1:
            raise ValueError(f"total_steps is {self.total_steps}; it must be at least 1")
        if not self.gradient_clip > 0:  # below zero steps would go up
            raise ValueError(f"gradient_clip is {self.gradient_clip}; it must be above 0 (inf: no limit)")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must lie from 0 to below 1")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0")

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Reads a TOML file whose keys are the fields above."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no training configuration {str(path)!r}")
        try:
            values = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{str(path)!r} is not valid TOML: {error}") from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The configuration with these fields; a field that does not exist, or has another type, is an error."""
        known = {entry.name: str(entry.type) for entry in fields(cls)}
        unknown = sorted(values.keys() - known.keys())
        if unknown:
            raise ValueError(f"unknown training settings {unknown}; known are {sorted(known)}")
        for name, value in values.items():
            kind = known[name]
            if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
                raise TypeError(
                    f"the training setting {name} is {value!r}; it must be of the type {kind.partition('[')[0]}"
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, as written into the header of checkpoints."""
        return asdict(self)
