"""What simulations look like: a figure for each kind, written to .png, .svg or .pdf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dao_ase.simulate.equation_of_state import EquationOfStateFit
from dao_ase.simulate.phonons import Phonons
from dao_ase.simulate.trajectory import Observation
from dao_ase.whole_files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_dynamics(observations: Sequence[Observation], num_atoms: int, title: str, path: str | Path) -> Path:
    """Total energy per atom, temperature and, where there is one, pressure against time."""
    figure = _figure(8, 7)
    time = [one.time for one in observations]
    total = np.array([one.total for one in observations]) / num_atoms
    curves = [
        ("change of total energy\nmeV/atom", 1e3 * (total - total[0])),
        ("temperature\nK", np.array([one.temperature for one in observations])),
        ("pressure\nGPa", np.array([one.pressure for one in observations])),
    ]
    curves = [(label, values) for label, values in curves if np.isfinite(values).all()]
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (label, values) in zip(panels, curves, strict=True):
        panel.plot(time, values, linewidth=1)
        panel.set_ylabel(label)
    panels[-1].set_xlabel("time, ps")
    panels[0].set_title(title)
    return _save(figure, path)


def draw_equation_of_state(fit: EquationOfStateFit, num_atoms: int, title: str, path: str | Path) -> Path:
    """Energies against volume, both per atom, with the fitted curve."""
    figure = _figure(6, 4.5)
    panel = figure.subplots()
    fine = np.linspace(fit.volumes.min(), fit.volumes.max(), 200)
    panel.plot(fine / num_atoms, fit.curve(fine) / num_atoms, linewidth=1, label=fit.form)
    panel.plot(fit.volumes / num_atoms, fit.energies / num_atoms, "o", markersize=5, label="computed")
    panel.axvline(fit.volume / num_atoms, linewidth=0.8, linestyle=":", color="grey")
    panel.set(
        xlabel="volume, Å³/atom",
        ylabel="energy, eV/atom",
        title=f"{title}: {fit.volume / num_atoms:.3f} Å³/atom, {fit.bulk_modulus:.1f} GPa",
    )
    panel.legend()
    return _save(figure, path)


def draw_phonons(found: Phonons, title: str, path: str | Path) -> Path:
    """Bands beside their density of states; imaginary frequencies are drawn below zero."""
    figure = _figure(8, 4.5)
    bands, density = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    bands.plot(found.bands.distance, found.bands.frequencies, color="tab:blue", linewidth=1)
    for tick in found.bands.ticks:
        bands.axvline(tick, linewidth=0.5, color="grey")
    names: dict[float, str] = {}
    for tick, label in zip(found.bands.ticks, found.bands.labels, strict=True):
        name = "Γ" if label == "G" else label
        names[tick] = f"{names[tick]}|{name}" if tick in names else name  # the path jumps: two corners at one place
    bands.set_xticks(list(names), list(names.values()))
    bands.axhline(0, linewidth=0.5, color="grey")
    bands.set(ylabel="frequency, THz", xlim=(found.bands.distance[0], found.bands.distance[-1]), title=title)
    density.plot(found.dos, found.dos_frequencies, linewidth=1)
    density.set(xlabel="states per THz", xlim=(0, None))
    return _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """A figure without pyplot: no window, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return Path(path)
