"""What guidance, relaxation and ranking buy and cost: the same compositions, seeds and samples throughout.

Rows of generation: DAO-G as it is, guided by the stability model, and both relaxed with DAO-P; match rate and RMSE of one
and of all samples, the share of stable ones by an independent judge (CHGNet against a hull of known crystals, judge.py),
and which are unique and novel. Rows of ranking: for which share of compositions the first, one of the first three, or any
of the ranked list matches, and the processor time that it takes to get there. Polymorphs: compositions with several
references, of which all were found.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from judge import STABLE, Judge, KnownCrystals
from pymatgen.core import Structure
from record import arguments, record

from dao_ase.benchmark import find_benchmark, predict, references
from dao_ase.evaluate import ReferenceResult, compare, match, summarise
from dao_ase.generator import DAOGenerator
from dao_ase.rank import by_energy, by_stability, distinct, relax_structures

Lists = list[list[Structure]]


def timed(make: Callable[[], Lists], count: int) -> tuple[Lists, float]:
    """What ``make`` gives, and the processor seconds for each of ``count`` compositions."""
    started = time.process_time()
    made = make()
    return made, (time.process_time() - started) / count


def shares(results: list[ReferenceResult]) -> dict[str, Any]:
    """Match rates of the first, of the first three and of all structures, and mean RMSE of those that match."""
    hits = [[result.rmse is not None for result in one.own] for one in results]
    report = summarise(results)
    return {
        **{
            name: round(float(np.mean([any(row[:n]) for row in hits])), 4) for name, n in (("first", 1), ("first 3", 3))
        },
        "any": round(report.match_rate, 4),
        "RMSE of the first": round(report.first_rmse, 4),
        "RMSE of the best": round(report.rmse, 4),
    }


def judged(judge: Judge, lists: Lists, each: int) -> dict[str, Any]:
    """How stable the first ``each`` structures of every list are."""
    above = [energy for row in lists for energy in judge.above(row[:each]) if energy is not None]
    finite = [energy for energy in above if np.isfinite(energy)]
    return {
        "judged": len(above),
        "stable share": round(float(np.mean([energy < STABLE for energy in above])), 4),
        "median above the hull": round(float(np.median(finite)), 4),
    }


def variety(known: KnownCrystals, lists: Lists, each: int) -> dict[str, float]:
    """Which of the first ``each`` structures of every list are unique, and which of these match no training crystal."""
    made = unique = novel = 0
    for row in lists:
        kept = distinct(row[:each])
        trained = [known.structure(index) for index in known.of_formula(row[0].atomic_numbers)]
        made, unique = made + len(row[:each]), unique + len(kept)
        novel += sum(all(match(one, other) is None for other in trained) for one in kept)
    return {"unique": round(unique / made, 4), "unique and novel": round(novel / made, 4)}


def polymorphs(generator: DAOGenerator, file: Path, count: int, samples: int, options: Any) -> dict[str, Any]:
    """Compositions with two to four references: for which share of them all were found, with and without guidance."""
    everything = references(file, None, options.seed)
    sizes = Counter(one.composition.reduced_formula for one in everything)
    chosen = [name for name, size in sizes.items() if 2 <= size <= 4][:count]
    known = [one for one in everything if one.composition.reduced_formula in chosen]
    found: dict[str, Any] = {"compositions": dict(sorted(Counter(str(sizes[name]) for name in chosen).items()))}
    for name, scale in (("unguided", 0.0), ("guided", options.guidance)):
        made = predict(generator, known, samples, options.seed, scale)
        found[name] = summarise(compare(made, known, workers=1)).polymorphs
    return found


def main() -> None:
    """Measures everything and writes benchmarks/results/ablation_BENCHMARK.json."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--benchmark", default="mp_20")
    parser.add_argument("--limit", type=int, default=40, help="references")
    parser.add_argument("--samples", type=int, default=20, help="samples for each")
    parser.add_argument("--judged", type=int, default=4, help="samples of each reference that are judged")
    parser.add_argument("--polymorphs", type=int, default=12, help="compositions with several references")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--weights", help="of another DAO-G")
    parser.add_argument("--stability", help="weights of another stability model")
    parser.add_argument("--cache", type=Path, default=Path("runs/ablation/known_energies.json"))
    options = parser.parse_args()
    if options.quick:
        options.limit, options.samples, options.judged, options.polymorphs = 3, 4, 1, 1
    file = find_benchmark(options.benchmark, options.data)
    known = references(file, options.limit, options.seed)
    generator = DAOGenerator(options.weights, stability=options.stability)
    crystals = KnownCrystals(options.data)
    judge = Judge(crystals, options.cache)
    count = len(known)

    def drawn(scale: float) -> Lists:
        return predict(generator, known, options.samples, options.seed, scale)

    def relaxed(lists: Lists, steps: int) -> Lists:
        return [relax_structures(row, steps=steps) for row in lists]

    drawn(0.0 if options.quick else options.guidance)[:0]  # the first call of a process compiles and caches
    plain, sampling = timed(lambda: drawn(0.0), count)
    guided, guiding = timed(lambda: drawn(options.guidance), count)
    short, shortly = timed(lambda: relaxed(plain, 20), count)
    long, longly = timed(lambda: relaxed(plain, 200), count)
    both, bothly = timed(lambda: relaxed(guided, 200), count)
    generation = {
        "unguided": (plain, sampling),
        "guided": (guided, guiding),
        "unguided, relaxed": (long, sampling + longly),
        "guided, relaxed": (both, guiding + bothly),
    }
    rows: dict[str, Any] = {}
    for name, (lists, seconds) in generation.items():
        rows[name] = shares(compare(lists, known, workers=1)) | {"processor seconds": round(seconds, 2)}
        rows[name] |= judged(judge, lists, options.judged) | variety(crystals, lists, 2 * options.judged)
        print(name, rows[name], flush=True)
    orders = {
        "as drawn": (plain, lambda one: one, sampling),
        "by the stability head": (plain, lambda one: by_stability(one, options.stability), sampling),
        "by DAO-P's energy": (plain, by_energy, sampling),
        "relaxed 20 steps, by DAO-P's energy": (short, by_energy, sampling + shortly),
        "relaxed 200 steps, by DAO-P's energy": (long, by_energy, sampling + longly),
        "guided, relaxed 200 steps, by DAO-P's energy": (both, by_energy, guiding + bothly),
    }
    ranking: dict[str, Any] = {}
    for name, (lists, order, before) in orders.items():
        ranked, seconds = timed(lambda lists=lists, order=order: [order(row) for row in lists], count)
        ranking[name] = shares(compare(ranked, known, workers=1)) | {"processor seconds": round(before + seconds, 2)}
        print(name, ranking[name], flush=True)
    figures = {
        "references": count,
        "samples": options.samples,
        "guidance": options.guidance,
        "model": {"generator": generator.name, "weights": generator.fingerprint},
        "known crystals": judged(judge, [[one] for one in known], 1),
        "generation": rows,
        "ranking": ranking,
        "polymorphs": polymorphs(generator, file, options.polymorphs, options.samples, options),
        "guided over unguided, processor time": round(guiding / sampling, 2),
    }
    record(f"ablation_{options.benchmark}", figures, seed=options.seed, packages=("chgnet",))


if __name__ == "__main__":
    main()
