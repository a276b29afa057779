"""Property sets: DAO-P fine-tuned, beside two peers on the same folds, and beside the same network with a random trunk.

    python benchmarks/bench_properties.py                       # every set; what is done is not done again
    python benchmarks/bench_properties.py dielectric tc --full  # only these, and the trunk trained too

Peers: gradient-boosted trees (scikit-learn) on statistics of the composition ("Magpie"), and on CHGNet's crystal features.
Sets with an official split are trained on its training part, stopped by its validation part and tested once; the others are
split into five folds by reduced formula. Needs the reference data in ``../shared/data`` (or ``DAO_SHARED_DATA``).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import RESULTS, arguments, commit, record

from dao_ase.calculator import load_potential
from dao_ase.data.sources import open_source
from dao_ase.potential import Potential
from dao_ase.properties.crossvalidation import folds_of, training_set
from dao_ase.properties.descriptors import composition_statistics, element_table
from dao_ase.properties.ensemble import fingerprint
from dao_ase.properties.fit import FitSettings, Fold, TrainingSet, fit_fold
from dao_ase.properties.kernel import MOST
from dao_ase.properties.model import features_of
from dao_ase.properties.table import PropertyTable, Target, read_table

DATA = Path(os.environ.get("DAO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDS = 5
PEERS = ("composition, trees", "CHGNet's features, trees")


@dataclass(frozen=True)
class Set:
    """A property set: its files by part of the official split, or one file for folds."""

    files: dict[str, str]
    target: Target
    split_column: str = ""  # a text that names the part of each crystal
    most: int | None = None  # crystals of each part, drawn at random


SETS = {
    "dielectric, n": Set({"all": "matminer_dielectric.npz"}, Target("n")),
    "dielectric, log poly_total": Set({"all": "matminer_dielectric.npz"}, Target("poly_total", log=True)),
    "piezoelectric": Set({"all": "matminer_piezoelectric.npz"}, Target("eij_max", "C/m²")),
    "JARVIS Tc": Set({"all": "jarvis_supercon3d.npz"}, Target("tc", "K"), split_column="split"),
    "SuperCon3D log Tc": Set({"all": "supercon3d.jsonl.gz"}, Target("tc", "K", log=True)),
    "MP-20 band gap": Set(
        {"train": "mp20_train.npz", "val": "mp20_val.npz", "test": "mp20_test_a.npz"},
        Target("band_gap", "eV"),
        most=2000,
    ),
    "MP-20 E_hull": Set(
        {"train": "mp20_train.npz", "val": "mp20_val.npz", "test": "mp20_test_a.npz"},
        Target("e_above_hull", "eV/atom"),
        most=2000,
    ),
    "Perov-5 heat of formation": Set(
        {"train": "perov5_train_partial.npz", "val": "perov5_val.npz", "test": "perov5_test.npz"},
        Target("heat_all", "eV"),
        most=2000,
    ),
    "MP-20 formation energy": Set(
        {"train": "mp20_train.npz", "val": "mp20_val.npz", "test": "mp20_test_a.npz"},
        Target("formation_energy_per_atom", "eV/atom"),
        most=2000,
    ),
}
"""The cheapest first. Of MP-20, the training structures whose label is at hand, and half of the test set."""


def load(one: Set, trunk: Potential, quick: bool, seed: int) -> tuple[PropertyTable, list[Fold], dict[str, Any]]:
    """The crystals of a set, its folds (one, where the split is official) and what was left out."""
    tables = {
        part: read_table([open_source(DATA / file)], one.target, trunk.elements, family=one.split_column or "family")
        for part, file in one.files.items()
    }
    rng = np.random.default_rng(seed)
    most = 200 if quick else one.most
    if most is not None:
        tables = {part: t.select(np.sort(rng.permutation(len(t))[:most])) for part, t in tables.items()}
    table = PropertyTable.join(list(tables.values()))
    parts = np.repeat(list(tables), [len(t) for t in tables.values()])
    if one.split_column:
        parts = np.array(table.families)
    notes = {"crystals": len(table), "left out": table.counts}
    if set(parts) == {"all"}:
        folds = folds_of(table.formulas, FOLDS, seed)
        return table, folds[:2] if quick else folds, notes | {"split": f"{FOLDS} folds by formula"}
    train, val, test = (np.flatnonzero(parts == name) for name in ("train", "val", "test"))
    notes |= {"split": "official", "train": len(train), "val": len(val), "test": len(test)}
    return table, [Fold(train, val, test)], notes


def summarise(target: Target, table: PropertyTable, predicted: NDArray, folds: list[Fold], seconds: float) -> dict:
    """Errors on what the folds report, on the scale that is learnt, and the processor time."""
    learnt = target.learnt(table.values, table.crystals.num_atoms.numpy())
    errors = [np.abs(predicted[fold.test] - learnt[fold.test]) for fold in folds]
    everything = np.concatenate(errors)
    means = [float(part.mean()) for part in errors]
    return {
        "MAE": float(everything.mean()),
        "standard error": float(everything.std() / np.sqrt(len(everything))),
        "MAE of each fold": [round(mean, 5) for mean in means],
        "processor_s": round(seconds, 1),
    }


def run_dao(
    data: TrainingSet, trunk: Potential, folds: list[Fold], settings: FitSettings, seed: int
) -> tuple[NDArray, float]:
    """Fine-tuning: what each fold says of its own crystals, and processor seconds."""
    started = time.process_time()
    predicted = np.zeros(len(data))
    for number, fold in enumerate(folds):
        head, own, _ = fit_fold(data, trunk, fold, settings, 1000 * seed + number)
        features = data.features[fold.test]
        if own is not None:
            features = features_of(own, data.graphs.select(fold.test), data.constants[fold.test])
        with torch.no_grad():
            predicted[fold.test] = head.values(features).mean(0).numpy()
    return predicted, time.process_time() - started


def run_trees(features: NDArray, learnt: NDArray, folds: list[Fold], seed: int) -> tuple[NDArray, float]:
    """Gradient-boosted trees for the absolute error; as many as is best for the part to stop by, then fitted to both."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    started = time.process_time()
    predicted = np.zeros(len(learnt))
    for fold in folds:
        trees = HistGradientBoostingRegressor(
            loss="absolute_error", learning_rate=0.08, max_iter=300, l2_regularization=1.0, early_stopping=False,
            random_state=seed,
        )  # fmt: skip
        trees.fit(features[fold.train], learnt[fold.train])
        errors = [np.abs(one - learnt[fold.stop]).mean() for one in trees.staged_predict(features[fold.stop])]
        trees.set_params(max_iter=int(np.argmin(errors)) + 1)
        both = np.concatenate([fold.train, fold.stop])
        trees.fit(features[both], learnt[both])
        predicted[fold.test] = trees.predict(features[fold.test])
    return predicted, time.process_time() - started


def chgnet_features(table: PropertyTable, file: Path) -> NDArray:
    """CHGNet's 64 features of each crystal, kept in ``file``; an isolated atom, which it refuses, gives missing values."""
    if file.is_file():
        return np.load(file)
    from chgnet.model import CHGNet

    from dao_ase.convert import to_structures

    model = CHGNet.load(verbose=False, use_device="cpu")
    rows = []
    for crystal in table.crystals:
        try:
            found = model.predict_structure(to_structures(crystal)[0], task="e", return_crystal_feas=True)
            rows.append(np.asarray(found["crystal_fea"]).reshape(-1))
        except ValueError:
            rows.append(np.full(64, np.nan))
    features = np.array(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, features)
    return features


def random_trunk(trunk: Potential, seed: int) -> Potential:
    """The same network with the weights of a random start: what pretraining is worth."""
    torch.manual_seed(seed)
    fresh = Potential(trunk.config)
    fresh.trained.copy_(trunk.trained)
    return fresh.eval().requires_grad_(False)


def measure(name: str, trunk: Potential, options: Any, known: dict[str, Any]) -> dict[str, Any]:
    """All contestants on one set; those in ``known`` are not run again."""
    one = SETS[name]
    table, folds, notes = load(one, trunk, options.quick, options.seed)
    learnt = one.target.learnt(table.values, table.crystals.num_atoms.numpy())
    settings = FitSettings(epochs=10, trunk_epochs=1) if options.quick else FitSettings()
    median = np.zeros(len(table))
    for fold in folds:
        median[fold.test] = np.median(learnt[fold.train])
    notes["learnt"] = "natural logarithm" if one.target.log else one.target.unit or "value"
    found = {**known, **notes, "a constant": summarise(one.target, table, median, folds, 0.0)}
    contestants: dict[str, Any] = {
        "composition, trees": lambda: run_trees(
            composition_statistics(training.graphs.counts, element_table()), learnt, folds, options.seed
        ),
        "DAO-P, frozen trunk": lambda: run_dao(training, trunk, folds, settings, options.seed),
        "random trunk, frozen": lambda: run_dao(
            replace(training, features=features_of(fresh, training.graphs, training.constants)),
            fresh, folds, settings, options.seed,
        ),
    }  # fmt: skip
    if options.chgnet:
        names = hashlib.sha256("\n".join(table.ids).encode()).hexdigest()[:12]
        cache = Path(options.cache) / f"chgnet-{names}.npy"
        contestants["CHGNet's features, trees"] = lambda: run_trees(
            chgnet_features(table, cache), learnt, folds, options.seed
        )
    if options.full:
        full = replace(settings, trunk="full")
        contestants["DAO-P, full trunk"] = lambda: run_dao(training, trunk, folds, full, options.seed)
        contestants["random trunk, full"] = lambda: run_dao(
            replace(training, features=features_of(fresh, training.graphs, training.constants)),
            fresh, folds, full, options.seed,
        )  # fmt: skip
    todo = [contestant for contestant in contestants if contestant not in known]
    if todo:
        fresh = random_trunk(trunk, options.seed)
        started = time.process_time()
        training = training_set(table, trunk, one.target)
        found["features, processor_s"] = round(time.process_time() - started, 1)
    for contestant in todo:
        predicted, seconds = contestants[contestant]()
        found[contestant] = summarise(one.target, table, predicted, folds, seconds)
        print(f"{name}: {contestant}: {found[contestant]['MAE']:.4f}, {seconds:.0f} s", file=sys.stderr, flush=True)
        if not options.quick:
            keep(name, found)
    return found


def keep(name: str, found: dict[str, Any]) -> None:
    """Records the set in benchmarks/results/properties.json at once, so that an interruption loses one contestant."""
    figures = recorded()
    figures["sets"] = {**figures.get("sets", {}), name: {**found, "commit": commit()}}
    record("properties", figures, seed=0, packages=("scikit-learn", "chgnet"))


def recorded() -> dict[str, Any]:
    """What was measured before: with other weights or settings of DAO-P, only what does not depend on them."""
    file = RESULTS / "properties.json"
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.is_file() else {}
    if figures.get("model") == MODEL:
        return figures
    sets = figures.get("sets", {})
    return {
        "model": MODEL,
        "sets": {name: {peer: found[peer] for peer in PEERS if peer in found} for name, found in sets.items()},
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("sets", nargs="*", help="parts of names of sets; none: all")
    parser.add_argument("--full", action="store_true", help="also train the trunk, pretrained and from scratch")
    parser.add_argument(
        "--no-chgnet", dest="chgnet", action="store_false", help="leave out the peer that takes longest"
    )
    parser.add_argument("--cache", default="runs/bench_properties", help="folder for CHGNet's features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    potential = load_potential()
    MODEL = {"trunk": fingerprint(potential), "settings": asdict(FitSettings()) | {"kernel up to": MOST}}
    for title in [t for t in SETS if not options.sets or any(part.lower() in t.lower() for part in options.sets)]:
        measured = measure(
            title, potential, options, {} if options.quick else recorded().get("sets", {}).get(title, {})
        )
        if options.quick:
            print(json.dumps({title: measured}))
