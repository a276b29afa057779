"""What guidance, relaxation and ranking buy and cost: the same compositions, seeds and samples throughout.

Rows of generation: DAO-G as it is (one try), guided by the stability model, the best of several tries by DAO-P's energy,
these relaxed with DAO-P, and other weights (``--also``: the stages of the training). Of each row match rate and RMSE of one
and of all samples, the share of stable ones by an independent judge (CHGNet against a hull of known crystals, judge.py),
and how many are unique and novel. Rows of ranking: for which share of compositions the first, one of the first three, or
any of the ranked list matches, and the processor time that it takes to get there. Polymorphs: compositions with several
references, of which all were found.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from judge import STABLE, Judge, KnownCrystals
from matplotlib.figure import Figure
from pymatgen.core import Structure
from record import arguments, record

from dao_ase.benchmark import find_benchmark, predict, references
from dao_ase.evaluate import ReferenceResult, compare, match, summarise
from dao_ase.generator import DAOGenerator
from dao_ase.rank import by_energy, by_likelihood, by_stability, distinct, relax_structures

Lists = list[list[Structure]]

PART = 4
"""References that go through everything together: --minutes ends the run between two of them."""
SHORT, LONG = 20, 200
"""Steps of the two relaxations."""


@dataclass
class Row:
    """What is known of one way to make or to order structures, reference by reference."""

    results: list[ReferenceResult] = field(default_factory=list)
    seconds: float = 0.0
    above: list[float] = field(default_factory=list)
    made: int = 0
    unique: int = 0
    novel: int = 0

    def shares(self) -> dict[str, Any]:
        """Match rates of the first, of the first three and of all structures, RMSE of those that match, seconds."""
        hits = [[result.rmse is not None for result in one.own] for one in self.results]
        report = summarise(self.results)
        return {
            **{
                name: round(float(np.mean([any(row[:n]) for row in hits])), 4)
                for name, n in (("first", 1), ("first 3", 3))
            },
            "any": round(report.match_rate, 4),
            "all samples": round(float(np.mean([hit for row in hits for hit in row])), 4),
            "RMSE of the first": round(report.first_rmse, 4),
            "RMSE of the best": round(report.rmse, 4),
            "processor seconds": round(self.seconds / len(self.results), 2),
        }

    def quality(self) -> dict[str, Any]:
        """How stable the judged structures are, and how many are unique and novel."""
        finite = [energy for energy in self.above if np.isfinite(energy)]
        return {
            "judged": len(self.above),
            "stable share": round(float(np.mean([energy < STABLE for energy in self.above])), 4),
            "median above the hull": round(float(np.median(finite)), 4),
            "unique": round(self.unique / self.made, 4) if self.made else None,
            "unique and novel": round(self.novel / self.made, 4) if self.made else None,
        }

    def judge(self, judge: Judge, lists: Lists, each: int) -> None:
        """Takes in the first ``each`` structures of every list; variety is looked for among twice as many."""
        for row in lists:
            self.above += [energy for energy in judge.above(row[:each]) if energy is not None]
            kept = distinct(row[: 2 * each])
            trained = [judge.known.structure(index) for index in judge.known.of_formula(row[0].atomic_numbers)]
            self.made, self.unique = self.made + len(row[: 2 * each]), self.unique + len(kept)
            self.novel += sum(all(match(one, other) is None for other in trained) for one in kept)


class Clock:
    """Processor seconds since the last question."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def __call__(self) -> float:
        now = time.process_time()
        self.last, passed = now, now - self.last
        return passed


class Ablation:
    """All rows, and the models that fill them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        network: dict[str, Any] = {"stability": options.stability, "prototypes": False}
        self.generator = DAOGenerator(options.weights, tries=1, **network)
        self.chooser = DAOGenerator(options.weights, tries=options.tries, **network)
        self.informed = DAOGenerator(options.weights, tries=options.tries, stability=options.stability)
        self.others = {
            name: DAOGenerator(file, tries=1, prototypes=False)
            for name, _, file in (one.partition("=") for one in options.also)
        }
        self.judge = Judge(KnownCrystals(options.data), options.cache)
        self.generation: dict[str, Row] = defaultdict(Row)
        self.ranking: dict[str, Row] = defaultdict(Row)
        self.known = Row()

    def take(self, known: list[Structure], seed: int) -> None:
        """Every row for some references; their samples have the seeds from ``seed`` on."""
        samples, scale, clock = self.options.samples, self.options.guidance, Clock()
        plain = predict(self.generator, known, samples, seed)
        sampling = clock()
        guided = predict(self.generator, known, samples, seed, scale)
        guiding = clock()
        chosen = predict(self.chooser, known, samples, seed)
        choosing = clock()
        informed = predict(self.informed, known, samples, seed)
        informing = clock()
        relaxed: list[tuple[Lists, float]] = []
        for lists, steps in ((plain, SHORT), (plain, LONG), (guided, LONG), (chosen, LONG), (informed, LONG)):
            relaxed.append(([relax_structures(row, steps=steps) for row in lists], clock()))
        (short, shortly), (long, longly), (both, bothly), (best, bestly), (full, fully) = relaxed
        self._generated("unguided", plain, known, sampling)
        self._generated("guided", guided, known, guiding)
        self._generated("chosen", chosen, known, choosing)
        self._generated("chosen, relaxed", best, known, choosing + bestly)
        self._generated("with types", informed, known, informing)
        self._generated("with types, relaxed", full, known, informing + fully)
        self._generated("unguided, relaxed", long, known, sampling + longly)
        self._generated("guided, relaxed", both, known, guiding + bothly)
        for name, generator in self.others.items():
            clock()
            made = predict(generator, known, samples, seed)
            self._generated(name, made, known, clock())
        stability, energy = (lambda row: by_stability(row, self.options.stability)), by_energy
        self._ordered("as drawn", plain, known, list, sampling)
        self._ordered("by the stability model", plain, known, stability, sampling)
        self._ordered("by DAO-P's energy", plain, known, energy, sampling)
        self._ordered("relaxed shortly, by DAO-P's energy", short, known, energy, sampling + shortly)
        self._ordered("relaxed, by DAO-P's energy", long, known, energy, sampling + longly)
        self._ordered("guided, relaxed, by DAO-P's energy", both, known, energy, guiding + bothly)
        self._ordered("chosen, relaxed, by DAO-P's energy", best, known, energy, choosing + bestly)
        self._ordered("with types, by DAO-P's energy", informed, known, energy, informing)
        self._ordered("with types, likeliest first", informed, known, by_likelihood, informing)
        self._ordered("with types, relaxed, by DAO-P's energy", full, known, energy, informing + fully)
        self._ordered("with types, relaxed, likeliest first", full, known, by_likelihood, informing + fully)
        self.known.judge(self.judge, [[one] for one in known], 1)

    def figures(self) -> dict[str, Any]:
        """Everything so far."""
        rows = {name: row.shares() | row.quality() for name, row in self.generation.items()}
        return {
            "references": len(self.ranking["as drawn"].results),
            "samples": self.options.samples,
            "guidance": self.options.guidance,
            "tries": self.options.tries,
            "model": {"generator": self.generator.sampler.name, "weights": self.generator.sampler.fingerprint},
            "known crystals": self.known.quality(),
            "other weights": {name: one.fingerprint for name, one in self.others.items()},
            "generation": rows,
            "ranking": {name: row.shares() for name, row in self.ranking.items()},
            "guided over unguided, processor time": round(
                self.generation["guided"].seconds / self.generation["unguided"].seconds, 2
            ),
        }

    def polymorphs(self, file: Path, count: int) -> dict[str, Any]:
        """For which share of the compositions with two to four references all of them were found, in four ways."""
        everything = references(file, None, self.options.seed)
        sizes = Counter(one.composition.reduced_formula for one in everything)
        chosen = [name for name, size in sizes.items() if 2 <= size <= 4][:count]
        known = [one for one in everything if one.composition.reduced_formula in chosen]
        found: dict[str, Any] = {"compositions": dict(sorted(Counter(str(sizes[name]) for name in chosen).items()))}
        for name, generator, scale in (
            ("unguided", self.generator, 0.0),
            ("guided", self.generator, self.options.guidance),
            ("chosen", self.chooser, 0.0),
            ("with types", self.informed, 0.0),
        ):
            made = predict(generator, known, self.options.samples, self.options.seed, scale)
            found[name] = summarise(compare(made, known, workers=1)).polymorphs
        return found

    def _generated(self, name: str, lists: Lists, known: list[Structure], seconds: float) -> None:
        row = self.generation[name]
        row.results += compare(lists, known, workers=1)
        row.seconds += seconds
        row.judge(self.judge, lists, self.options.judged)

    def _ordered(
        self, name: str, lists: Lists, known: list[Structure], order: Callable[[list[Structure]], list], before: float
    ) -> None:
        row, clock = self.ranking[name], Clock()
        ranked = [order(one) for one in lists]
        row.seconds += before + clock()
        row.results += compare(ranked, known, workers=1)


def draw(figures: dict[str, Any], path: Path) -> None:
    """The rows of both tables as bars: what is stable and what matches, and where in the list the match stands."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    made, ranked = figure.subplots(1, 2)
    for axes, rows, shown in (
        (made, figures["generation"], ("stable share", "all samples", "any")),
        (ranked, figures["ranking"], ("first", "first 3", "any")),
    ):
        places = np.arange(len(rows))
        for number, name in enumerate(shown):
            widths = [100 * row[name] for row in rows.values()]
            axes.barh(
                places + 0.27 * (number - 1), widths, 0.25, label={"all samples": "one sample matches"}.get(name, name)
            )
        axes.set_yticks(places, list(rows), fontsize=7)
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="%")
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures everything and writes benchmarks/results/ablation_BENCHMARK.json."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--benchmark", default="mp_20")
    parser.add_argument("--limit", type=int, default=40, help="references")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time with what there is")
    parser.add_argument("--samples", type=int, default=20, help="samples for each")
    parser.add_argument("--judged", type=int, default=4, help="samples of each reference that are judged")
    parser.add_argument("--polymorphs", type=int, default=12, help="compositions with several references")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--tries", type=int, default=4, help="of the rows that choose")
    parser.add_argument("--weights", help="of another DAO-G")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=WEIGHTS", help="a further row: other weights"
    )
    parser.add_argument("--stability", help="weights of another stability model")
    parser.add_argument("--cache", type=Path, default=Path("runs/ablation/known_energies.json"))
    options = parser.parse_args()
    if options.quick:
        options.limit, options.samples, options.judged, options.polymorphs = 3, 4, 1, 1
    file = find_benchmark(options.benchmark, options.data)
    known = references(file, options.limit, options.seed)
    ablation, started = Ablation(options), time.monotonic()
    for first in range(0, len(known), PART):
        ablation.take(known[first : first + PART], options.seed + first * options.samples)
        figures = ablation.figures()
        print(figures["references"], {name: row["first"] for name, row in figures["ranking"].items()}, flush=True)
        if time.monotonic() - started > 60 * options.minutes:
            break
    if options.polymorphs:
        figures["polymorphs"] = ablation.polymorphs(file, options.polymorphs)
    record(f"ablation_{options.benchmark}", figures, seed=options.seed, packages=("chgnet",))
    if not options.quick:
        draw(figures, Path(__file__).parents[1] / "docs" / "images" / f"ablation_{options.benchmark}.png")


if __name__ == "__main__":
    main()
