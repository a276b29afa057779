"""What is plotted of a crystal: how pw.x converged, the way down of each relaxation, curves of energy against volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dao_ase.compare.plots import line_plot

Row = Mapping[str, Any]
MOST = 5
"""Lines in one plot."""


def plots_of(row: Row) -> Iterator[tuple[str, str]]:
    """Title and drawing of each plot."""
    runs = _runs(row)
    for name, one in runs.items():
        scf = one.get("notes", {}).get("scf") or []
        if scf:
            lines = {f"step {step}": list(enumerate(line, 1)) for step, line in list(enumerate(scf, 1))[:MOST]}
            drawn = line_plot(lines, "SCF iteration", "estimated error of the energy (eV)", logarithmic=True)
            yield f"{row['name']}, {row['task']}: convergence of {name}", drawn
    ways = {name: list(enumerate(one["energies"], 1)) for name, one in runs.items() if "converged" in one}
    if ways:
        drawn = line_plot(ways, "ionic step", "energy from the start (eV/atom)")
        yield f"{row['name']}, {row['task']}: the way down", drawn
    curves = {
        name: list(zip(one["volumes"], one["energies"], strict=True)) for name, one in runs.items() if "volumes" in one
    }
    if curves:
        drawn = line_plot(curves, "volume (Å³/atom)", "energy above the lowest (eV/atom)")
        yield f"{row['name']}: equation of state", drawn


def _runs(row: Row) -> dict[str, Row]:
    """What each method found; of a search, what pw.x did from the first candidates and from the first random cells."""
    if row["task"] != "search":
        return dict(row["methods"])
    ways = (("pw.x, rank {}", row.get("refined", [])[:3]), ("pw.x, random cell {}", row.get("random", [])[:2]))
    return {title.format(one["rank"]): one for title, found in ways for one in found}
