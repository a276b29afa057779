"""What a user sees first: for which share of compositions the first, one of the first three, or any structure matches.

Twenty samples for each composition, in the order in which they were drawn, ranked by DAO-P's energy as they are, and ranked
after relaxing with DAO-P for a few and for many steps; with the seconds that each order costs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from record import arguments, record

from dao_ase.benchmark import find_benchmark, predict, references
from dao_ase.evaluate import ReferenceResult, compare
from dao_ase.generator import DAOGenerator
from dao_ase.rank import by_energy, relax_structures

SAMPLES = 20


def shares(results: list[ReferenceResult], seconds: float) -> dict[str, Any]:
    """Match rates of the first, the first three and all structures, and the mean RMSE of first ones that match."""
    hits = [[result.rmse is not None for result in one.own] for one in results]
    first = [one.own[0].rmse for one in results if one.own[0].rmse is not None]
    return {
        **{name: round(sum(any(row[:n]) for row in hits) / len(hits), 4) for name, n in (("first", 1), ("first 3", 3))},
        "any": round(sum(map(any, hits)) / len(hits), 4),
        "RMSE of the first": round(sum(first) / len(first), 4) if first else None,
        "seconds a composition": round(seconds / len(results), 2),
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--benchmark", default="mp_20")
    parser.add_argument("--limit", type=int, default=60)
    options = parser.parse_args()
    known = references(
        find_benchmark(options.benchmark, options.data), 3 if options.quick else options.limit, options.seed
    )
    started = time.perf_counter()
    drawn = predict(DAOGenerator(), known, SAMPLES, options.seed)
    sampling = time.perf_counter() - started
    figures = {"references": len(known), "samples": SAMPLES, "as drawn": shares(compare(drawn, known), sampling)}
    for name, steps in (("ranked", 0), ("relaxed 20 steps, ranked", 20), ("relaxed 200 steps, ranked", 200)):
        started = time.perf_counter()
        ordered = [by_energy(relax_structures(row, steps=steps) if steps else row) for row in drawn]
        figures[name] = shares(compare(ordered, known), sampling + time.perf_counter() - started)
    record("ranking", figures, seed=options.seed)
