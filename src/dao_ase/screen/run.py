"""A screening from start to end, or from where it was killed to its end.

The process that runs this is the only one that writes: workers hand their outcomes back, and each shard's go into the
database in one transaction. What is not in the database when it starts is what there is to do; nothing else is remembered.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dao_ase import __version__
from dao_ase.composition import Composition
from dao_ase.data.reading import FORMULA_COLUMNS, UNREADABLE, separator, text_of
from dao_ase.database import (
    DATABASE,
    POSTGRESQL,
    SETTINGS,
    Outcome,
    ScreenDatabase,
    now,
    open_screen,
    read_settings,
    without_password,
)
from dao_ase.phase_diagram import Phase
from dao_ase.runs import SUMMARY
from dao_ase.screen.work import ScreenSettings, Shard, run_name, screen_shard
from dao_ase.screen.workers import Workers, worker_died, workers
from dao_ase.whole_files import only_one, write_json

log = logging.getLogger(__name__)

SHARD = 8
"""Compositions in one shard: enough to fill the batches of 20 samples each, few enough to be lost by a kill."""
REMARK = re.compile(r'(?P<quoted>(?:^|(?<=[,;\t]))"(?:[^"]|"")*")|#.*', re.MULTILINE)
"""The rest of a line from # on, outside of cells in quotes."""


@dataclass(frozen=True)
class Summary:
    """How far a screening is."""

    compositions: int
    done: int
    errors: int
    structures: int


def screen(
    compositions: Sequence[str],
    folder: str | Path,
    settings: ScreenSettings | None = None,
    *,
    phases: Sequence[Phase] = (),
    count: int = 1,
    config: str | Path | None = None,
    database: str | None = None,
    shard: int = SHARD,
    progress: bool = False,
    work: Callable[[Shard], list[Outcome]] = screen_shard,
) -> Summary:
    """Screens compositions into the database of a folder; those that it holds already are not screened again.

    ``phases`` are the references of the hull; ``count`` local workers (0: this process) or a Parsl ``config`` file do the
    ``work``; ``database`` is a URL ``postgresql://...``, otherwise the folder's SQLite file holds the rows.
    """
    settings = settings or ScreenSettings()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # where files have no locks, the table of what is done alone guards against two
    with only_one(folder / ".lock", f"another process is screening into {folder}"):
        store = _opened(folder, settings, phases, database)
        wanted = unique(compositions)
        done = {content(line.composition) for line in store.done()}
        waiting = [one for one in wanted if content(one) not in done]
        if config is not None or count > 1:  # local shards begin to shrink when so many are left, see `parts`
            waiting = small_ones_last(waiting, 2 * count * shard if config is None else len(waiting))
        workers_known = count if config is None else 1
        shards = [Shard(part, settings, _competing(part, phases)) for part in parts(waiting, shard, workers_known)]
        if shards:
            bar = _bar(progress, len(wanted), len(wanted) - len(waiting))
            with bar, workers(count, config, folder / "parsl") as pool:
                for outcomes in _results(pool, work, shards):
                    store.write(outcomes)
                    _advance(bar, outcomes)
        return summary(store, wanted)


def summary(store: ScreenDatabase, wanted: Sequence[str]) -> Summary:
    """What the database holds of the compositions that are wanted."""
    contents = set(map(content, wanted))
    lines = [line for line in store.done() if content(line.composition) in contents]
    errors = sum(line.error is not None for line in lines)
    return Summary(len(wanted), len(lines), errors, sum(line.structures for line in lines))


def read_compositions(path: str | Path) -> list[str]:
    """The column ``composition`` (`FORMULA_COLUMNS`) of a CSV, or the first of a file without a header; # begins a comment.

    Columns are separated by commas, or by what spreadsheets write instead: tabs or semicolons in the first line.
    """
    text = "\n".join(text_of(Path(path)).splitlines())
    if UNREADABLE in text:
        raise ValueError(f"{path} is no text in UTF-8; save the table as CSV, in UTF-8")
    lines = REMARK.sub(lambda found: found["quoted"] or "", text).splitlines()
    first = next((line for line in lines if line.strip()), "")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator(first))]
    rows = [row for row in rows if any(row)]
    header = [cell.lower() for cell in rows[0]] if rows else []
    column = next((header.index(name) for name in FORMULA_COLUMNS if name in header), None)
    if column is not None:
        rows = rows[1:]
    elif not any(num_atoms(row[0]) for row in rows):  # a header of other columns, or no table of formulas at all
        rows = []
    cells = [cell for row in rows for cell in row if cell]
    if column is None and len(cells) > len(rows) and all(map(num_atoms, cells)):
        raise ValueError(
            f"{path} has several formulas in a line and no header that says which are meant; write one formula a line, "
            "or a CSV with a column 'composition'"
        )
    place = column or 0
    found = [row[place] for row in rows if len(row) > place and row[place]]
    if not found:
        raise ValueError(f"{path} names no composition; write one formula a line, or a CSV with a column 'composition'")
    return found


def unique(compositions: Iterable[str]) -> list[str]:
    """Formulas in one spelling, each content of a cell once; what is no formula stays, and becomes a row with its error."""
    found: dict[Hashable, str] = {}
    for text in compositions:
        with suppress(ValueError):
            text = Composition.parse(text).formula
        found.setdefault(content(text), text)
    return list(found.values())


def parts(compositions: Sequence[str], largest: int, count: int) -> Iterator[tuple[str, ...]]:
    """Shards of at most ``largest`` compositions; of several workers none shall wait long for the last, so they shrink.

    >>> [len(part) for part in parts(["Na"] * 16, 8, 2)]
    [4, 3, 3, 2, 1, 1, 1, 1]
    """
    if largest < 1:
        raise ValueError(f"shards of {largest} compositions; give at least 1")
    first = 0
    while first < len(compositions):
        share = math.ceil((len(compositions) - first) / (2 * count)) if count > 1 else largest
        yield tuple(compositions[first : first + min(largest, share)])
        first += min(largest, share)


def small_ones_last(compositions: Sequence[str], count: int) -> list[str]:
    """The given order, but the ``count`` smallest cells at the end, the larger of them first.

    Several workers end together when what they end with is short. What is no formula is shortest.

    >>> small_ones_last(["NaCl", "Na20Cl20", "Si", "MgO", "Mg8O8"], 3)
    ['Na20Cl20', 'Mg8O8', 'NaCl', 'MgO', 'Si']
    """
    sizes = [num_atoms(one) for one in compositions]
    places = sorted(range(len(sizes)), key=lambda place: -sizes[place])  # equals keep their order
    first = sorted(places[: max(len(places) - count, 0)])
    return [compositions[place] for place in [*first, *places[len(first) :]]]


def num_atoms(formula: str) -> int:
    """Atoms in a formula; none where it is no formula."""
    try:
        return Composition.parse(formula).num_atoms
    except ValueError:
        return 0


def content(formula: str) -> Hashable:
    """What is equal for formulas of the same cell, like NaCl and ClNa; the text itself where it is no formula."""
    try:
        return frozenset(Composition.parse(formula).counts)
    except ValueError:
        return formula


def _opened(folder: Path, settings: ScreenSettings, phases: Sequence[Phase], database: str | None) -> ScreenDatabase:
    """The database of the folder, which is this run's own."""
    run = run_name(settings, phases)
    location = database or DATABASE
    if "://" in location and not location.startswith(POSTGRESQL):
        raise ValueError(f"{location!r} is no postgresql://...; give such a URL, or the name of an SQLite file")
    path = folder / SETTINGS
    begun = read_settings(path) if path.is_file() else None
    if begun is not None and begun["database"] != without_password(location):
        raise ValueError(f"{folder} writes to {begun['database']}, not to {without_password(location)}")
    if begun is not None and begun["run"] != run:
        _refuse_another(folder, begun["settings"], settings, database)
    if begun is None and (folder / SUMMARY).is_file():
        raise ValueError(f"{folder} holds structures of dao-ase generate; give another folder")
    store = ScreenDatabase(location if location.startswith(POSTGRESQL) else folder / location, run)
    # only now: a database that cannot be opened shall not be the folder's for good
    if begun is None or begun["run"] != run:
        write_json(path, {
            "run": run, "database": without_password(location), "settings": asdict(settings),
            "references": len(phases), "begun": now(), "dao-ase": __version__,
        })  # fmt: skip
    return store


def _refuse_another(folder: Path, begun: Mapping[str, Any], settings: ScreenSettings, database: str | None) -> None:
    """Raises `ValueError`, which names the settings that differ, where a folder of another run holds any result."""
    if not open_screen(folder, database).done():
        return
    asked = json.loads(json.dumps(asdict(settings)))
    if unknown := [name for name in asked if name not in begun]:
        raise ValueError(
            f"{folder} holds a screening by an earlier dao-ase, which knew no {', '.join(unknown)}; its results "
            "stay readable, but it cannot be continued: give another folder"
        )
    changed = [name for name, value in asked.items() if name != "device" and begun[name] != value]  # see `run_name`
    raise ValueError(
        f"{folder} holds a screening with other {', '.join(changed) or 'weights or references'}; "
        "continue it as it was begun, or give another folder"
    )


def elements_of(formula: str) -> frozenset[str]:
    """The symbols in a formula; none where it is no formula."""
    try:
        return frozenset(symbol for symbol, _ in Composition.parse(formula).counts)
    except ValueError:
        return frozenset()


def _competing(compositions: Iterable[str], phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The phases in the chemical systems of a shard: the others would only travel."""
    systems = [elements_of(one) for one in compositions]
    return tuple(phase for phase in phases if any(phase.elements <= system for system in systems))


def _results(pool: Workers, work: Callable[[Shard], list[Outcome]], shards: Sequence[Shard]) -> Iterator[list[Outcome]]:
    """The outcomes of each shard as it ends. A shard whose worker died is tried again, composition by composition."""
    waiting = deque(shards)
    running: dict[Future, Shard] = {}
    while waiting or running:
        while waiting and (pool.window is None or len(running) < pool.window):
            part = waiting.popleft()
            running[pool.submit(work, part)] = part
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            part = running.pop(future)
            error = future.exception()
            if error is None:
                yield future.result()
            elif not worker_died(error):
                raise error
            elif len(part.compositions) > 1:
                log.warning("a worker died with %d compositions, which are tried one by one", len(part.compositions))
                waiting += [Shard((one,), part.settings, part.phases) for one in part.compositions]
            else:
                yield [Outcome(part.compositions[0], error=f"its worker died twice: {error}")]


def _bar(progress: bool, total: int, done: int) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, initial=done, desc="screening", unit="composition", smoothing=0.05, disable=not progress,
    )  # fmt: skip


def _advance(bar: Any, outcomes: Sequence[Outcome]) -> None:
    bar.structures = getattr(bar, "structures", 0) + sum(len(one.structures) for one in outcomes)
    bar.errors = getattr(bar, "errors", 0) + sum(one.error is not None for one in outcomes)
    bar.set_postfix(structures=bar.structures, errors=bar.errors, refresh=False)
    bar.update(len(outcomes))
