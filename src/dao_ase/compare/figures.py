"""The numbers by which two methods are compared: only what does not depend on where each puts its zero of energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dao_ase.evaluate import match
from dao_ase.units import GPA

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = NDArray[np.float64]
MEV = 1000.0


def force_errors(found: Array, reference: Array) -> dict[str, float]:
    """Mean absolute and largest difference of force components (eV/Å), and the mean size of the reference's."""
    difference = np.abs(found - reference)
    return {
        "mean": float(difference.mean()),
        "largest": float(difference.max()),
        "mean_size": float(np.abs(reference).mean()),
    }


def stress_errors(found: Array, reference: Array) -> dict[str, float]:
    """Mean absolute difference of the stress components, and the difference of the pressures (GPa)."""
    difference = (found - reference) * GPA
    return {"mean": float(np.abs(difference).mean()), "pressure": float(-np.trace(difference) / 3)}


def cell_of(lattice: Array) -> dict[str, float]:
    """Lengths (Å), angles (degrees) and volume (Å³) of a cell."""
    from ase.cell import Cell

    cell = Cell(lattice)
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    return {name: float(value) for name, value in zip(names, cell.cellpar(), strict=True)} | {
        "volume": abs(float(cell.volume))
    }


def geometry_errors(found: Structure, reference: Structure) -> dict[str, float | None]:
    """RMSE of the best mapping in units of (V/N)^⅓ (None: no match), and relative differences of volume and lengths."""
    mine, theirs = np.array(found.lattice.abc), np.array(reference.lattice.abc)
    return {
        "rmse": match(found, reference),
        "volume": found.volume / reference.volume - 1,
        "largest_length": float(np.abs(mine / theirs - 1).max()),
    }


def equation_of_state(volumes: Sequence[float], energies: Sequence[float]) -> dict[str, float | None]:
    """Volume (Å³) of the minimum and bulk modulus (GPa) after Birch and Murnaghan; None where there is no minimum.

    In x = (V/V_m)^(−2/3) their energy is a cubic polynomial; at its minimum B = V d²E/dV² = 4/9 d²E/dx² x² / V.
    """
    middle = float(np.mean(volumes))
    x = (np.asarray(volumes) / middle) ** (-2 / 3)
    curve = np.polynomial.Polynomial.fit(x, np.asarray(energies) - np.mean(energies), 3)
    slope, bend = curve.deriv(), curve.deriv(2)
    minima = [
        float(root.real)
        for root in slope.roots()
        if abs(root.imag) < 1e-9 and x.min() <= root.real <= x.max() and bend(root.real) > 0
    ]
    if not minima:
        return {"volume": None, "bulk_modulus": None}
    best = min(minima, key=lambda place: float(curve(place)))
    volume = middle * best**-1.5
    return {"volume": volume, "bulk_modulus": 4 / 9 * float(bend(best)) * best**2 / volume * GPA}


def curve_error(found: Sequence[float], reference: Sequence[float]) -> float:
    """Root mean square difference of two energy curves, each about its own mean."""
    one, other = np.asarray(found), np.asarray(reference)
    return float(np.sqrt((((one - one.mean()) - (other - other.mean())) ** 2).mean()))


def ratio(slow: float | None, fast: float | None) -> float | None:
    """How many times less the second is."""
    return None if slow is None or not fast else slow / fast


def orders(energies: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """For each method its structures of one composition, lowest first, relative to its lowest (meV/atom), and how many of
    the pairs that pw.x tells apart it orders as pw.x does. ``energies`` are eV/atom by method and structure.
    """
    reference = energies.get("pw.x", {})
    rows = []
    for method, values in energies.items():
        lowest = min(values.values())
        known = [name for name in values if name in reference]
        shared = [(a, b) for a, b in combinations(known, 2) if reference[a] != reference[b]]
        agreeing = [(values[a] - values[b]) * (reference[a] - reference[b]) > 0 for a, b in shared]
        rows.append({
            "method": method,
            "order": [
                {"structure": name, "energy": MEV * (value - lowest)}
                for name, value in sorted(values.items(), key=lambda item: item[1])
            ],
            "pairs": len(shared),
            "agreeing": sum(agreeing),
        })  # fmt: skip
    return rows
