"""DAO-G on a published benchmark: sampled and matched part by part, so that an interrupted run continues."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase import checkpoint
from dao_ase.cell_sampler import prototype_ranks
from dao_ase.cells import seed_of
from dao_ase.composition import Composition, reduced_key
from dao_ase.convert import from_structures
from dao_ase.data.reading import given_ids
from dao_ase.data.records import Rejected
from dao_ase.data.sources import open_source, read
from dao_ase.evaluate import PairResult, ReferenceResult, compare, summarise
from dao_ase.generator import DAOGenerator
from dao_ase.rank import ranked_groups
from dao_ase.whole_files import only_one, write_json, write_text

if TYPE_CHECKING:
    from pymatgen.core import Structure

logger = logging.getLogger(__name__)

FILES = {
    "mp_20": ("mp_20/test.csv", "mp20_test.csv", "mp20_test.npz", "mp20_test_a.npz"),
    "mpts_52": ("mpts_52/test.csv", "mpts52_test.csv", "mpts52_test.npz", "mpts52_test_a.npz"),
    "perov_5": ("perov_5/test.csv", "perov5_test.csv", "perov5_test.npz"),
    "carbon_24": ("carbon_24/test.csv", "carbon24_test.csv", "carbon24_test.npz"),
}
"""Under which names the test set of a benchmark is looked for."""

PART = 256
"""References that are sampled, matched and saved together, and the polymorphs of the last of them."""
SIZES = (8, 20, 30, 1_000_000)
"""Atoms in the largest cell of each range that is reported by itself."""


def find_benchmark(name: str, folder: Path) -> Path:
    """The test file of a benchmark in ``folder``, or the file or folder of this name itself."""
    for candidate in FILES.get(name, ()):  # first of all: the folder mp_20/ may be beside the user
        if (folder / candidate).exists():
            return folder / candidate
    if Path(name).exists():
        return Path(name)
    if name not in FILES:
        raise ValueError(f"{name!r} is neither a file nor one of the benchmarks {', '.join(FILES)}")
    raise ValueError(
        f"no test file of {name} in {str(folder)!r}; looked for {', '.join(FILES[name])} (--data names a folder)"
    )


def run_benchmark(
    generator: DAOGenerator,
    file: Path,
    folder: Path,
    *,
    samples: int = 1,
    limit: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
    seen: Path | None = None,
    guidance: float = 0.0,
) -> dict[str, Any]:
    """Evaluates the generator on the crystals of ``file`` and writes ``report.json`` and ``match.png`` into ``folder``.

    Several samples of a crystal come in the order in which ``generate`` ranks them, without relaxation.
    Crystals whose identifier is in ``seen``, a set that was trained on, are left out. Results of finished parts
    are kept in ``results.jsonl``; calling again with the same settings continues there.
    """
    from tqdm import tqdm

    if samples < 1 or (limit is not None and limit < 1):
        raise ValueError(f"samples is {samples} and limit {limit}; both must be at least 1")
    first_seed = seed_of(seed)
    sampler = generator.sampler
    sampler.guide(guidance)  # refuses what cannot be, before results of other settings are put aside
    known = identifiers(seen) if seen else frozenset()
    unreadable: list[Rejected] = []
    reference = references(file, limit, seed, known, unreadable.append)
    problems = [_unfit(generator, one) for one in reference]
    left_out = dict(Counter(problem for problem in problems if problem is not None))
    left_out |= Counter(f"a row that cannot be read ({one.rule})" for one in unreadable)
    reference = [one for one, problem in zip(reference, problems, strict=True) if problem is None]
    if not reference:
        raise ValueError(f"DAO-G can make no crystal of {str(file)!r}: {left_out}")
    settings = {
        "file": file.name, "references": len(reference), "crystals": _digest(reference), "samples": samples, "seed": seed,
        "sampler": asdict(sampler.settings), "tries": sampler.tries_of(samples), "guidance": guidance,
        "model": sampler.name, "weights": sampler.fingerprint,
    }  # fmt: skip
    if sampler.library:
        settings["prototypes"] = len(sampler.library)
    if sampler.library or guidance or max(samples, sampler.tries_of(samples)) > 1:  # DAO-P has a say
        settings["chosen by"] = checkpoint.checksum(checkpoint.load(checkpoint.default_weights("dao_p"))[0])[:8]
    if seen:
        settings["unseen by"] = seen.name
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / ".lock", f"another process is evaluating into {folder}"):
        results, seconds = _resume(folder / "results.jsonl", settings)
        with tqdm(total=len(reference), initial=len(results), unit="crystal", disable=not progress) as bar:
            while len(results) < len(reference):
                began, start = time.monotonic(), len(results)
                part = _next_part(reference, start)
                made = predict(generator, part, samples, first_seed + start * samples, guidance)
                made = ranked_groups(made, "likely") if samples > 1 else made
                found = compare(made, part, workers=workers)
                seconds += time.monotonic() - began
                with (folder / "results.jsonl").open("a") as log:
                    log.write(json.dumps({"seconds": seconds, "results": [asdict(one) for one in found]}) + "\n")
                results += found
                bar.update(len(found))
                bar.set_postfix_str(f"matched {summarise(results).match_rate:.3f}")
    sizes = [len(one) for one in reference]
    report = summarise(results).to_dict() | {
        "by_atoms": by_atoms(results, sizes), "seconds": round(seconds, 1), "settings": settings, "left_out": left_out,
    }  # fmt: skip
    write_json(folder / "report.json", report)
    plot_matches(results, sizes, folder / "match.png")
    return report


def _next_part(reference: list[Structure], start: int) -> list[Structure]:
    """The next `PART` references, and as many more as have the composition of the last."""
    end = min(start + PART, len(reference))
    last = reduced_key(reference[end - 1].atomic_numbers)
    while end < len(reference) and reduced_key(reference[end].atomic_numbers) == last:
        end += 1
    return reference[start:end]


def _unfit(generator: DAOGenerator, reference: Structure) -> str | None:
    """Why DAO-G cannot make such a crystal, or None where it can."""
    if len(reference) > generator.max_atoms:
        return f"more than {generator.max_atoms} atoms"
    unknown = {site.specie.symbol for site in reference} - set(generator.elements)
    return f"untrained elements {', '.join(sorted(unknown))}" if unknown else None


def by_atoms(results: list[ReferenceResult], num_atoms: list[int]) -> dict[str, dict[str, Any]]:
    """How many references of each range of sizes (`SIZES`) there are, and which share of them was matched."""
    hits = np.array([any(result.rmse is not None for result in one.own) for one in results])
    sizes = np.array(num_atoms)
    found = {}
    for first, last in zip((1, *(size + 1 for size in SIZES[:-1])), SIZES, strict=True):
        chosen = (sizes >= first) & (sizes <= last)
        if chosen.any():
            name = f"{first}-{last}" if last < SIZES[-1] else f"{first} and more"
            found[name] = {"references": int(chosen.sum()), "match_rate": round(float(hits[chosen].mean()), 4)}
    return found


def plot_matches(results: list[ReferenceResult], num_atoms: list[int], path: Path) -> None:
    """Match rate by number of atoms, and by how many samples are looked at."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    by_size, by_count = figure.subplots(1, 2)
    hits = [[result.rmse is not None for result in one.own] for one in results]
    hit = np.array([any(row) for row in hits])
    sizes = np.array(num_atoms)
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, 9)).round())
    places = np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, max(len(edges) - 2, 0))
    shown = [place for place in range(len(edges)) if (places == place).any()]
    by_size.plot([sizes[places == p].mean() for p in shown], [100 * hit[places == p].mean() for p in shown], "o-")
    by_size.set(xlabel="atoms in the cell", ylabel="matched (%)", ylim=(0, 100))
    most = max(len(row) for row in hits)
    rates = [100 * np.mean([any(row[:count]) for row in hits]) for count in range(1, most + 1)]
    by_count.plot(range(1, most + 1), rates, "o-")
    by_count.set(xlabel="samples", ylabel="matched by any (%)", ylim=(0, 100))
    figure.savefig(path, dpi=120)


def predict(
    generator: DAOGenerator, reference: list[Structure], samples: int, seed: int, guidance: float = 0.0
) -> list[list[Structure]]:
    """``samples`` structures with the atoms of each reference."""
    cells = [Composition.from_atomic_numbers(one.atomic_numbers) for one in reference for _ in range(samples)]
    ranks = [prototype_ranks(place, samples) for _ in reference for place in range(samples)]
    made = generator.sampler.sample_cells(cells, range(seed, seed + len(cells)), guidance, count=samples, ranks=ranks)
    return [made[start : start + samples] for start in range(0, len(made), samples)]


def identifiers(file: Path) -> frozenset[str]:
    """The identifiers of the crystals of a file, but for those that are made of its name and their row."""
    unread: list[Rejected] = []
    found = list(read(open_source(file), unread.append))
    if not found:
        raise ValueError(f"{str(file)!r} holds no crystal that can be read: {unread[0].reason}")
    if not (known := given_ids([*found, *unread])):
        raise ValueError(
            f"the crystals of {str(file)!r} have no identifiers, by which those of a benchmark are left out"
        )
    return known


def references(
    file: Path,
    limit: int | None,
    seed: int,
    seen: frozenset[str] = frozenset(),
    on_reject: Callable[[Rejected], None] | None = None,
) -> list[Structure]:
    """The crystals of a file in random order, but all of one composition together; without those that were ``seen``.

    A row that cannot be read is handed to ``on_reject``, or logged.
    """
    from pymatgen.core import Structure

    rejected: list[Rejected] = []
    records = [one for one in read(open_source(file), rejected.append) if one.id not in seen]
    for row in rejected:
        (on_reject or _log)(row)
    if not records:
        first = f"; row {rejected[0].row}: {rejected[0].reason}" if rejected else ""
        raise ValueError(f"{str(file)!r} holds no crystal that can be read" + " and was not seen" * bool(seen) + first)
    polymorphs: dict[Any, list[Structure]] = {}
    for one in records:
        structure = Structure(one.lattice, one.atomic_numbers.tolist(), one.frac_coords)
        polymorphs.setdefault(reduced_key(one.atomic_numbers), []).append(structure)
    groups = list(polymorphs.values())
    order = np.random.default_rng(seed).permutation(len(groups))  # so that a part is a random sample
    return [structure for index in order for structure in groups[index]][:limit]


def _log(one: Rejected) -> None:
    logger.warning("%s, row %d (%s): %s", one.source, one.row, one.id, one.reason)


def _resume(log: Path, settings: dict[str, Any]) -> tuple[list[ReferenceResult], float]:
    """Finished results of an earlier run with the same settings; a broken tail is cut off, a log of others put aside."""
    lines = log.read_text().splitlines() if log.exists() else []
    kept: list[str] = []
    results: list[ReferenceResult] = []
    seconds = 0.0
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if number == 0:
            if entry != settings:
                log.replace(aside := _unused(log.with_name("results.before.jsonl")))
                logger.warning("%s is of other settings and now called %s", log, aside.name)
                break
        else:
            results += [_result(one) for one in entry["results"]]
            seconds = entry["seconds"]
        kept.append(line)
    write_text(log, "".join(line + "\n" for line in kept or [json.dumps(settings)]))
    return results, seconds


def _unused(path: Path) -> Path:
    """This path, or the first with a number that no file has: what was computed once is not overwritten."""
    numbered = (path.with_suffix(f".{number}{path.suffix}") for number in count(2))
    return next(name for name in chain([path], numbered) if not name.exists())


def _digest(reference: list[Structure]) -> str:
    """Eight hexadecimal digits that tell these crystals from others: files of two benchmarks may have one name."""
    return checkpoint.checksum(vars(from_structures(reference)))[:8]


def _result(entry: dict[str, Any]) -> ReferenceResult:
    own, others = ([PairResult(**pair) for pair in entry[name]] for name in ("own", "others"))
    return ReferenceResult(entry["composition"], own, others)
