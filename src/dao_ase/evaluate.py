"""How good predicted crystals are: match rate, RMSE and validity, as the published benchmarks count them.

A prediction matches when pymatgen's `StructureMatcher` (ltol 0.3, stol 0.5, angle_tol 10) maps it onto the reference;
RMSE is its root mean square distance divided by (V/N)^⅓. "Filtered" rates count only predictions that pass `is_valid`;
published tables differ in this by about six points, so both are given.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import current_process, get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.composition import reduced_key
from dao_ase.gates import MIN_DISTANCE, is_finite, shortest_distance
from dao_ase.spawning import end_with_parent, without_main

if TYPE_CHECKING:
    from pymatgen.core import Structure

MATCHER: dict[str, Any] = {"ltol": 0.3, "stol": 0.5, "angle_tol": 10}
"""Tolerances of the published benchmarks."""

MIN_VOLUME = 0.1
"""Å³; with the shortest distance of the gates, what the benchmarks take for a valid structure."""


@dataclass(frozen=True)
class PairResult:
    """One prediction against its reference."""

    rmse: float | None  # None: no match
    valid: bool
    timed_out: bool = False


@dataclass(frozen=True)
class ReferenceResult:
    """Everything that was predicted for the composition of one reference."""

    composition: str  # the reduced formula; references that share it are polymorphs
    own: list[PairResult]  # predictions made for this reference, in order
    others: list[PairResult]  # predictions made for its polymorphs


@dataclass(frozen=True)
class Report:
    """Match rates (shares of all references) and RMSE (mean over matched references).

    METRe and cRMSE look for a match of each reference among all predictions of its composition, also those that were made
    for its polymorphs, and cRMSE counts an unmatched reference with stol. ``polymorphs`` says, for compositions with two,
    three and four references, for which share of them all were found.
    """

    references: int
    samples: int  # predictions for each reference
    match_rate: float  # a reference counts as matched when any of its predictions matches
    rmse: float
    match_rate_filtered: float
    rmse_filtered: float
    first_match_rate: float  # of the first prediction alone: what a user sees
    first_rmse: float
    metre: float
    crmse: float
    polymorphs: dict[str, float | None]
    valid_share: float
    timed_out: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        return {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(self).items()}


def is_valid(structure: Structure) -> bool:
    """Shortest distance > 0.5 Å, volume ≥ 0.1 Å³, and a composition that SMACT accepts."""
    amounts = structure.composition.element_composition.as_dict()
    return _is_sane(structure) and is_charge_neutral(tuple(sorted(amounts.items())))


def match(predicted: Structure, reference: Structure) -> float | None:
    """RMSE of the best mapping, in units of (V/N)^⅓, or None when there is none."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    if not is_finite(predicted):
        return None
    if reduced_key(predicted.atomic_numbers) != reduced_key(reference.atomic_numbers):
        return None
    if abs(predicted.volume) < MIN_VOLUME:
        return None
    distance = StructureMatcher(**MATCHER).get_rms_dist(_of_elements(predicted), _of_elements(reference))
    return None if distance is None else float(distance[0])


def evaluate(
    predicted: Sequence[Structure | Sequence[Structure]],
    reference: Sequence[Structure],
    *,
    workers: int | None = None,
    timeout: float = 20.0,
    on_pair: Callable[[], None] | None = None,
) -> Report:
    """How well predictions match: one structure for each reference, or a list of samples for each.

    Matched in ``workers`` processes, by default one for each core, or in this one where it is a worker of a pool that may
    not have any; a pair slower than ``timeout`` s is no match.

    >>> from pymatgen.core import Lattice, Structure
    >>> salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> evaluate([salt], [salt]).match_rate
    1.0
    """
    from pymatgen.core import IStructure

    samples = [[one] if isinstance(one, IStructure) else list(one) for one in predicted]
    return summarise(compare(samples, reference, workers=workers, timeout=timeout, on_pair=on_pair))


def compare(
    predicted: Sequence[Sequence[Structure]],
    reference: Sequence[Structure],
    *,
    workers: int | None = None,
    timeout: float = 20.0,
    on_pair: Callable[[], None] | None = None,
) -> list[ReferenceResult]:
    """Matches each reference with its own predictions, and with those of its polymorphs."""
    if len(predicted) != len(reference):
        raise ValueError(f"{len(predicted)} lists of predictions for {len(reference)} references")
    for place, (guesses, truth) in enumerate(zip(predicted, reference, strict=True)):
        if not all(one.is_ordered for one in (truth, *guesses)):
            raise ValueError(
                f"reference {place} ({truth.composition.reduced_formula}) or a prediction of it has partly occupied sites; "
                "give ordered structures"
            )
    compositions = [truth.composition.element_composition.reduced_formula for truth in reference]
    alike: dict[str, list[int]] = {}
    for index, composition in enumerate(compositions):
        alike.setdefault(composition, []).append(index)
    others = [
        [guess for other in alike[composition] if other != index for guess in predicted[other]]
        for index, composition in enumerate(compositions)
    ]
    pairs = [
        (guess, truth) for truth, own, more in zip(reference, predicted, others, strict=True) for guess in (*own, *more)
    ]
    flat = iter(match_all(pairs, workers=workers, timeout=timeout, on_pair=on_pair))
    return [
        ReferenceResult(composition, [next(flat) for _ in own], [next(flat) for _ in more])
        for composition, own, more in zip(compositions, predicted, others, strict=True)
    ]


def match_all(
    pairs: Sequence[tuple[Structure, Structure]],
    *,
    workers: int | None = None,
    timeout: float = 20.0,
    on_pair: Callable[[], None] | None = None,
) -> Iterator[PairResult]:
    """The result of each (prediction, reference), in order; a pair slower than ``timeout`` s is no match."""
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout} s; it must be above 0")
    most = 1 if current_process().daemon else os.cpu_count() or 1  # a daemon must not have processes of its own
    workers = min(workers or most, len(pairs))
    jobs = [(predicted, reference, timeout) for predicted, reference in pairs]
    if workers <= 1:
        yield from _reported(map(_match_within, jobs), on_pair)
        return
    with ProcessPoolExecutor(workers, get_context("forkserver"), end_with_parent) as pool:
        with without_main():
            results = pool.map(_match_within, jobs, chunksize=16)
        yield from _reported(results, on_pair)


def _reported(results: Iterable[PairResult], on_pair: Callable[[], None] | None) -> Iterator[PairResult]:
    for result in results:
        if on_pair is not None:
            on_pair()
        yield result


def summarise(results: Sequence[ReferenceResult]) -> Report:
    """The report of what was found for each reference."""
    if not results:
        raise ValueError("there is nothing to report on: no reference was evaluated")
    best = [_best(one.own) for one in results]
    valid = [_best([result for result in one.own if result.valid]) for one in results]
    first = [_best(one.own[:1]) for one in results]
    anyhow = [_best([*one.own, *one.others]) for one in results]
    everything = [result for one in results for result in one.own]
    return Report(
        references=len(results),
        samples=max(len(one.own) for one in results),
        match_rate=_share(best),
        rmse=_mean(best),
        match_rate_filtered=_share(valid),
        rmse_filtered=_mean(valid),
        first_match_rate=_share(first),
        first_rmse=_mean(first),
        metre=_share(anyhow),
        crmse=float(np.mean([MATCHER["stol"] if rmse is None else rmse for rmse in anyhow])),
        polymorphs={str(count): _all_found([one.composition for one in results], anyhow, count) for count in (2, 3, 4)},
        valid_share=float(np.mean([result.valid for result in everything])) if everything else 0.0,
        timed_out=sum(result.timed_out for result in everything),
    )


def is_charge_neutral(counts: tuple[tuple[str, float], ...]) -> bool:
    """SMACT's test: some choice of known oxidation states is neutral, with the more electronegative ones negative.

    Elements alone and alloys of metals pass, as in the published benchmarks. Oxidation states and Pauling
    electronegativities are pymatgen's.
    """
    from pymatgen.core import Element

    elements = [Element(symbol) for symbol, _ in counts]
    amounts = [round(amount) for _, amount in counts]
    if len(elements) == 1 or all(element.is_metal for element in elements):
        return True
    divisor = math.gcd(*amounts)
    amounts = [amount // divisor for amount in amounts]
    for states in product(*(element.oxidation_states or (0,) for element in elements)):
        if sum(state * amount for state, amount in zip(states, amounts, strict=True)) == 0:
            negative = [element.X for element, state in zip(elements, states, strict=True) if state < 0]
            positive = [element.X for element, state in zip(elements, states, strict=True) if state > 0]
            if not negative or not positive or max(positive) <= min(negative):
                return True
    return False


class _TimeOut(Exception):
    """Raised inside a pair that takes too long."""


def _match_within(pair: tuple[Structure, Structure, float]) -> PairResult:
    predicted, reference, timeout = pair
    try:
        with _alarm(timeout):
            return PairResult(match(predicted, reference), is_valid(predicted))
    except _TimeOut:
        return PairResult(None, _is_sane(predicted), timed_out=True)


@contextmanager
def _alarm(timeout: float) -> Iterator[None]:
    """Raises `_TimeOut` after so many seconds; outside of the main thread, where Python has no alarms, never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGALRM, _raise_time_out)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _raise_time_out(signum: int, frame: object) -> None:
    raise _TimeOut


def _of_elements(structure: Structure) -> Structure:
    """The structure without oxidation states, which the matcher would compare."""
    if any(getattr(specie, "oxi_state", None) is not None for specie in structure.composition):
        return structure.copy().remove_oxidation_states()
    return structure


def _is_sane(structure: Structure) -> bool:
    if not is_finite(structure) or abs(structure.volume) < MIN_VOLUME:
        return False
    return shortest_distance(structure) > MIN_DISTANCE


def _best(row: Sequence[PairResult]) -> float | None:
    return min((result.rmse for result in row if result.rmse is not None), default=None)


def _all_found(compositions: Sequence[str], best: Sequence[float | None], count: int) -> float | None:
    """The share of compositions with ``count`` references all of which are matched; None where there is none."""
    found: dict[str, list[bool]] = {}
    for composition, rmse in zip(compositions, best, strict=True):
        found.setdefault(composition, []).append(rmse is not None)
    groups = [group for group in found.values() if len(group) == count]
    return sum(map(all, groups)) / len(groups) if groups else None


def _share(values: Sequence[float | None]) -> float:
    return sum(value is not None for value in values) / len(values)


def _mean(values: Sequence[float | None]) -> float:
    matched = [value for value in values if value is not None]
    return float(np.mean(matched)) if matched else math.nan
