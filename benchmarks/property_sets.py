"""The property sets of the benchmark: their files, what is learnt of each, and their folds.

`SETS` are those of the reference data; `matbench_sets` and `jarvis_sets` are the same for the published files of Matbench
and of JARVIS that a user has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dao_ase.data.sources import open_source
from dao_ase.potential import Potential
from dao_ase.properties.crossvalidation import divide, folds_of
from dao_ase.properties.fit import Fold
from dao_ase.properties.table import PropertyTable, Target, read_table

DATA = Path(os.environ.get("DAO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDS = 5
MATBENCH_SEED = 18012019
"""Of the shuffled five folds (scikit-learn's KFold) that Matbench publishes for its regression sets."""


@dataclass(frozen=True)
class Set:
    """A property set: its files (in `DATA`, or anywhere) by part of the official split, or one file for folds."""

    files: dict[str, str]
    target: Target
    split_column: str = ""  # a text that names the part of each crystal
    most: dict[str, int] = field(default_factory=dict)  # crystals of a part, drawn at random
    matbench: bool = False  # Matbench's own folds, by row
    augmented: bool = False  # may be given generated structures with the same target to train on


MP_20 = {"train": "mp20_train.npz", "val": "mp20_val.npz", "test": "mp20_test_a.npz"}
MOST = {"train": 8000, "val": 2000, "test": 2000}
SETS = {
    "dielectric, n": Set({"all": "matminer_dielectric.npz"}, Target("n")),
    "dielectric, log poly_total": Set({"all": "matminer_dielectric.npz"}, Target("poly_total", log=True)),
    "piezoelectric": Set({"all": "matminer_piezoelectric.npz"}, Target("eij_max", "C/m²")),
    "JARVIS Tc": Set({"all": "jarvis_supercon3d.npz"}, Target("tc", "K"), split_column="split"),
    "JARVIS Tc, folds": Set({"all": "jarvis_supercon3d.npz"}, Target("tc", "K")),
    "SuperCon3D log Tc": Set({"all": "supercon3d.jsonl.gz"}, Target("tc", "K", log=True), augmented=True),
    "MP-20 band gap": Set(MP_20, Target("band_gap", "eV"), most=MOST),
    "MP-20 E_hull": Set(MP_20, Target("e_above_hull", "eV/atom"), most=MOST),
    "Perov-5 heat of formation": Set(
        {"train": "perov5_train_partial.npz", "val": "perov5_val.npz", "test": "perov5_test.npz"},
        Target("heat_all", "eV"),
        most=MOST,
    ),
    "MP-20 formation energy": Set(MP_20, Target("formation_energy_per_atom", "eV/atom"), most=MOST),
}
"""The cheapest first. Of MP-20, the training structures whose label is at hand, and half of the test set."""


MATBENCH = {
    "jdft2d": Target("exfoliation_en", "meV/atom"),
    "phonons": Target("last phdos peak", "1/cm"),
    "dielectric": Target("n"),
    "log_gvrh": Target("log10(G_VRH)", "log10 GPa"),
    "log_kvrh": Target("log10(K_VRH)", "log10 GPa"),
    "perovskites": Target("e_form", "eV/cell"),
}
"""Regression sets of Matbench with structures, by the name in ``matbench_NAME.json.gz``."""
JARVIS = (Target("shear_modulus_gv", "GPa"), Target("bulk_modulus_kv", "GPa"), Target("mbj_bandgap", "eV"))
"""Columns of JARVIS's ``dft_3d``."""


def matbench_sets(folder: Path) -> dict[str, Set]:
    """Those of Matbench's sets whose published file is in the folder, with their official folds."""
    found = {
        f"Matbench {name}": Set({"all": str(file.resolve())}, target, matbench=True)
        for name, target in MATBENCH.items()
        for file in sorted(folder.glob(f"matbench_{name}.json*"))[:1]
    }
    if not found:
        names = ", ".join(f"matbench_{name}.json.gz" for name in MATBENCH)
        raise FileNotFoundError(f"{str(folder)!r} holds no published file of Matbench; looked for {names}")
    return found


def jarvis_sets(file: Path) -> dict[str, Set]:
    """The sets of JARVIS's published ``dft_3d`` (``jdft_3d-*.json``, also zipped), in five folds by formula."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r} of JARVIS")
    return {f"JARVIS {target.name}": Set({"all": str(file.resolve())}, target) for target in JARVIS}


def load(one: Set, trunk: Potential, quick: bool, seed: int) -> tuple[PropertyTable, list[Fold], dict[str, Any]]:
    """The crystals of a set, its folds (one, where the split is official) and what was left out."""
    tables = {
        part: read_table([open_source(DATA / file)], one.target, trunk.elements, family=one.split_column or "family")
        for part, file in one.files.items()
    }
    places = {part: matbench_places(t) if one.matbench else np.zeros(len(t), np.int64) for part, t in tables.items()}
    rng = np.random.default_rng(seed)
    most = dict.fromkeys(tables, 200) if quick else one.most
    chosen = {part: np.sort(rng.permutation(len(t))[: most.get(part)]) for part, t in tables.items()}
    tables = {part: t.select(chosen[part]) for part, t in tables.items()}
    places = {part: place[chosen[part]] for part, place in places.items()}
    table = PropertyTable.join(list(tables.values()))
    parts = np.repeat(list(tables), [len(t) for t in tables.values()])
    if one.split_column:
        parts = np.array(table.families)
    notes = {"crystals": len(table), "left out": table.counts}
    if set(parts) == {"all"}:
        folds = given_folds(table, places["all"], seed) if one.matbench else folds_of(table.formulas, FOLDS, seed)
        split = f"{FOLDS} folds of Matbench" if one.matbench else f"{FOLDS} folds by formula"
        return table, folds[:2] if quick else folds, notes | {"split": split}
    train, val, test = (np.flatnonzero(parts == name) for name in ("train", "val", "test"))
    notes |= {"split": "official", "train": len(train), "val": len(val), "test": len(test)}
    return table, [Fold(train, val, test)], notes


def matbench_places(table: PropertyTable) -> NDArray[np.int64]:
    """Matbench's fold of each crystal: its folds count the rows of the file, those that are left out here among them."""
    from sklearn.model_selection import KFold

    rows = np.arange(len(table) + len(table.left_out))
    place = np.zeros(len(rows), dtype=np.int64)
    for number, (_, test) in enumerate(KFold(FOLDS, shuffle=True, random_state=MATBENCH_SEED).split(rows)):
        place[test] = number
    return place[np.setdiff1d(rows, [one.row for one in table.left_out])]


def given_folds(table: PropertyTable, places: NDArray[np.int64], seed: int) -> list[Fold]:
    """Folds that report on the crystals of one place each; what is stopped by is parted off by formula."""
    return [
        divide(table.formulas, np.flatnonzero(places != fold), np.flatnonzero(places == fold), seed + fold + 1)
        for fold in range(FOLDS)
    ]
