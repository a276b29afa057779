"""How good can the order of a list be? Every way to choose the first structure, on the same relaxed lists.

Lists are drawn for MP-20 validation crystals and relaxed, as `generate` does it, and kept in a file (``--lists``), which
an interrupted run continues. Then the share of lists is measured whose first structure matches, by

- DAO-P's energy alone; the energy and the handicap, as `rank="likely"` has it; CHGNet's energy with the same handicap;
- weights of energy, structure type and noise that are fitted to these very lists (conditional logit: the probability of a
  structure to be the known one is a softmax over its list), without and with the number of times that it was found. Each
  list is judged by weights that were fitted to others (ten parts).

These are validation crystals: the handicaps were chosen on others of the same set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_guidance import published
from judge import CHGNetEnergies
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from record import arguments, record
from scipy.optimize import minimize
from scipy.special import logsumexp

from dao_ase.benchmark import predict, references
from dao_ase.evaluate import match
from dao_ase.generator import DAOGenerator
from dao_ase.rank import installed_potential, relax_structures, with_energies

PART = 8
"""References that are sampled and relaxed together."""
WORST = 99.0
"""Energy (eV/atom) of what has none."""
NEAR = 0.05
"""eV/atom; fitted weights multiply log(1 + ΔE/NEAR), for energies that differ by much more say no more."""
ON_THE_HULL = 0.02
"""eV/atom."""

List = dict[str, Any]
"""Of one composition ``stable`` (published, eV/atom above the hull); of each candidate ``energy`` and ``chgnet`` (relaxed,
eV/atom), ``handicap`` (eV/atom), ``noise`` (whether it came from noise), ``group`` (equal structures have equal numbers),
``matched``."""


def collected(file: Path, path: Path, count: int, samples: int, seed: int) -> list[List]:
    """The lists of the first ``count`` references in the order of ``seed``; those that are missing are made."""
    known = references(file, count, seed)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    generator, above = DAOGenerator(), published(file, known)
    chgnet = CHGNetEnergies()
    for first in range(len(done), len(known), PART):
        part = known[first : first + PART]
        made = predict(generator, part, samples, 7_000_000 + first * samples)
        with path.open("a") as out:
            for stable, row in zip(above[first : first + PART], described(part, made, chgnet), strict=True):
                done.append({"stable": round(float(stable), 4), **row})
                out.write(json.dumps(done[-1]) + "\n")
        print(len(done), f"{rate(done, likely):.3f}", flush=True)
    return done[:count]


def described(known: list[Structure], made: list[list[Structure]], chgnet: CHGNetEnergies) -> Iterator[List]:
    """What is known of the relaxed candidates of each reference, and whether they match it."""
    potential = installed_potential()
    relaxed = iter(
        relax_structures(with_energies([one for row in made for one in row], potential), potential=potential)
    )
    for reference, row in zip(known, made, strict=True):
        after = [next(relaxed) for _ in row]
        group = groups(after)
        firsts = [group.index(number) for number in range(max(group) + 1)]
        energies = [WORST if one is None else one for one in chgnet([after[first] for first in firsts])]
        yield {
            "energy": [one.properties.get("energy_per_atom", WORST) for one in after],
            "chgnet": [energies[number] for number in group],
            "handicap": [one.properties["handicap"] for one in row],
            "noise": ["prototype" not in one.properties for one in row],
            "group": group,
            "matched": [match(one, reference) is not None for one in after],
        }


def groups(structures: list[Structure]) -> list[int]:
    """A number for each structure, the same for equal ones."""
    matcher, found, numbers = StructureMatcher(), [], []
    for structure in structures:
        place = next((place for place, other in enumerate(found) if matcher.fit(structure, other)), len(found))
        if place == len(found):
            found.append(structure)
        numbers.append(place)
    return numbers


def likely(one: List) -> np.ndarray:
    """Energy and handicap, eV/atom."""
    return np.array(one["energy"]) + np.array(one["handicap"])


def rate(lists: list[List], order: Callable[[List], np.ndarray]) -> float:
    """The share of lists whose first structure, that of the lowest ``order``, matches."""
    return float(np.mean([one["matched"][int(np.argmin(order(one)))] for one in lists]))


def fitted_rate(lists: list[List], features: Callable[[List], np.ndarray], parts: int = 10) -> float:
    """The same with fitted weights of the features [candidates, features], each list judged by weights of others."""
    shuffled = np.random.default_rng(0).permutation(len(lists))
    hits = 0.0
    for part in np.array_split(shuffled, parts):
        weights = fitted([lists[index] for index in np.setdiff1d(shuffled, part)], features)
        judged = [lists[index] for index in part]
        hits += len(part) * rate(judged, lambda one, weights=weights: features(one) @ weights)
    return hits / len(lists)


def fitted(lists: list[List], features: Callable[[List], np.ndarray]) -> np.ndarray:
    """The weights with the largest likelihood, a little drawn to zero."""
    chosen = [(features(one), np.array(one["matched"])) for one in lists if any(one["matched"])]

    def loss(weights: np.ndarray) -> float:
        scores = [(-row @ weights, matched) for row, matched in chosen]
        return float(
            np.mean([logsumexp(row) - logsumexp(row[matched]) for row, matched in scores]) + 1e-4 * weights @ weights
        )

    return minimize(loss, np.zeros(chosen[0][0].shape[1])).x


def plain_features(one: List) -> np.ndarray:
    """Energy above the lowest of the list, distance of the structure type, noise."""
    energy = np.array(one["energy"])
    noise = np.array(one["noise"], dtype=float)
    return np.stack([np.log1p((energy - energy.min()) / NEAR), np.array(one["handicap"]) * (1 - noise), noise], 1)


def counted_features(one: List) -> np.ndarray:
    """The same and the logarithm of how often the structure is in the list."""
    group = np.array(one["group"])
    return np.column_stack([plain_features(one), np.log((group[:, None] == group).sum(1))])


def figures_of(lists: list[List]) -> dict[str, Any]:
    """Every order, and what the lists that fail are like."""
    orders = {
        "DAO-P's energy": rate(lists, lambda one: np.array(one["energy"])),
        "DAO-P's energy and handicap": rate(lists, likely),
        "CHGNet's energy": rate(lists, lambda one: np.array(one["chgnet"])),
        "CHGNet's energy and handicap": rate(lists, lambda one: np.array(one["chgnet"]) + np.array(one["handicap"])),
        "fitted weights": fitted_rate(lists, plain_features),
        "fitted weights, counted": fitted_rate(lists, counted_features),
    }
    missed = [one for one in lists if any(one["matched"]) and not one["matched"][int(np.argmin(likely(one)))]]
    below = [likely_energy_of_match(one) for one in missed]
    return {
        "lists": len(lists),
        "any": round(float(np.mean([any(one["matched"]) for one in lists])), 4),
        "one from noise": round(float(np.mean([np.mean(np.array(one["matched"])[one["noise"]]) for one in lists])), 4),
        "first": {name: round(share, 4) for name, share in orders.items()},
        "missed although there": {
            "lists": len(missed),
            "known one above the hull": sum(one["stable"] > ON_THE_HULL for one in missed),
            "median energy above the first": round(float(np.median(below)), 4),
        },
    }


def likely_energy_of_match(one: List) -> float:
    """How far (eV/atom, for DAO-P) the best matching structure lies above the one that comes first."""
    energy, order = np.array(one["energy"]), likely(one)
    return float(energy[np.where(one["matched"], order, np.inf).argmin()] - energy[order.argmin()])


def main() -> None:
    """Makes what lists are missing and writes benchmarks/results/ranking.json."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, default=400, help="references")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--lists", type=Path, default=Path("runs/ranking/lists.jsonl"))
    options = parser.parse_args()
    if options.quick:
        options.limit, options.samples, options.lists = 12, 4, Path("runs/ranking/quick.jsonl")
    lists = collected(options.data / "mp20_val.npz", options.lists, options.limit, options.samples, options.seed)
    record("ranking", figures_of(lists), seed=options.seed, packages=("chgnet",))


if __name__ == "__main__":
    main()
