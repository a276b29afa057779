"""How far apart two crystals of one formula are, from their interatomic distances alone: cheap, and blind to cell and order.

N_AB(r) is the mean number of B atoms within r of an A atom, with lengths in units of (V/N)^⅓, so that a scaled crystal is
the same crystal. The distance of two crystals is the mean change of an interatomic distance (an earth mover's distance),

    D = Σ_AB ∫₀ᴿ |N_AB(r) − N′_AB(r)| dr / Σ_AB N_AB(R).

It is zero for the same crystal and small for a distorted one, so that only pairs with a small D need a `StructureMatcher`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

RADIUS = 2.2
"""R in units of (V/N)^⅓; about 45 neighbours."""
BINS = 110


def fingerprint(
    lattice: Float[np.ndarray, "3 3"],
    frac_coords: Float[np.ndarray, "atoms 3"],
    atomic_numbers: Int[np.ndarray, "atoms"],
) -> Float[np.ndarray, "features"]:
    """N_AB(r) on a grid of r for all ordered pairs of elements, the element pairs sorted, weighted by the share of A."""
    lattice = lattice / (abs(np.linalg.det(lattice)) / len(atomic_numbers)) ** (1 / 3)
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    reach = np.ceil(RADIUS / heights).astype(int)
    images = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3) @ lattice
    between = frac_coords[None, :, :] - frac_coords[:, None, :]
    vectors = (between - np.rint(between)) @ lattice
    squares = np.square(vectors[:, :, None, :] + images).sum(-1)
    near = (squares < RADIUS**2) & (squares > 1e-6)
    first, second, _ = np.nonzero(near)
    elements, kind = np.unique(atomic_numbers, return_inverse=True)
    bins = (np.sqrt(squares[near]) * (BINS / RADIUS)).astype(int)
    pair = kind[first] * len(elements) + kind[second]
    counts = np.bincount(pair * BINS + bins, minlength=len(elements) ** 2 * BINS).reshape(-1, BINS)
    return (np.cumsum(counts, axis=1) / len(atomic_numbers)).astype(np.float32).reshape(-1)


def distance_shifts(
    one: Float[np.ndarray, "features"], others: Float[np.ndarray, "crystals features"]
) -> Float[np.ndarray, "crystals"]:
    """D between one crystal and others of the same reduced formula, in units of (V/N)^⅓."""
    total = one.reshape(-1, BINS)[:, -1].sum()
    return np.abs(others - one).sum(axis=1) * (RADIUS / BINS) / max(total, 1e-9)
