"""``DAOPredictor``: a property of a crystal with its uncertainty, from pymatgen, ASE or files; fine-tuning to a new one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase.calculator import load_potential
from dao_ase.cells import whole_number
from dao_ase.composition import reduced_key
from dao_ase.convert import from_atoms, from_structures
from dao_ase.crystals import Crystals
from dao_ase.properties.calibration import Calibration
from dao_ase.properties.crossvalidation import fine_tune
from dao_ase.properties.ensemble import PropertyModel
from dao_ase.properties.fit import FitSettings
from dao_ase.properties.installed import find_model
from dao_ase.properties.table import PropertyTable, Target

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


@dataclass(frozen=True)
class PropertyPrediction:
    """A property of one crystal, in the unit of the model.

    ``low`` and ``high`` hold 68 % of the true values if the crystal is like those that were trained on, and ``uncertainty``
    is half the distance between them. ``folds`` is what each fold's model says.
    """

    value: float
    uncertainty: float
    low: float
    high: float
    folds: tuple[float, ...]


class DAOPredictor:
    """Predicts one property of ordered crystals.

    >>> from ase.build import bulk
    >>> tc = DAOPredictor("tc")                                         # critical temperature, K
    >>> prediction = tc.predict([bulk("Nb")])[0]
    >>> prediction.low < prediction.value < prediction.high
    True
    """

    def __init__(self, model: str | os.PathLike[str] | PropertyModel) -> None:
        """``model`` is an installed one's name (`installed_models`), a file, or a folder of ``dao-ase finetune``."""
        self.model = model if isinstance(model, PropertyModel) else PropertyModel.load(find_model(model))

    @classmethod
    def fit(
        cls,
        crystals: Iterable[Structure | Atoms | str | os.PathLike[str]],
        values: Iterable[float] | NDArray[np.float64],
        target: str = "value",
        *,
        unit: str = "",
        log: bool = False,
        extensive: bool = False,
        folds: int = 5,
        trunk: str = "frozen",
        seed: int = 0,
    ) -> DAOPredictor:
        """Fine-tunes DAO-P to one number for each crystal; `cross_validation` then says how well it does.

        ``log`` learns the natural logarithm, ``extensive`` the value per atom, ``trunk="full"`` trains all of DAO-P.
        Folds are made by formula.
        """
        if whole_number("folds", folds) < 2 or whole_number("seed", seed) < 0:
            raise ValueError(f"folds is {folds} and seed {seed}; give at least 2 folds, and a seed of zero or more")
        batch = as_batch(crystals)
        numbers = _as_numbers(values)
        if len(batch) != len(numbers):
            raise ValueError(f"{len(batch)} crystals but {len(numbers)} values; each crystal needs one")
        wrong = np.flatnonzero(~np.isfinite(numbers) | ((numbers <= 0) if log else False))
        if len(wrong):
            rule = "is no finite number" + (" above zero, as log=True needs" if log else "")
            raise ValueError(f"value {wrong[0]} is {numbers[wrong[0]]}, which {rule}; {len(wrong)} are like this")
        formulas = [reduced_key(crystal.atomic_numbers.tolist()) for crystal in batch]
        ids = [str(index) for index in range(len(batch))]
        table = PropertyTable(ids, batch, numbers, formulas, [""] * len(batch))
        learnt = Target(target, unit, log, extensive)
        settings = FitSettings(trunk=trunk)
        return cls(fine_tune(table, load_potential(), learnt, settings, folds=folds, seed=seed).model)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DAOPredictor:
        """The predictor in a file that `save` wrote."""
        return cls(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything that a prediction needs into one safetensors file."""
        self.model.save(Path(path))

    @property
    def target(self) -> Target:
        """The name and the unit of the property."""
        return self.model.target

    @property
    def cross_validation(self) -> dict[str, Any]:
        """Errors on crystals whose formula the models had not seen, beside those of a constant."""
        return dict(self.model.header.get("cross_validation", {}))

    def predict(self, crystals: Iterable[Structure | Atoms | str | os.PathLike[str]]) -> list[PropertyPrediction]:
        """The property of each crystal; one with partly occupied sites is an error that names it."""
        return self.predict_crystals(as_batch(crystals))

    def predict_crystals(self, crystals: Crystals) -> list[PropertyPrediction]:
        """As `predict`, for a batch."""
        if not len(crystals):
            return []
        answers = self.model.learnt(crystals)
        atoms, target = crystals.num_atoms.numpy(), self.target
        everything = answers.reshape(-1, len(crystals))
        middle, spread = everything.mean(0), everything.std(0)
        width = Calibration(**self.model.header["calibration"]).uncertainty(spread)
        value, low, high = (target.restored(middle + sign * width, atoms) for sign in (0, -1, 1))
        folds = target.restored(answers.mean(1), atoms)
        if len(strange := np.flatnonzero(~np.isfinite(value))):
            raise ValueError(
                f"crystal {strange[0]}: {target.name} is {value[strange[0]]}; do two of its atoms stand on one place?"
            )
        return [
            PropertyPrediction(
                float(value[i]), float(high[i] - low[i]) / 2, float(low[i]), float(high[i]), tuple(folds[:, i].tolist())
            )
            for i in range(len(crystals))
        ]


def _as_numbers(values: Iterable[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    numbers = np.asarray(values if hasattr(values, "__len__") else list(values), dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"values have the shape {numbers.shape}; each crystal needs one number")
    return numbers


def as_batch(crystals: Iterable[Structure | Atoms | str | os.PathLike[str]]) -> Crystals:
    """Structures, atoms or files (all crystals of each) as one batch, in float64."""
    if isinstance(crystals, str | os.PathLike) or hasattr(crystals, "lattice") or hasattr(crystals, "cell"):
        raise TypeError("give a list of crystals, [crystal] for a single one")
    if isinstance(crystals, Mapping) or hasattr(crystals, "columns"):  # of which one would see the names alone
        raise TypeError(
            f"give a list of crystals, not a {type(crystals).__name__}; of a table the column that holds them"
        )
    batches = [_as_batch(crystal, place) for place, crystal in enumerate(crystals)]
    return Crystals.concatenate(batches) if batches else from_atoms([])


def _as_batch(crystal: Any, place: int) -> Crystals:
    if isinstance(crystal, str | os.PathLike):
        return _read(Path(crystal))
    if hasattr(crystal, "is_ordered") and hasattr(crystal, "lattice"):
        if not crystal.is_ordered:
            raise ValueError(
                f"crystal {place} ({crystal.composition.reduced_formula}) has partly occupied sites, and DAO-P sees whole "
                "atoms only; order it first, for example with pymatgen's OrderDisorderedStructureTransformation"
            )
        return from_structures([crystal])
    if not (hasattr(crystal, "pbc") and hasattr(crystal, "cell")):
        raise TypeError(f"crystal {place} is {crystal!r}; give pymatgen structures, ASE atoms or names of files")
    return from_atoms([crystal])


def _read(path: Path) -> Crystals:
    from dao_ase.data.reading import read
    from dao_ase.data.records import Rejected
    from dao_ase.data.sources import open_source
    from dao_ase.properties.table import crystals_of

    rejected: list[Rejected] = []
    records = list(read(open_source(path), rejected.append))
    if rejected:
        raise ValueError(f"{path}, row {rejected[0].row}: {rejected[0].rule}: {rejected[0].reason}")
    return crystals_of(records).to(dtype=torch.float64)
