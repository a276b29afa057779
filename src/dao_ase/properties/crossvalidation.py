"""A property model from a table of crystals: folds by formula, each trained and reported on, resumable fold by fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase import checkpoint
from dao_ase.data.splits import formula_folds
from dao_ase.potential import Potential
from dao_ase.properties.calibration import Calibration, calibrate
from dao_ase.properties.descriptors import element_table
from dao_ase.properties.ensemble import PropertyModel, rounded
from dao_ase.properties.fit import FitSettings, Fold, TrainingSet, fit_fold, rounded_features
from dao_ase.properties.graphs import Graphs
from dao_ase.properties.model import HeadEnsemble, constants_of, features_of
from dao_ase.properties.plan import key_of, plan_of
from dao_ase.properties.table import PropertyTable, Target, refuse_other_scales, refuse_unlearnable

STOP_PARTS = 10
"""One in so many of the training formulas of a fold decides when to stop."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class CrossValidation:
    """A model of all folds, and what each crystal's own fold, which had not seen its formula, said of it."""

    model: PropertyModel
    table: PropertyTable
    fold: NDArray[np.int64]
    learnt: NDArray[np.float64]
    predicted: NDArray[np.float64]
    spread: NDArray[np.float64]
    calibration: Calibration

    @property
    def uncertainty(self) -> NDArray[np.float64]:
        """Of each out-of-fold prediction, on the scale that is learnt."""
        return self.calibration.uncertainty(self.spread)


def folds_of(formulas: list, folds: int, seed: int) -> list[Fold]:
    """For each fold what is trained on, stopped by and reported on; no formula stands in two of the three."""
    place = formula_folds(formulas, folds, seed)
    return [
        divide(formulas, np.flatnonzero(place != fold), np.flatnonzero(place == fold), seed + fold + 1)
        for fold in range(folds)
    ]


def divide(formulas: list, rest: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> Fold:
    """Parts ``rest`` into what is trained on and what is stopped by."""
    inner = [formulas[index] for index in rest]
    stop = formula_folds(inner, min(STOP_PARTS, len(set(inner))), seed) == 0
    return Fold(rest[~stop], rest[stop], test)


def training_set(
    table: PropertyTable, trunk: Potential, target: Target, tick: Callable[[int], object] = lambda done: None
) -> TrainingSet:
    """Neighbours, features and learnt values of a table; ``tick`` hears of each crystal twice: neighbours, features."""
    trunk.refuse_untrained(table.crystals.atomic_numbers.tolist())
    graphs = Graphs.find(table.crystals, trunk, tick)
    constants = constants_of(graphs, element_table())
    values = target.learnt(table.values, table.crystals.num_atoms.numpy())
    refuse_other_scales(target, values)
    features = features_of(trunk, graphs, constants, tick)
    if len(strange := np.flatnonzero(~features.isfinite().all(1).numpy())):
        raise ValueError(
            f"crystal {table.ids[strange[0]]} cannot be learnt: two of its atoms stand nearly on one place, or its cell is "
            "far too small; mend it or leave it out"
        )
    number = {formula: place for place, formula in enumerate(dict.fromkeys(table.formulas))}
    groups = np.array([number[formula] for formula in table.formulas], dtype=np.int64)
    return TrainingSet(graphs, constants, features, torch.from_numpy(values).float(), groups)


def fine_tune(
    table: PropertyTable,
    trunk: Potential,
    target: Target,
    settings: FitSettings,
    *,
    folds: int = 5,
    seed: int = 0,
    folder: str | Path | None = None,
    header: dict[str, Any] | None = None,
    say: Progress = lambda text: None,
    tick: Callable[[int], object] = lambda done: None,
) -> CrossValidation:
    """Trains one model for each fold; finished folds in ``folder`` are not trained again, those of another plan replaced."""
    refuse_unlearnable(table, folds, seed)
    trunk = trunk.float()
    data = training_set(table, trunk, target, tick)
    plan = plan_of(table, trunk, target, settings, folds, seed)
    heads, trunks, notes = [], [], []
    learnt = target.learnt(table.values, table.crystals.num_atoms.numpy())
    predicted, spread = np.zeros(len(table)), np.zeros(len(table))
    place = np.zeros(len(table), dtype=np.int64)
    for number, fold in enumerate(folds_of(table.formulas, folds, seed)):
        file = Path(folder) / "folds" / f"fold{number}.safetensors" if folder is not None else None
        done = _stored(file, plan, data, trunk, settings)
        if done is None:
            say_here = partial(_say_fold, say, f"fold {number + 1} of {folds}")
            head, own, note = fit_fold(data, trunk, fold, settings, seed * 1000 + number, say_here)
            head.load_state_dict(rounded(head))
            _store(file, plan, head, own, note)
        else:
            head, own, note = done
            say(f"fold {number + 1} of {folds} was finished before")
        answers = _answers(head, own, data, fold.test)
        predicted[fold.test], spread[fold.test], place[fold.test] = answers.mean(0), answers.std(0), number
        heads.append(head)
        trunks.append(own if own is not None else trunk)
        notes.append(note | {"crystals": len(fold.test)})
    calibration = calibrate(predicted - learnt, spread)
    about = {
        **(header or {}),
        "key": key_of(plan),
        "plan": plan,
        "trunk_fingerprint": plan["trunk"],
        "training": {"settings": plan["settings"], "seed": seed, "folds": notes},
        "calibration": asdict(calibration),
        "data": {"rows": len(table), "formulas": len(set(table.formulas)), "left out": table.counts},
    }
    kept = trunks[:1] if settings.trunk == "frozen" else trunks
    model = PropertyModel(target, element_table(), kept, heads, about)
    result = CrossValidation(model, table, place, learnt, predicted, spread, calibration)
    about["cross_validation"] = figures(result)
    return result


def figures(result: CrossValidation) -> dict[str, Any]:
    """Errors of the out-of-fold predictions, beside those of the constant that is best; in the unit of the property."""
    atoms, target = result.table.crystals.num_atoms.numpy(), result.model.target
    values = result.table.values
    errors = target.restored(result.predicted, atoms) - values
    constant = values - target.restored(np.full(len(values), np.median(result.learnt)), atoms)
    found: dict[str, Any] = {
        "MAE": float(np.abs(errors).mean()),
        "RMSE": float(np.sqrt((errors**2).mean())),
        "R2": float(1 - (errors**2).sum() / max(((values - values.mean()) ** 2).sum(), 1e-300)),
        "MAE of a constant": float(np.abs(constant).mean()),
        "MAE of each fold": [
            float(np.abs(errors[result.fold == fold]).mean()) for fold in range(len(result.model.heads))
        ],
    }
    if target.log:
        found["MAE of the natural logarithm"] = float(np.abs(result.predicted - result.learnt).mean())
        found["MAE of a constant, natural logarithm"] = float(np.abs(result.learnt - np.median(result.learnt)).mean())
    return found


def _say_fold(say: Progress, fold: str, text: str) -> None:
    say(f"{fold}, {text}")


def _answers(
    head: HeadEnsemble, own: Potential | None, data: TrainingSet, chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    with torch.no_grad():
        features = data.features[chosen]
        if own is not None:
            features = features_of(own, data.graphs.select(chosen), data.constants[chosen])
        return head.eval().values(features).double().numpy()


def _store(
    file: Path | None, plan: dict[str, Any], head: HeadEnsemble, own: Potential | None, note: dict[str, Any]
) -> None:
    if file is not None:
        tensors = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        tensors |= {f"trunk.{name}": tensor for name, tensor in own.state_dict().items()} if own is not None else {}
        checkpoint.save(file, tensors, {"key": key_of(plan), "plan": plan, "note": note})


def _stored(
    file: Path | None, plan: dict[str, Any], data: TrainingSet, trunk: Potential, settings: FitSettings
) -> tuple[HeadEnsemble, Potential | None, dict[str, Any]] | None:
    """A fold that was finished with the same data, settings and trunk."""
    if file is None or not file.is_file():
        return None
    tensors, header = checkpoint.load(file)
    if header.get("key") != key_of(plan):
        return None
    reference = rounded_features(data.features)
    head = HeadEnsemble.restored(tensors, "head.", settings.head, reference, data.constants.shape[1])
    own = None
    if settings.trunk == "full":
        own = Potential(trunk.config)
        own.load_state_dict(
            {name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")}
        )
        own = own.eval().requires_grad_(False)
    return head, own, header["note"]
