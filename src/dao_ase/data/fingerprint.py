"""How far apart two crystals of one formula are, from their interatomic distances alone: cheap, and blind to cell and order.

N_AB(r) is the mean number of B atoms within r of an A atom, with lengths in units of (V/N)^⅓, so that a scaled crystal is
the same crystal. The mean change of an A–B distance (an earth mover's distance) is

    D_AB = ∫₀ᴿ |N_AB(r) − N′_AB(r)| dr / ½ (N_AB(R) + N′_AB(R)),

and the largest of them, over the pairs of elements, is the distance of the two crystals: zero for the same crystal, small
for a distorted one, large where two elements have changed places. Only pairs with a small one need a `StructureMatcher`.
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
    """The largest D_AB between one crystal and others of the same reduced formula, in units of (V/N)^⅓."""
    one, others = one.reshape(-1, BINS), others.reshape(len(others), -1, BINS)
    neighbours = 0.5 * (one[:, -1] + others[:, :, -1])
    areas = np.abs(others - one).sum(axis=2) * (RADIUS / BINS)
    return (areas / np.maximum(neighbours, 1e-9)).max(axis=1)
