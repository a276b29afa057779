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
from dao_ase.data.shards import encode_texts, open_shard, write_atomically, write_json, write_shard
from dao_ase.data.sources import Source, open_source, read
from dao_ase.data.staging import RowRules, stage
from dao_ase.data.store import FORMAT, INDEX, VERSION, CrystalStore

logger = logging.getLogger(__name__)

SHARD = 1 << 16
"""Crystals in one shard of a finished store."""
STABLE = 0.08
"""eV/atom above the hull; up to here the paper calls a crystal stable."""


@dataclass(frozen=True)
class BuildRules:
    """What goes into a store. The values are those of the paper, but for what is excluded."""

    min_atoms: int = 3
    max_atoms: int = 30
    max_e_hull: float = 1.0  # eV/atom; crystals whose energy is unknown are kept
    energy_label: str = "formation_energy_per_atom"  # eV/atom; the hull is built from it where e_above_hull is missing
    deduplicate: bool = True
    niggli: bool = True
    exclude: tuple[str, ...] = ()  # files whose crystals are left out, by identifier and by structure
    exclude_formulas: tuple[str, ...] = ()  # also in multiples: Cr3Os excludes Cr6Os2

    def row_rules(self) -> RowRules:
        """The part that is decided for each crystal alone."""
        ids = {record.id for file in self.exclude for record in read(open_source(file))}
        formulas = {reduced_key(Composition.parse(formula).atomic_numbers) for formula in self.exclude_formulas}
        return RowRules(self.min_atoms, self.max_atoms, self.niggli, frozenset(ids), frozenset(formulas))


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
        if store.index.get("key") == key:
            return store
        raise FileExistsError(f"{str(path)!r} holds another store; give another folder or delete it")
    work = path / f".build-{key}"
    work.mkdir(parents=True, exist_ok=True)
    shards = [open_shard(file) for file in stage(sources, work, rules.row_rules(), workers)]
    staged = CrystalStore(work, [columns for columns, _ in shards], {})
    rejected = [entry for _, notes in shards for entry in notes["rejected"]]
    keep = np.ones(len(staged), dtype=bool)
    counts = {"read": sum(notes["rows"] for _, notes in shards), "kept": int(keep.sum())}
    counts["left out"] = dict(Counter(entry["rule"] for entry in rejected))
    _finish(path, staged, np.flatnonzero(keep), rejected, {"key": key, **plan, "counts": counts})
    shutil.rmtree(work)
    return CrystalStore.open(path)


def _finish(
    path: Path, staged: CrystalStore, chosen: np.ndarray, rejected: list[dict[str, Any]], about: dict[str, Any]
) -> None:
    """Writes the shards, the list of what was left out, and, last, the index that makes the folder a store."""
    entries = []
    texts = {name[5:]: staged.texts(name[5:]) for name in staged.columns if name.startswith("text.")}
    for first in range(0, len(chosen), SHARD):
        part = chosen[first : first + SHARD]
        columns = {"num_atoms": staged.num_atoms[part].astype(np.int32)}
        for name in staged.columns:
            if name != "num_atoms" and not name.startswith("text"):
                columns[name] = staged.gather(name, part)
        for name, values in texts.items():
            columns[f"text.{name}"], columns[f"text_end.{name}"] = encode_texts(values[part].tolist())
        file = f"shard-{first // SHARD:05d}.safetensors"
        write_shard(path / file, columns)
        entries.append({"file": file, "crystals": len(part), "atoms": len(columns["atomic_numbers"])})
    lines = "".join(json.dumps(entry) + "\n" for entry in rejected)
    write_atomically(path / "rejected.jsonl", lambda file: file.write(lines.encode()))
    write_json(path / INDEX, {"format": FORMAT, "version": VERSION, "shards": entries, **about})
