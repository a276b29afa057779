"""What a composition alone says: statistics of the properties of its elements, after Ward et al. 2016 ("Magpie").

For atomic fractions c_z and a property p of the elements: the mean p̄ = Σ c_z p_z, the mean deviation Σ c_z |p_z − p̄|,
the least and the largest p_z, their range, and p of the most abundant element; beside them the norms of c. The numbers
of the elements are pymatgen's.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dao_ase.composition import SYMBOLS
from dao_ase.radii import COVALENT_RADII

ELEMENTS = len(COVALENT_RADII)
"""Rows of the table of elements: atomic numbers from 0 (no element) to the largest that DAO-P knows."""
NORMS = (2, 3, 5, 7)
NOBLE = (2, 10, 18, 36, 54, 86)
SHELLS = {"s": 2, "p": 6, "d": 10, "f": 14}
PROPERTIES = (
    *("number", "row", "group", "mendeleev_number", "mass", "electronegativity", "covalent_radius", "atomic_radius"),
    *("ionization_energy", "electron_affinity", "melting_point", "molar_volume", "thermal_conductivity"),
    *("valence", "valence_s", "valence_p", "valence_d", "valence_f", "empty_s", "empty_p", "empty_d", "empty_f"),
)
"""Columns of the table of elements; empty_d counts the places left in an open d shell, and so on."""


@lru_cache(maxsize=1)
def element_table() -> NDArray[np.float32]:
    """One row for each atomic number, one column for each of `PROPERTIES`; what is not known is the mean of the column.

    >>> float(element_table()[14, PROPERTIES.index("valence_p")])
    2.0
    """
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen remarks on each value that it does not know
        rows = [[math.nan] * len(PROPERTIES), *(_row(Element(symbol)) for symbol in SYMBOLS[1:ELEMENTS])]
    table = np.array(rows, dtype=np.float64)
    return np.where(np.isfinite(table), table, np.nanmean(table, axis=0)).astype(np.float32)


def composition_statistics(
    counts: NDArray[np.float64], table: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The statistics of each row of ``counts``: how many atoms (column: atomic number) of each element a crystal holds."""
    table = element_table() if table is None else table
    return np.stack([_statistics(row, table) for row in counts]) if len(counts) else np.zeros((0, 0), np.float32)


def statistic_names() -> list[str]:
    """What the columns of `composition_statistics` are."""
    kinds = ("mean", "deviation", "least", "largest", "range", "most abundant")
    return [f"{kind} {name}" for kind in kinds for name in PROPERTIES] + [f"norm {p}" for p in NORMS] + ["elements"]


def _statistics(counts: NDArray[np.float64], table: NDArray[np.float32]) -> NDArray[np.float32]:
    present = np.flatnonzero(counts)
    share = counts[present] / counts.sum()
    values = table[present].astype(np.float64)
    mean = share @ values
    least, largest = values.min(0), values.max(0)
    main = values[share > share.max() - 1e-9].mean(0)  # equally abundant elements share the place
    norms = [float((share**p).sum() ** (1 / p)) for p in NORMS]
    parts = [mean, share @ np.abs(values - mean), least, largest, largest - least, main, norms, [len(present)]]
    return np.concatenate(parts).astype(np.float32)


def _row(element) -> list[float]:
    shells = dict.fromkeys(SHELLS, 0)
    closed = max((size for size in NOBLE if size < element.Z), default=0)
    left = element.Z - closed
    for _, kind, electrons in reversed(element.full_electronic_structure):
        if left > 0:
            shells[kind] += min(electrons, left)
            left -= electrons
    empty = {kind: (SHELLS[kind] - count) if 0 < count < SHELLS[kind] else 0 for kind, count in shells.items()}
    known = [
        *(element.Z, element.row, element.group, element.mendeleev_no, element.atomic_mass, element.X),
        *(COVALENT_RADII[element.Z], element.atomic_radius, element.ionization_energy, element.electron_affinity),
        *(element.melting_point, element.molar_volume, element.thermal_conductivity),
    ]
    valence = [sum(shells.values()), *shells.values(), *empty.values()]
    return [math.nan if value is None else float(value) for value in (*known, *valence)]
