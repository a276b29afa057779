"""The first step of a build: every row of every source is read, checked and put into a small shard.

A chunk of rows becomes one shard, in any order and in any process. A shard that exists is complete, so that a build
which was killed continues where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dao_ase.composition import reduced_key
from dao_ase.data.parallel import parallel_map
from dao_ase.data.reading import Source, is_named_after_file, take
from dao_ase.data.records import Record, Rejected, pack, tidy_cell, with_hull_label
from dao_ase.data.shards import ShardError, open_shard, write_shard

CHUNK = 1024
"""Rows in one chunk."""

Formula = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RowRules:
    """What is decided for each crystal alone, without a look at the others."""

    min_atoms: int = 3
    max_atoms: int = 30
    niggli: bool = True
    energy_label: str = ""
    exclude_ids: frozenset[str] = frozenset()
    exclude_formulas: frozenset[Formula] = frozenset()

    def refuse(self, record: Record) -> tuple[str, str] | None:
        """The rule that a crystal breaks and the reason in words, or nothing."""
        count = len(record.atomic_numbers)
        if count < self.min_atoms:
            return "too few atoms", f"{count} atoms; at least {self.min_atoms} are asked for"
        if count > self.max_atoms:
            return "too many atoms", f"{count} atoms; at most {self.max_atoms} are asked for"
        if record.id in self.exclude_ids:
            return "excluded id", f"{record.id!r} is the identifier of an excluded crystal"
        if self.exclude_formulas and reduced_key(record.atomic_numbers.tolist()) in self.exclude_formulas:
            return "excluded formula", "its reduced formula is excluded"
        return None


def stage(sources: Sequence[Source], folder: Path, rules: RowRules, workers: int) -> list[Path]:
    """Reads all sources into shards in ``folder`` and gives their paths, in the order of the rows."""
    paths: list[Path] = []

    def calls() -> Iterator[tuple]:
        for number, (source, namesakes, first, rows) in enumerate(_chunks(sources)):
            paths.append(folder / f"stage-{number:06d}.safetensors")
            if not _is_complete(paths[-1]):
                yield source, namesakes, first, rows, rules, paths[-1]

    for _ in parallel_map(stage_chunk, calls(), workers):
        pass
    return paths


def stage_chunk(source: Source, namesakes: int, first: int, rows: list[Any], rules: RowRules, path: Path) -> None:
    """Turns raw rows into one shard; its notes list what is left out, and what of that still belongs on a convex hull.

    ``namesakes`` is how many earlier sources have the same name: identifiers that are made of it get another number.
    """
    records, rejected, others = [], [], []
    for row, raw in enumerate(rows, start=first):
        result = take(source, row, raw)
        if isinstance(result, Record) and namesakes and is_named_after_file(result):
            result = replace(result, id=f"{namesakes + 1}/{result.id}")
        if isinstance(result, Record) and (refusal := rules.refuse(result)) is not None:
            if rules.energy_label in result.labels:
                others.append([reduced_key(result.atomic_numbers.tolist()), result.labels[rules.energy_label]])
            result = Rejected(result.source, result.row, result.id, *refusal)
        if isinstance(result, Rejected):
            rejected.append(asdict(result))
        else:
            records.append(with_hull_label(tidy_cell(result, rules.niggli)))
    write_shard(path, pack(records), {"rows": len(rows), "rejected": rejected, "others": others})


def _chunks(sources: Sequence[Source]) -> Iterator[tuple[Source, int, int, list[Any]]]:
    seen: Counter[str] = Counter()
    for source in sources:
        rows, first = iter(source.rows()), 0
        while chunk := list(islice(rows, CHUNK)):
            yield source, seen[source.name], first, chunk
            first += len(chunk)
        seen[source.name] += 1


def _is_complete(path: Path) -> bool:
    try:
        open_shard(path)
    except ShardError:
        return False
    return True
