"""The stability model without noise: its error of the energy above the hull, beside predictors that look at nothing.

MP-20 keeps only crystals up to 0.08 eV/atom, most of them on the hull: there a constant is hard to beat, and its error
stands beside. What a model knows beyond a constant shows in the rank correlation with the labels, and in how often it finds
the lower one of two polymorphs (published energies more than 0.01 eV/atom apart).
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import arguments, record

from dao_ase.composition import reduced_key
from dao_ase.crystals import Crystals
from dao_ase.stability import energies_above_hull, load_stability

FILES = {"mp_20": "mp20_test_a.npz", "mpts_52": "mpts52_test_a.npz"}
VAL_FILES = {"mp_20": "mp20_val.npz", "mpts_52": "mpts52_val.npz"}
APART = 0.01


def load(path: Path, limit: int | None, seed: int) -> tuple[Crystals, np.ndarray]:
    """The crystals of an npz file, or some drawn at random, and their energies above the hull (eV/atom)."""
    with np.load(path, allow_pickle=False) as file:
        crystals = Crystals(
            torch.from_numpy(file["lattice"]),
            torch.from_numpy(file["frac_coords"]),
            torch.from_numpy(file["numbers"].astype(np.int64)),
            torch.from_numpy(file["n_atoms"].astype(np.int64)),
        )
        energies = file["e_above_hull"].astype(float)
    chosen = np.random.default_rng(seed).permutation(len(energies))[:limit]
    return crystals[chosen.tolist()], energies[chosen]


def lower_found(crystals: Crystals, truth: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """For how many pairs of polymorphs the lower one is found."""
    groups: dict[Any, list[int]] = {}
    ends = crystals.num_atoms.cumsum(0).tolist()
    numbers = crystals.atomic_numbers.numpy()
    for index, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        groups.setdefault(reduced_key(numbers[start:end]), []).append(index)
    pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
    pairs = [(a, b) for a, b in pairs if abs(truth[a] - truth[b]) > APART]
    right = [(truth[a] < truth[b]) == (found[a] < found[b]) for a, b in pairs]
    return {"pairs of polymorphs": len(pairs), "lower one found": round(float(np.mean(right)), 4) if right else None}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def measure(mean: float, crystals: Crystals, truth: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Errors (eV/atom) of the model and of two constants, zero and the training crystals' mean."""
    return {
        "crystals": len(truth),
        "MAE": round(float(abs(found - truth).mean()), 4),
        "MAE of zero": round(float(abs(truth).mean()), 4),
        "MAE of the training mean": round(float(abs(truth - mean).mean()), 4),
        "rank correlation": round(rank_correlation(found, truth), 3),
        **lower_found(crystals, truth, found),
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", help="of another stability model")
    parser.add_argument("--limit", type=int, help="crystals of each file; all by default")
    parser.add_argument(
        "--validation", action="store_true", help="print the figures of the validation sets, write nothing"
    )
    options = parser.parse_args()
    model, header = load_stability(options.weights)
    figures: dict[str, Any] = {}
    for name, file in (VAL_FILES if options.validation else FILES).items():
        crystals, truth = load(options.data / file, 200 if options.quick else options.limit, options.seed)
        found = energies_above_hull(model, crystals, header["process"]).double().numpy()
        mean, small = float(model.energy_mean), np.flatnonzero(crystals.num_atoms.numpy() <= header["max_atoms"])
        figures[name] = measure(mean, crystals, truth, found)
        if len(small) < len(truth):
            part = (crystals[small.tolist()], truth[small], found[small])
            figures[f"{name}, up to {header['max_atoms']} atoms"] = measure(mean, *part)
    if options.validation:
        print(figures)
    else:
        record("stability", figures, seed=options.seed)
