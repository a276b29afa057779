"""What a store holds, as in Figure 2 of the DAO paper: sources, energies above the hull, volumes, sizes, elements."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase.composition import SYMBOLS
from dao_ase.data.build import STABLE
from dao_ase.data.store import CrystalStore

HULL_EDGES = [0.0, 0.02, STABLE, 0.2, 0.5, 1.0]
"""eV/atom."""
VOLUME_EDGES = [float(edge) for edge in range(0, 61, 5)]
"""Å³ per atom."""


@dataclass(frozen=True)
class Statistics:
    """Counts of a store; histograms are (lower edges, counts), elements are counted once for each crystal with them."""

    crystals: int
    atoms: int
    sources: dict[str, int]
    num_atoms: tuple[list[int], list[int]]
    volume_per_atom: tuple[list[float], list[int]]  # Å³
    e_above_hull: tuple[list[float], list[int]]  # eV/atom
    stable: int  # at most 0.08 eV/atom above the hull
    energy_unknown: int
    num_elements: dict[int, int]
    elements: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-able values."""
        return asdict(self)


def summarise(store: CrystalStore) -> Statistics:
    """Counts everything in a store."""
    everything = np.arange(len(store))
    lattice = store.gather("lattice", everything).astype(np.float64)
    owner = np.repeat(everything, store.num_atoms)
    pairs = np.unique(np.stack([owner, store.gather("atomic_numbers", everything)], 1), axis=0)
    hull = store.labels["e_above_hull"] if "e_above_hull" in store.labels else np.full(len(store), np.nan)
    elements = np.bincount(pairs[:, 1], minlength=len(SYMBOLS))
    sizes = np.bincount(store.num_atoms)
    return Statistics(
        crystals=len(store),
        atoms=int(store.num_atoms.sum()),
        sources=dict(Counter(store.texts("source").tolist()).most_common()),
        num_atoms=(list(range(1, len(sizes))), sizes[1:].tolist()),
        volume_per_atom=_histogram(np.abs(np.linalg.det(lattice)) / store.num_atoms, VOLUME_EDGES),
        e_above_hull=_histogram(hull[np.isfinite(hull)], HULL_EDGES),
        stable=int((hull <= STABLE).sum()),
        energy_unknown=int(np.isnan(hull).sum()),
        num_elements={k: int(c) for k, c in enumerate(np.bincount(np.bincount(pairs[:, 0]))) if c},
        elements={SYMBOLS[z]: int(c) for z, c in enumerate(elements) if c},
    )


def describe(statistics: Statistics) -> str:
    """The counts as text."""
    known = statistics.crystals - statistics.energy_unknown
    lines = [
        f"{statistics.crystals} crystals, {statistics.atoms} atoms, {len(statistics.elements)} elements",
        "",
        "source",
        *(_row(name, count, statistics.crystals) for name, count in statistics.sources.items()),
        "",
        "atoms in the cell",
        *_ranges(*statistics.num_atoms, statistics.crystals),
        "",
        "elements in the crystal",
        *(_row(str(name), count, statistics.crystals) for name, count in statistics.num_elements.items()),
        "",
        "volume per atom, Å³",
        *_bars(*statistics.volume_per_atom, statistics.crystals),
        "",
        f"energy above the hull, eV/atom (known for {known}; stable, at most {STABLE}: {statistics.stable})",
        *_bars(*statistics.e_above_hull, known),
        "",
        "crystals that hold each element",
        *_element_lines(statistics.elements),
    ]
    return "\n".join(lines)


def draw(statistics: Statistics, path: str | Path) -> None:
    """Draws the counts, five panels, into an image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic("AABBCC;DDDEEE;FFFFFF", height_ratios=[1, 1, 1.2])
    panels["A"].barh(list(statistics.sources), list(statistics.sources.values()))
    panels["A"].set_title("source")
    panels["B"].bar(*statistics.num_atoms, width=1)
    panels["B"].set(title="atoms in the cell")
    panels["C"].bar(list(map(str, statistics.num_elements)), list(statistics.num_elements.values()))
    panels["C"].set_title("elements in the crystal")
    for panel, title, (edges, counts) in (
        (panels["D"], "volume per atom, Å³", statistics.volume_per_atom),
        (panels["E"], "energy above the hull, eV/atom", statistics.e_above_hull),
    ):
        panel.bar(_names_of(edges), counts, width=0.95)
        panel.set_title(title)
        panel.tick_params(axis="x", rotation=45)
    panels["F"].bar(list(statistics.elements), list(statistics.elements.values()))
    panels["F"].set(title="crystals that hold each element", yscale="log", xlim=(-1, len(statistics.elements)))
    panels["F"].tick_params(axis="x", rotation=90, labelsize=7)
    figure.suptitle(f"{statistics.crystals} crystals, {len(statistics.elements)} elements")
    figure.savefig(path)


def _histogram(values: np.ndarray, edges: list[float]) -> tuple[list[float], list[int]]:
    """Counts from each edge to the next; the first and the last bin take what lies beyond."""
    counts, _ = np.histogram(np.maximum(values, edges[0]), [*edges, np.inf])
    return edges, counts.tolist()


def _row(name: str, count: int, total: int) -> str:
    share = count / max(total, 1)
    return f"  {name:28s} {count:8d}  {100 * share:5.1f} %  {'█' * round(40 * share)}".rstrip()


def _names_of(edges: list[float]) -> list[str]:
    return [*(f"{a:g}–{b:g}" for a, b in pairwise(edges)), f"> {edges[-1]:g}"]


def _bars(edges: list[float], counts: list[int], total: int) -> list[str]:
    return [_row(name, count, total) for name, count in zip(_names_of(edges), counts, strict=True)]


def _ranges(sizes: list[int], counts: list[int], total: int, width: int = 5) -> list[str]:
    grouped = Counter({0: 0})
    for size, count in zip(sizes, counts, strict=True):
        grouped[(size - 1) // width] += count
    return [_row(f"{k * width + 1}–{(k + 1) * width}", count, total) for k, count in sorted(grouped.items())]


def _element_lines(elements: dict[str, int], columns: int = 8) -> list[str]:
    cells = [f"{symbol:>2s} {count:6d}" for symbol, count in elements.items()]
    return ["  " + "  ".join(cells[first : first + columns]) for first in range(0, len(cells), columns)]
