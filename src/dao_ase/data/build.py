"""Builds a store of crystals from sources by the rules of the DAO paper; an interrupted build resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase import __version__
from dao_ase.composition import Composition, reduced_key
from dao_ase.data.reading import Source, given_ids, read
from dao_ase.data.records import Record, Rejected
from dao_ase.data.selection import Selection
from dao_ase.data.shards import open_shard, write_shard
from dao_ase.data.sources import open_source
from dao_ase.data.staging import RowRules, stage
from dao_ase.data.store import FORMAT, INDEX, VERSION, CrystalStore, discard_leftovers
from dao_ase.whole_files import write_json, write_text

logger = logging.getLogger(__name__)

SHARD = 1 << 16
"""Crystals in one shard of a finished store."""
WORK = ".build-"
"""Beginning of the names of folders in a store for what a build has read; it ends with a key of sources and rules."""
STABLE = 0.08
"""eV/atom above the hull; up to here the paper calls a crystal stable."""


@dataclass(frozen=True)
class BuildRules:
    """What goes into a store. The values are those of the paper, but for what is excluded."""

    min_atoms: int = 3
    max_atoms: int = 30
    max_e_hull: float | None = 1.0  # eV/atom; crystals whose energy is unknown are kept
    energy_label: str = "formation_energy_per_atom"  # eV/atom; the hull is built from it where e_above_hull is missing
    deduplicate: bool = True
    niggli: bool = True
    exclude: tuple[str, ...] = ()  # files whose crystals are left out, by identifier and by structure
    exclude_formulas: tuple[str, ...] = ()  # also in multiples: Cr3Os excludes Cr6Os2

    def row_rules(self, excluded: Sequence[Record | Rejected]) -> RowRules:
        """The part that is decided for each crystal alone."""
        return RowRules(
            self.min_atoms,
            self.max_atoms,
            self.niggli,
            self.energy_label,
            given_ids(excluded),
            frozenset(reduced_key(Composition.parse(formula).atomic_numbers) for formula in self.exclude_formulas),
        )


def build(sources: Sequence[Source], path: str | Path, rules: BuildRules, workers: int = 1) -> CrystalStore:
    """Builds a store, or finishes one that was interrupted; ``path`` must be free or hold the same build."""
    path = Path(path)
    plan = {
        "dao_ase": __version__,
        "rules": asdict(rules),
        "sources": [{"name": source.name, "fingerprint": source.fingerprint()} for source in sources],
        "excluded": [open_source(file).fingerprint() for file in rules.exclude],
    }
    key = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    if (path / INDEX).is_file():
        store = CrystalStore.open(path)
        if store.about.get("key") == key:
            discard_leftovers(path, WORK)
            return store
        raise FileExistsError(f"{str(path)!r} holds another store; give another folder or delete it")
    excluded, unread = _excluded(rules.exclude)
    work = path / f"{WORK}{key}"
    work.mkdir(parents=True, exist_ok=True)
    logger.info("reading %s", ", ".join(source.name for source in sources))
    shards = [open_shard(file) for file in stage(sources, work, rules.row_rules([*excluded, *unread]), workers)]
    if not shards:
        shutil.rmtree(work)
        raise ValueError(f"no row to read in {', '.join(source.name for source in sources)}; is it complete?")
    notes = [note for _, note in shards]
    staged = CrystalStore(work, [columns for columns, _ in shards], {})
    selection = _select(staged, notes, rules, excluded, workers)
    left_out = [entry for note in notes for entry in note["rejected"]] + selection.left_out()
    chosen = np.flatnonzero(selection.keep)
    counts = {
        "read": sum(note["rows"] for note in notes),
        "kept": len(chosen),
        "left out": dict(Counter(entry["rule"] for entry in left_out).most_common()),
    }
    if not len(chosen):
        shutil.rmtree(work)
        first = (
            f"; the first: {left_out[0]['source']}, row {left_out[0]['row']}: {left_out[0]['reason']}"
            if left_out
            else ""
        )
        raise ValueError(f"none of the {counts['read']} crystals can be kept: {counts['left out']}{first}")
    _finish(path, selection, left_out, {"key": key, **plan, "counts": counts})
    discard_leftovers(path, WORK)
    return CrystalStore.open(path)


def _excluded(files: Sequence[str]) -> tuple[list[Record], list[Rejected]]:
    """The crystals to be left out, and the rows whose structure cannot be read, of which the identifier still counts."""
    excluded: list[Record] = []
    unread: list[Rejected] = []
    for file in files:
        refused: list[Rejected] = []
        found = list(read(open_source(file), refused.append))
        if not found:
            raise ValueError(f"{file!r} holds no crystal to leave out that can be read: {refused[0].reason}")
        for row in refused:
            logger.warning("%s, row %d (%s), is left out by its id alone: %s", row.source, row.row, row.id, row.reason)
        excluded, unread = excluded + found, unread + refused
    return excluded, unread


def _select(
    staged: CrystalStore, notes: list[dict[str, Any]], rules: BuildRules, excluded: list[Record], workers: int
) -> Selection:
    """Applies the rules that compare crystals, the cheap ones first."""
    selection = Selection(staged, staged.path, workers)
    others = [(tuple(map(tuple, formula)), energy) for note in notes for formula, energy in note["others"]]
    if rules.max_e_hull is not None:
        selection.above_hull(rules.max_e_hull, rules.energy_label, others)
    if rules.deduplicate:
        selection.repeated_ids()
    if excluded:
        selection.excluded_structures(excluded)
    if rules.deduplicate:
        selection.repeated_structures()
    return selection


def _finish(path: Path, selection: Selection, left_out: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Writes the shards, the list of what was left out, and, last, the index that makes the folder a store."""
    entries, chosen = [], np.flatnonzero(selection.keep)
    for first in range(0, len(chosen), SHARD):
        file = f"shard-{first // SHARD:05d}.safetensors"
        columns = selection.staged.columns_of(chosen[first : first + SHARD])
        if np.isfinite(selection.e_above_hull).any():
            columns["label.e_above_hull"] = selection.e_above_hull[chosen[first : first + SHARD]]
        write_shard(path / file, columns)
        entries.append({"file": file, "crystals": len(columns["num_atoms"]), "atoms": len(columns["atomic_numbers"])})
    lines = "".join(json.dumps(entry) + "\n" for entry in left_out)
    write_text(path / "left_out.jsonl", lines)
    write_json(path / INDEX, {"format": FORMAT, "version": VERSION, "shards": entries, **about})
