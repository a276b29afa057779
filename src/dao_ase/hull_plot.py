"""Pictures of a convex hull: formation energies of two elements, the triangle of three, bars for more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.composition import Composition
from dao_ase.phase_diagram import Hull, Phase
from dao_ase.whole_files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_ABOVE = 0.5
"""eV/atom; what lies higher is left out of the picture."""
LOW, KNOWN, LINE = "#c2410c", "#1f2937", "#64748b"
"""Candidates, references, the hull itself."""


def plot_hull(hull: Hull, path: str | Path) -> Path:
    """Draws the hull: candidates in orange, references in black, hull phases filled and named.

    The ending of ``path`` says which format: png, svg, pdf.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes: Any = figure.add_subplot()
    draw = {2: _binary, 3: _ternary}.get(len(hull.elements), _bars)
    draw(hull, axes)
    axes.set_title(hull.name)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160)
    return Path(path)


def _binary(hull: Hull, axes: Axes) -> None:
    first, second = sorted(hull.elements)
    pure = {one: min(p.energy_per_atom for p in hull.phases if p.elements == {one}) for one in hull.elements}

    def place(phase: Phase) -> tuple[float, float]:
        share = _shares(phase, [first, second])[1]
        return share, phase.energy_per_atom - share * pure[second] - (1 - share) * pure[first]

    pairs = [pair for pair in hull.ordered() if pair[1] <= SHOWN_ABOVE]
    line = sorted(place(phase) for phase, above in pairs if above <= 0)
    axes.plot(*zip(*line, strict=True), color=LINE, linewidth=1.5, zorder=1)
    for phase, above in pairs:
        _mark(axes, phase, above, *place(phase))
    axes.set(xlabel=f"share of {second}", ylabel="formation energy (eV/atom)", xlim=(-0.04, 1.04))


def _ternary(hull: Hull, axes: Axes) -> None:
    names = sorted(hull.elements)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    for facet in hull.diagram.facets:
        entries = [hull.diagram.qhull_entries[vertex] for vertex in facet]
        points = (
            np.array([[entry.composition.get_atomic_fraction(name) for name in names] for entry in entries]) @ corners
        )
        axes.fill(*points.T, fill=False, edgecolor=LINE, linewidth=0.8, zorder=1)
    for phase, above in hull.ordered():
        if above <= SHOWN_ABOVE:
            _mark(axes, phase, above, *(_shares(phase, names) @ corners))
    axes.set_aspect("equal")
    axes.axis("off")


def _bars(hull: Hull, axes: Axes, most: int = 20) -> None:
    whole = [pair for pair in hull.ordered() if pair[0].elements == hull.elements][:most]
    if not whole:
        raise ValueError(f"no phase holds all of {hull.name}; ask for a smaller system")
    labels = [f"{phase.formula}  {phase.source}" for phase, _ in whole]
    colors = [LOW if phase.candidate else KNOWN for phase, _ in whole]
    axes.barh(range(len(whole)), [above for _, above in whole], color=colors)
    axes.set_yticks(range(len(whole)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("energy above the hull (eV/atom)")


def _mark(axes: Axes, phase: Phase, above: float, x: float, y: float) -> None:
    color = LOW if phase.candidate else KNOWN
    stable = above <= 0
    axes.plot(x, y, "o" if stable else "x", color=color, markersize=7 if stable else 5, zorder=3 if stable else 2)
    if stable:
        label = (
            Composition.parse(phase.formula).reduced_formula if len(phase.elements) > 1 else next(iter(phase.elements))
        )
        axes.annotate(label, (x, y), xytext=(4, 6), textcoords="offset points", fontsize=8)


def _shares(phase: Phase, names: list[str]) -> np.ndarray:
    """The atomic shares of the named elements."""
    composition = Composition.parse(phase.formula)
    counts = dict(composition.counts)
    return np.array([counts.get(name, 0) / composition.num_atoms for name in names])
