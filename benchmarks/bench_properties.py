"""Property sets: DAO-P fine-tuned, beside two peers on the same folds, and beside the same network with a random trunk.

    python benchmarks/bench_properties.py                       # every set; what is done is not done again
    python benchmarks/bench_properties.py dielectric tc --full  # only these, and the trunk trained too
    python benchmarks/bench_properties.py SuperCon3D --augment 400     # with structures that DAO-G generates to train on
    python benchmarks/bench_properties.py --matbench FOLDER --jarvis jdft_3d-12-12-2022.json.zip   # their published files

Peers: gradient-boosted trees (scikit-learn) on statistics of the composition ("Magpie"), and on CHGNet's crystal features,
with the loss, absolute or squared, and as many trees as are best for crystals that they were not trained on.
Sets with an official split are trained on its training part, stopped by its validation part and tested once; the others are
split into five folds by reduced formula, Matbench's as it says itself. ``--augment`` adds to the training part of each fold
structures generated for compositions of 3DSC (generated_superconductors.py), of no formula of the set. The sets of the first
command need the reference data in ``../shared/data`` (or ``DAO_SHARED_DATA``), those of ``--matbench`` and ``--jarvis`` only
the files that are named. A table of what was measured is printed at the end.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated_superconductors import generated_table
from numpy.typing import NDArray
from property_sets import DATA, SETS, Set, jarvis_sets, load, matbench_sets
from record import RESULTS, arguments, commit, record

from dao_ase.calculator import load_potential
from dao_ase.potential import Potential
from dao_ase.properties.crossvalidation import training_set
from dao_ase.properties.descriptors import composition_statistics, element_table
from dao_ase.properties.ensemble import VERSION, fingerprint
from dao_ase.properties.fit import FitSettings, Fold, TrainingSet, fit_fold
from dao_ase.properties.model import features_of
from dao_ase.properties.table import PropertyTable, Target, too_close

PEERS = ("composition, trees", "CHGNet's features, trees")
LOSSES, MOST_TREES = ("absolute_error", "squared_error"), 300
LARGE, PART = 16, 32
"""Atoms of cells of which the primitive one is looked for before CHGNet reads them, and crystals that it reads at once."""


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
    """Gradient-boosted trees, as many as are best for the part to stop by, then fitted to both parts.

    The loss is the one that is better for the parts to stop by of all folds: one part alone is too small to tell.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    started = time.process_time()
    trees = HistGradientBoostingRegressor(
        learning_rate=0.08, l2_regularization=1.0, early_stopping=False, random_state=seed
    )
    errors = np.zeros((len(LOSSES), len(folds), MOST_TREES))
    for number, fold in enumerate(folds):
        for place, loss in enumerate(LOSSES):
            trees.set_params(loss=loss, max_iter=MOST_TREES).fit(features[fold.train], learnt[fold.train])
            said = np.stack(list(trees.staged_predict(features[fold.stop])))
            errors[place, number] = np.abs(said - learnt[fold.stop]).mean(1)
    best = int(errors.min(2).mean(1).argmin())
    predicted = np.zeros(len(learnt))
    for number, fold in enumerate(folds):
        both = np.concatenate([fold.train, fold.stop])
        trees.set_params(loss=LOSSES[best], max_iter=int(errors[best, number].argmin()) + 1)
        predicted[fold.test] = trees.fit(features[both], learnt[both]).predict(features[fold.test])
    return predicted, time.process_time() - started


@torch.no_grad()
def chgnet_features(table: PropertyTable, file: Path) -> NDArray:
    """CHGNet's 64 features of each crystal, kept in ``file``; an isolated atom, which it refuses, gives missing values.

    They are means over the atoms, so that of a large cell the primitive one is enough.
    """
    if file.is_file():
        return np.load(file)
    from chgnet.model import CHGNet

    from dao_ase.convert import to_structures

    model = CHGNet.load(verbose=False, use_device="cpu")
    parts = []
    for first in range(0, len(table), PART):
        graphs = [_graph(model, structure) for structure in to_structures(table.crystals[first : first + PART])]
        known = [place for place, graph in enumerate(graphs) if graph is not None]
        with torch.no_grad():
            found = model.predict_graph(
                [graphs[place] for place in known], task="e", return_crystal_feas=True, batch_size=8
            )
        part = np.full((len(graphs), 64), np.nan)
        part[known] = [one["crystal_fea"].reshape(-1) for one in (found if isinstance(found, list) else [found])]
        parts.append(part)
    features = np.concatenate(parts)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, features)
    return features


def _graph(model: Any, structure: Any) -> Any:
    """What CHGNet reads of a crystal, of the primitive cell of a large one; None where it refuses."""
    primitive = structure.get_primitive_structure() if len(structure) > LARGE else structure
    try:
        return model.graph_converter(min(structure, primitive, key=len))
    except ValueError:
        return None


def random_trunk(trunk: Potential, seed: int) -> Potential:
    """The same network with the weights of a random start: what pretraining is worth."""
    torch.manual_seed(seed)
    fresh = Potential(trunk.config)
    fresh.trained.copy_(trunk.trained)
    return fresh.eval().requires_grad_(False)


def with_generated(
    table: PropertyTable, folds: list[Fold], generated: PropertyTable
) -> tuple[PropertyTable, list[Fold], list[Fold]]:
    """Both tables in one, and folds that train on the generated crystals too: all of them, or those of no doped relative.

    A relative is close (`too_close`) to a composition that the fold reports on. Generated crystals of a formula that the
    table holds are dropped, and none is ever reported on.
    """
    known = set(table.formulas)
    generated = generated.select(np.flatnonzero([formula not in known for formula in generated.formulas]))
    whole = PropertyTable.join([table, generated])
    extra = np.arange(len(table), len(whole))
    numbers = whole.crystals.atomic_numbers.numpy()
    shares = np.zeros((len(whole), int(numbers.max()) + 1))
    np.add.at(shares, (whole.crystals.crystal_index.numpy(), numbers), 1)
    shares /= shares.sum(1, keepdims=True)
    near = 0.5 * torch.cdist(torch.from_numpy(shares[extra]), torch.from_numpy(shares), p=1).numpy() <= 0.25
    related = np.zeros_like(near)
    for row, column in np.argwhere(near):
        first, second = shares[extra[row]], shares[column]
        related[row, column] = too_close(first, second) or too_close(second, first)
    every = [replace(fold, train=np.concatenate([fold.train, extra])) for fold in folds]
    apart = [replace(fold, train=np.concatenate([fold.train, extra[~related[:, fold.test].any(1)]])) for fold in folds]
    return whole, every, apart


def measure(name: str, one: Set, trunk: Potential, options: Any, known: dict[str, Any]) -> dict[str, Any]:
    """All contestants on one set; those in ``known`` are not run again."""
    table, folds, notes = load(one, trunk, options.quick, options.seed)
    known = known if known.get("crystals") == len(table) else {}
    settings = FitSettings(epochs=10, trunk_epochs=1) if options.quick else FitSettings()
    whole, more, augmented = table, {}, {}
    if options.augment and one.augmented:
        generated, about = generated_table(
            DATA, one.target, trunk.elements, options.augment, Path(options.generated), options.seed
        )
        whole, every, apart = with_generated(table, folds, generated)
        about["trained on"] = len(whole) - len(table)
        augmented = {"aug.": every, "aug. without relatives": apart}
        more = {f"{kind}, {label}": about for kind in ("DAO-P", "composition, trees") for label in augmented}
        known = {entry: found for entry, found in known.items() if entry not in more or found["generated"] == about}
    learnt = one.target.learnt(whole.values, whole.crystals.num_atoms.numpy())
    median = np.zeros(len(whole))
    for fold in folds:
        median[fold.test] = np.median(learnt[fold.train])
    notes["learnt"] = "natural logarithm" if one.target.log else one.target.unit or "value"
    found = {**known, **notes, "a constant": summarise(one.target, table, median, folds, 0.0)}

    def trees(parts: list[Fold]) -> tuple[NDArray, float]:
        return run_trees(composition_statistics(training.graphs.counts, element_table()), learnt, parts, options.seed)

    def dao(parts: list[Fold], settings: FitSettings = settings) -> tuple[NDArray, float]:
        return run_dao(training, trunk, parts, settings, options.seed)

    def scratch(settings: FitSettings = settings) -> tuple[NDArray, float]:
        features = features_of(fresh, training.graphs, training.constants)
        return run_dao(replace(training, features=features), fresh, folds, settings, options.seed)

    contestants: dict[str, Any] = {
        "composition, trees": lambda: trees(folds),
        "DAO-P, frozen trunk": lambda: dao(folds),
        "random trunk, frozen": scratch,
    }
    for label, parts in augmented.items():
        contestants[f"DAO-P, {label}"] = lambda parts=parts: dao(parts)
        contestants[f"composition, trees, {label}"] = lambda parts=parts: trees(parts)
    if options.chgnet:
        names = hashlib.sha256("\n".join(table.ids).encode()).hexdigest()[:12]
        cache = Path(options.cache) / f"chgnet-{names}.npy"
        contestants["CHGNet's features, trees"] = lambda: run_trees(
            chgnet_features(table, cache), learnt, folds, options.seed
        )
    if options.full:
        full = replace(settings, trunk="full")
        contestants["DAO-P, full trunk"] = lambda: dao(folds, full)
        contestants["random trunk, full"] = lambda: scratch(full)
    todo = [contestant for contestant in contestants if contestant not in known]
    if todo:
        fresh = random_trunk(trunk, options.seed)
        started = time.process_time()
        training = training_set(whole, trunk, one.target)
        found["features, processor_s"] = round(time.process_time() - started, 1)
    for contestant in todo:
        predicted, seconds = contestants[contestant]()
        found[contestant] = summarise(one.target, table, predicted, folds, seconds)
        if contestant in more:
            found[contestant]["generated"] = more[contestant]
        print(f"{name}: {contestant}: {found[contestant]['MAE']:.4f}, {seconds:.0f} s", file=sys.stderr, flush=True)
        if not options.quick:
            keep(name, found)
    return found


def table_of(sets: dict[str, dict[str, Any]]) -> str:
    """The mean absolute errors as a table in Markdown, one line for each set."""
    columns = list(dict.fromkeys(key for found in sets.values() for key in contestants_in(found)))
    lines = ["| set | learnt | crystals | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    for name, found in sets.items():
        errors = [f"{found[key]['MAE']:.4g}" if key in found else "–" for key in columns]
        lines.append(f"| {name} | {found['learnt']} | {found['crystals']} | " + " | ".join(errors) + " |")
    return "\n".join(lines)


def contestants_in(found: dict[str, Any]) -> Iterable[str]:
    """The names of those that were measured."""
    return (key for key, value in found.items() if isinstance(value, dict) and "MAE" in value)


def keep(name: str, found: dict[str, Any]) -> None:
    """Records the set in benchmarks/results/properties.json at once, so that an interruption loses one contestant."""
    sets = {**recorded(), name: {**found, "model": MODEL, "losses": LOSSES, "commit": commit()}}
    record("properties", {"sets": sets}, seed=0, packages=("scikit-learn", "chgnet"))


def recorded() -> dict[str, Any]:
    """The sets that were measured before, each with the weights and settings of DAO-P that it was measured with."""
    file = RESULTS / "properties.json"
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.is_file() else {}
    common = {"model": figures["model"]} if "model" in figures else {}
    return {name: common | found for name, found in figures.get("sets", {}).items()}


def still_known(found: dict[str, Any]) -> dict[str, Any]:
    """What need not be measured again: of other weights or settings of DAO-P, or another choice of losses, only the rest."""
    kept = found if found.get("model") == MODEL else {key: found[key] for key in ("crystals", *PEERS) if key in found}
    same = found.get("losses") == list(LOSSES)
    return kept if same else {key: value for key, value in kept.items() if "trees" not in key}


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("sets", nargs="*", help="parts of names of sets; none: all")
    parser.add_argument("--full", action="store_true", help="also train the trunk, pretrained and from scratch")
    parser.add_argument(
        "--no-chgnet", dest="chgnet", action="store_false", help="leave out the peer that takes longest"
    )
    parser.add_argument("--cache", default="runs/bench_properties", help="folder for CHGNet's features")
    parser.add_argument(
        "--augment", type=int, default=0, metavar="N", help="generate structures for up to N compositions of 3DSC"
    )
    parser.add_argument("--generated", default="runs/augment", help="folder for these structures")
    parser.add_argument("--matbench", type=Path, metavar="FOLDER", help="the sets of these published files instead")
    parser.add_argument("--jarvis", type=Path, metavar="FILE", help="the sets of this published file instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    potential = load_potential()
    defaults = asdict(FitSettings())
    settings = defaults | {"kernel up to": defaults.pop("kernel_up_to")}
    MODEL = {"trunk": fingerprint(potential), "settings": settings, "version": VERSION}
    published = matbench_sets(options.matbench) if options.matbench else {}
    published |= jarvis_sets(options.jarvis) if options.jarvis else {}
    measured = {}
    for title, chosen in (published or SETS).items():
        if not options.sets or any(part.lower() in title.lower() for part in options.sets):
            before = {} if options.quick else still_known(recorded().get(title, {}))
            measured[title] = measure(title, chosen, potential, options, before)
    print(json.dumps(measured) if options.quick else table_of(measured))
