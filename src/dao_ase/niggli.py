"""Niggli reduction: the same crystal in its most compact cell."""

from __future__ import annotations

import warnings

import numpy as np
import spglib
from jaxtyping import Float

TOLERANCE = 1e-5
"""Relative tolerance of comparisons between lengths of lattice vectors (Křivý and Gruber's ε)."""

_SPGLIB_ERRORS: tuple[type[Exception], ...] = (spglib.SpglibError,) if hasattr(spglib, "SpglibError") else ()


def niggli_transformation(lattice: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The unimodular integer matrix M for which M L is the Niggli cell of L (rows are lattice vectors, Å).

    M L is right-handed also where L is not. Where spglib finds no Niggli cell, M is the identity.

    >>> lattice = np.array([[4.0, 0, 0], [4, 5, 0], [0, 0, 6]])
    >>> np.linalg.norm(niggli_transformation(lattice) @ lattice, axis=1).tolist()
    [4.0, 5.0, 6.0]
    """
    reduced = _reduce(np.asarray(lattice, dtype=np.float64))
    matrix = np.eye(3) if reduced is None else np.rint(reduced @ np.linalg.inv(lattice))
    if abs(abs(np.linalg.det(matrix)) - 1) > 1e-6:
        matrix = np.eye(3)
    return matrix if np.linalg.det(matrix @ lattice) > 0 else -matrix


def niggli_reduce(
    lattice: Float[np.ndarray, "3 3"], frac_coords: Float[np.ndarray, "atoms 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "atoms 3"]]:
    """The Niggli cell (Å) and the coordinates in it, in [0, 1); order of the atoms and orientation in space are kept.

    Positions change by lattice vectors only: f′ = f M⁻¹ because f L = f M⁻¹ (M L).
    """
    matrix = niggli_transformation(lattice)
    coords = frac_coords @ np.rint(np.linalg.inv(matrix))
    return matrix @ lattice, wrap_coords(coords)


def wrap_coords(frac_coords: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "atoms 3"]:
    """Coordinates in [0, 1), also after rounding to float32."""
    wrapped = frac_coords - np.floor(frac_coords)
    return np.where(wrapped >= 1 - 2**-25, 0.0, wrapped)


def _reduce(lattice: np.ndarray) -> np.ndarray | None:
    # Volume one: spglib compares lengths with an absolute tolerance.
    scale = abs(np.linalg.det(lattice)) ** (1 / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's change of error handling
        try:
            reduced = spglib.niggli_reduce(lattice / scale, eps=TOLERANCE)
        except _SPGLIB_ERRORS:
            return None
    return None if reduced is None else np.asarray(reduced) * scale
