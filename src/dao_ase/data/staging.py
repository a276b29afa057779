"""The first step of a build: every row of every source is read, checked and put into a small shard.

A chunk of rows becomes one shard, in any order and in any process. A shard that exists is complete, so that a build
which was killed continues where it stopped.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dao_ase.composition import reduced_key
from dao_ase.data.records import Record, Rejected, pack, tidy_cell
from dao_ase.data.shards import ShardError, open_shard, write_shard
from dao_ase.data.sources import Source, take

CHUNK = 1024
"""Rows in one chunk."""

Key = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RowRules:
    """What is decided for each crystal alone, without a look at the others."""

    min_atoms: int = 3
    max_atoms: int = 30
    niggli: bool = True
    exclude_ids: frozenset[str] = frozenset()
    exclude_formulas: frozenset[Key] = frozenset()
    only_ids: frozenset[str] | None = None

    def refuse(self, record: Record) -> tuple[str, str] | None:
        """The rule that a crystal breaks and the reason in words, or nothing."""
        count = len(record.atomic_numbers)
        if count < self.min_atoms:
            return "too few atoms", f"{count} atoms; at least {self.min_atoms} are asked for"
        if count > self.max_atoms:
            return "too many atoms", f"{count} atoms; at most {self.max_atoms} are asked for"
        if self.only_ids is not None and record.id not in self.only_ids:
            return "not in the split", f"{record.id!r} is not among the ids asked for"
        if record.id in self.exclude_ids:
            return "excluded id", f"{record.id!r} is the identifier of an excluded crystal"
        if self.exclude_formulas and reduced_key(record.atomic_numbers.tolist()) in self.exclude_formulas:
            return "excluded formula", "its reduced formula is excluded"
        return None


def stage(sources: Sequence[Source], folder: Path, rules: RowRules, workers: int) -> list[Path]:
    """Reads all sources into shards in ``folder`` and gives their paths, in the order of the rows."""
    paths: list[Path] = []
    pending: set[Future] = set()
    with _pool(workers) as pool:
        for number, (source, first, rows) in enumerate(_chunks(sources)):
            paths.append(folder / f"stage-{number:06d}.safetensors")
            if _is_complete(paths[-1]):
                continue
            if pool is None:
                stage_chunk(source, first, rows, rules, paths[-1])
                continue
            pending.add(pool.submit(stage_chunk, source, first, rows, rules, paths[-1]))
            if len(pending) > 2 * workers:  # the rest of the file stays on the disk
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in pending:
            future.result()
    return paths


def stage_chunk(source: Source, first: int, rows: list[Any], rules: RowRules, path: Path) -> None:
    """Turns raw rows into one shard; what is left out is listed in its notes."""
    records, rejected = [], []
    for row, raw in enumerate(rows, start=first):
        result = take(source, row, raw)
        if isinstance(result, Record) and (refusal := rules.refuse(result)) is not None:
            result = Rejected(result.source, result.row, result.id, *refusal)
        if isinstance(result, Rejected):
            rejected.append(asdict(result))
        else:
            records.append(tidy_cell(result, rules.niggli))
    write_shard(path, pack(records), {"rows": len(rows), "rejected": rejected})


def _chunks(sources: Sequence[Source]) -> Iterator[tuple[Source, int, list[Any]]]:
    for source in sources:
        rows, first = iter(source.rows()), 0
        while chunk := list(islice(rows, CHUNK)):
            yield source, first, chunk
            first += len(chunk)


def _is_complete(path: Path) -> bool:
    try:
        open_shard(path)
    except ShardError:
        return False
    return True


class _Serial:
    """No pool: the work is done where it arises."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _pool(workers: int) -> ProcessPoolExecutor | _Serial:
    if workers <= 1:
        return _Serial()
    # Spawned, not forked: a fork of a process in which torch has threads may hang.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
