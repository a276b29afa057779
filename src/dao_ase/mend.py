"""DAO-P mends DAO-G's training crystals: those somewhat above the hull are relaxed, for the second stage of the training.

This is the other half of the Siamese pair: one model says what is stable, the other learns from crystals that became so.
A relaxed crystal replaces the original only if it passes three gates: its energy fell (but not absurdly far), its shortest
distance did not shrink much, and its volume stayed within bounds. The rest stay as they were.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dao_ase import checkpoint
from dao_ase.calculator import load_potential
from dao_ase.convert import to_structures
from dao_ase.crystals import Crystals
from dao_ase.data.parallel import once, one_thread, parallel_map
from dao_ase.data.shards import write_shard
from dao_ase.data.store import FORMAT, INDEX, VERSION, CrystalStore, discard_leftovers
from dao_ase.gates import shortest_distance
from dao_ase.niggli import niggli_reduce
from dao_ase.relax import Relaxation, relax
from dao_ase.whole_files import replacing, write_json

PART = 128
"""Crystals in one unit of work: what a kill can cost."""
SHARD = 1 << 16
WORK = ".relax-"
"""Beginning of the names of folders in a store for parts that are done; it ends with a key of store, rules and weights."""
RELAXED = "relaxed"
"""The fate of a crystal that was replaced; the others are named by the gate that refused them."""


@dataclass(frozen=True)
class MendRules:
    """Which crystals are relaxed, how far, and what a relaxed crystal must keep to."""

    lower: float = 0.08  # eV/atom above the hull; what lies lower is stable
    upper: float = 0.5  # what lies higher is too far off
    steps: int = 30  # the paper takes 5 of L-BFGS
    fmax: float = 0.05  # eV/Å
    min_distance: float = 0.7  # of the shortest distance before
    max_volume_change: float = 0.25  # of the volume before
    max_fall: float = 0.5  # eV/atom; a deeper fall is an error of the potential, not a relaxation

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"relaxing from {self.lower} to {self.upper} eV/atom leaves nothing; lower must be less")
        if self.steps < 1 or not self.fmax > 0:
            raise ValueError(f"steps is {self.steps} and fmax {self.fmax} eV/Å; both must be positive")


@dataclass(frozen=True)
class Mended:
    """What became of the crystals that were relaxed: fates, and energy changes (eV/atom) of those that were replaced."""

    fates: dict[str, int]
    energy_changes: NDArray[np.float64]

    def as_dict(self) -> dict[str, Any]:
        """Counts and quantiles, JSON-able."""
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        found = np.quantile(self.energy_changes, quantiles) if len(self.energy_changes) else np.full(5, np.nan)
        return {
            "fates": self.fates,
            "energy change, meV/atom": {
                f"{100 * share:.0f} %": None if np.isnan(value) else round(1000 * float(value), 2)
                for share, value in zip(quantiles, found, strict=True)
            },
        }


def mend(
    store: CrystalStore,
    output: str | Path,
    rules: MendRules | None = None,
    *,
    weights: str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Mended:
    """Writes ``store`` to ``output`` with its unstable crystals relaxed by DAO-P (``weights``, or the installed one).

    The copy has one label more, ``energy_change`` (eV/atom, NaN where nothing changed), and keeps all others: they describe
    the original geometry. Parts that are done survive an interruption; ``relaxed.jsonl`` lists the fate of each.
    """
    rules, output = rules or MendRules(), Path(output)
    if "e_above_hull" not in store.labels:
        raise ValueError(f"{str(store.path)!r} has no label e_above_hull, which says what is to be relaxed")
    energies = store.labels["e_above_hull"]
    chosen = np.flatnonzero((energies > rules.lower) & (energies <= rules.upper))
    key = _key(store, rules, weights)
    if (output / INDEX).is_file():
        if CrystalStore.open(output).about.get("key") != key:
            raise FileExistsError(f"{str(output)!r} holds another store; give another folder or delete it")
        discard_leftovers(output, WORK)
        return _read(output)
    work = output / f"{WORK}{key}"
    work.mkdir(parents=True, exist_ok=True)
    parts = [chosen[first : first + PART] for first in range(0, len(chosen), PART)]
    calls = (
        (work / f"part-{number:05d}.json", _relax_part, str(store.path), part.tolist(), rules, weights)
        for number, part in enumerate(parts)
    )
    results: list[dict[str, Any]] = []
    for part in tqdm(
        parallel_map(once, calls, workers), total=len(parts), desc="relaxing", unit="part", disable=not progress
    ):
        results += part
    _write(store, output, results, {"key": key, "relaxed from": str(store.path), "rules": asdict(rules)})
    discard_leftovers(output, WORK)
    return _read(output)


def fate(before: Crystals, after: Crystals, energy_change: float, rules: MendRules) -> str:
    """`RELAXED`, or the gate that a relaxed crystal does not pass; ``energy_change`` is in eV/atom."""
    if not energy_change < 0:
        return "energy did not fall"
    if energy_change < -rules.max_fall:
        return "energy fell too far"
    if abs(float((after.volume / before.volume).abs()) - 1) > rules.max_volume_change:
        return "volume changed too much"
    old, new = (shortest_distance(to_structures(one)[0]) for one in (before, after))
    return RELAXED if new >= rules.min_distance * old else "atoms came too close"


@one_thread()
def _relax_part(path: str, indices: list[int], rules: MendRules, weights: str | None) -> list[dict[str, Any]]:
    """The fates of some crystals of a store, with the new geometry of those that pass."""
    crystals = CrystalStore.open(path, verify=False).batch(np.array(indices))
    model = load_potential(weights)
    found = relax(crystals, model, fmax=rules.fmax, steps=rules.steps)
    return [
        _judged(index, crystal, result, rules) for index, crystal, result in zip(indices, crystals, found, strict=True)
    ]


def _judged(index: int, crystal: Crystals, result: Relaxation, rules: MendRules) -> dict[str, Any]:
    import torch

    if result.start is None or result.final is None or result.blew_up:
        return {"index": index, "fate": "not relaxed", "reason": result.reason}
    change = (result.final.energy - result.start.energy) / int(crystal.num_atoms[0])
    lattice, coords = niggli_reduce(result.final.lattice, result.final.positions @ np.linalg.inv(result.final.lattice))
    moved = crystal.to(dtype=torch.float64).replace(
        lattice=torch.from_numpy(lattice)[None], frac_coords=torch.from_numpy(coords)
    )
    verdict = fate(crystal.to(dtype=torch.float64), moved, change, rules)
    entry = {"index": index, "fate": verdict, "energy_change": change, "steps": result.steps}
    return entry | ({"lattice": lattice.tolist(), "frac_coords": coords.tolist()} if verdict == RELAXED else {})


def _write(store: CrystalStore, output: Path, results: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """The shards with new geometries, the list of fates, and, last, the index that makes the folder a store."""
    changed = {entry["index"]: entry for entry in results if entry["fate"] == RELAXED}
    entries = []
    for number, first in enumerate(range(0, len(store), SHARD)):
        indices = np.arange(first, min(first + SHARD, len(store)))
        columns = {name: np.array(values) for name, values in store.columns_of(indices).items()}
        columns["label.energy_change"] = np.full(len(indices), np.nan)
        starts = np.cumsum(store.num_atoms[indices]) - store.num_atoms[indices]
        for row, index in enumerate(indices.tolist()):
            if index in changed:
                atoms = slice(starts[row], starts[row] + store.num_atoms[index])
                columns["lattice"][row] = changed[index]["lattice"]
                columns["frac_coords"][atoms] = changed[index]["frac_coords"]
                columns["label.energy_change"][row] = changed[index]["energy_change"]
        file = f"shard-{number:05d}.safetensors"
        write_shard(output / file, columns)
        entries.append({"file": file, "crystals": len(indices), "atoms": len(columns["atomic_numbers"])})
    ids = store.ids
    with replacing(output / "relaxed.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
        for entry in results:
            short = {name: value for name, value in entry.items() if name not in ("lattice", "frac_coords")}
            lines.write(json.dumps({"id": str(ids[entry["index"]]), **short}) + "\n")
    counts = {"kept": len(store), "fates": dict(Counter(entry["fate"] for entry in results).most_common())}
    index_file = {"format": FORMAT, "version": VERSION, "shards": entries, "counts": counts}
    write_json(output / INDEX, index_file | about)


def _read(output: Path) -> Mended:
    store = CrystalStore.open(output)
    changes = store.labels["energy_change"]
    return Mended(store.about["counts"]["fates"], changes[np.isfinite(changes)])


def _key(store: CrystalStore, rules: MendRules, weights: str | None) -> str:
    """What a run depends on, as sixteen digits: another store, other rules or other weights are another run."""
    digest = hashlib.sha256(Path(weights or checkpoint.default_weights("dao_p")).read_bytes())
    digest.update((store.path / INDEX).read_bytes())
    digest.update(json.dumps(asdict(rules), sort_keys=True).encode())
    return digest.hexdigest()[:16]


def draw_energy_changes(mended: Mended, path: str | Path) -> None:
    """Draws the distribution of energy changes, as Figure 3c of the paper does."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    changes = 1000 * mended.energy_changes
    axes.hist(changes, bins=60, color="#3b6ea8")
    if len(changes):
        axes.axvline(float(np.median(changes)), color="#c44", label=f"median {np.median(changes):.1f}")
        axes.legend()
    axes.set(xlabel="energy change by relaxation with DAO-P, meV/atom", ylabel="crystals")
    figure.savefig(path, dpi=120)
