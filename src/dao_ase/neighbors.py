"""Periodic neighbours: every pair of atoms, images included, that is closer than a cutoff.

A pair (i, j, S) stands for the vector r = x_j + S·L − x_i, with whole numbers S and the rows of L the lattice vectors.
(j, i, −S) is the same pair seen from the other side. `find_pairs` gives each pair once; `Neighbors` lays both directions
out in rows, one row an atom, and knows for each direction where the opposite one stands.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

SKEWED = 0.1
"""The least volume of a cell, in that of a box with edges as long; flatter ones have too many images to search."""
FARTHEST = 1e8
"""Å; where no periodic cell holds them, atoms that are farther apart are divided into more boxes than can be counted."""
MOST_BOXES = 1e5
"""Into more boxes vesin divides no space: it makes them larger, and the process ends where an axis has less than one."""


class Pairs(NamedTuple):
    """Pairs of neighbours, each once: atom ``first``, atom ``second``, and the cell shift S of the second."""

    first: Int[Tensor, "pairs"]
    second: Int[Tensor, "pairs"]
    shift: Int[Tensor, "pairs 3"]


@dataclass(frozen=True)
class Neighbors:
    """Both directions of every pair, in rows of equal length.

    Row i lists the neighbours of atom i: ``index`` is the neighbour j, ``shift`` its cell shift S, ``present`` tells
    pairs from empty slots, and ``reverse`` is the position of the opposite direction (j, i, −S) in the flattened rows
    (its own position for an empty slot).
    """

    index: Int[Tensor, "atoms slots"]
    shift: Int[Tensor, "atoms slots 3"]
    present: Bool[Tensor, "atoms slots"]
    reverse: Int[Tensor, "atoms slots"]

    @classmethod
    def from_pairs(cls, pairs: Pairs, num_atoms: int) -> Neighbors:
        """Rows from pairs that are each given once."""
        count, device = len(pairs.first), pairs.first.device
        atom = torch.cat([pairs.first, pairs.second])
        neighbor = torch.cat([pairs.second, pairs.first])
        shift = torch.cat([pairs.shift, -pairs.shift])
        order = torch.argsort(atom, stable=True)
        degree = torch.bincount(atom, minlength=num_atoms)
        slots = int(degree.max()) if 2 * count else 0
        place = torch.arange(2 * count, device=device) - (degree.cumsum(0) - degree)[atom[order]]
        position = torch.empty_like(atom)
        position[order] = atom[order] * slots + place
        opposite = position.roll(count)  # the second half of the list mirrors the first
        index = torch.arange(num_atoms, device=device).repeat_interleave(slots)
        shifts = shift.new_zeros(num_atoms * slots, 3)
        present = torch.zeros(num_atoms * slots, dtype=torch.bool, device=device)
        reverse = torch.arange(num_atoms * slots, device=device)
        index[position], shifts[position], present[position], reverse[position] = (
            neighbor,
            shift,
            torch.tensor(True, device=device),
            opposite,
        )
        shape = (num_atoms, slots)
        return cls(index.view(shape), shifts.view(*shape, 3), present.view(shape), reverse.view(shape))

    def to(self, device: torch.device | str) -> Neighbors:
        """The same rows on another device."""
        return Neighbors(self.index.to(device), self.shift.to(device), self.present.to(device), self.reverse.to(device))

    def vectors(
        self, positions: Float[Tensor, "atoms 3"], lattice: Float[Tensor, "#atoms 3 3"]
    ) -> Float[Tensor, "atoms slots 3"]:
        """r_ij (Å) from positions (Å) and the lattice of each atom's crystal (or one for all); zero in empty slots."""
        neighbor = positions.index_select(0, self.index.flatten()).view(*self.index.shape, 3)
        return neighbor - positions.unsqueeze(1) + self.shift.to(positions.dtype) @ lattice


def find_pairs(
    positions: Float[Tensor, "atoms 3"],
    lattice: Float[Tensor, "3 3"],
    cutoff: float,
    *,
    periodic: bool | Sequence[bool] = True,
    backend: str = "vesin",
) -> Pairs:
    """All pairs of one crystal with |r| < cutoff (Å), each once. Positions need not lie in the cell.

    ``backend`` is "vesin" or "cluster" (torch-cluster over ghost images: for large systems on a GPU).

    >>> import torch
    >>> len(find_pairs(torch.zeros(1, 3), torch.eye(3), 1.1).first)       # simple cubic: 6 neighbours, 3 pairs
    3
    """
    if not bool(torch.isfinite(positions).all()) or not bool(torch.isfinite(lattice).all()):
        raise ValueError("a position or the lattice is not a finite number; neighbours cannot be found")
    flags = (periodic,) * 3 if isinstance(periodic, bool) else tuple(bool(flag) for flag in periodic)
    if not all(flags) and len(positions) and float(positions.abs().max()) > FARTHEST:
        raise ValueError(
            f"an atom is farther than {FARTHEST:g} Å from the origin: it has flown away, or is given in other units"
        )
    search = {"vesin": _find_with_vesin, "cluster": _find_with_cluster}
    if backend not in search:
        raise ValueError(f"the neighbour backend {backend!r} is none of {', '.join(search)}")
    reduced, change = _shortened(lattice.detach(), flags)
    first, second, shift = search[backend](positions.detach(), reduced, cutoff, flags)
    shift = shift @ change
    once = (first < second) | ((first == second) & _leads(shift))
    return Pairs(first[once], second[once], shift[once])


def join(pairs: Sequence[Pairs], num_atoms: Sequence[int]) -> Pairs:
    """The pairs of many crystals as pairs of one batch, whose atoms are numbered through."""
    starts = [0, *itertools.accumulate(num_atoms)]
    return Pairs(
        torch.cat([p.first + start for p, start in zip(pairs, starts, strict=False)]),
        torch.cat([p.second + start for p, start in zip(pairs, starts, strict=False)]),
        torch.cat([p.shift for p in pairs]),
    )


def largest_degree(pairs: Pairs, num_atoms: int) -> int:
    """How many neighbours the atom with the most of them has."""
    return int(torch.bincount(torch.cat([pairs.first, pairs.second]), minlength=num_atoms).max())


def _leads(shift: Int[Tensor, "pairs 3"]) -> Bool[Tensor, "pairs"]:
    """Whether the first entry that is not zero is positive: true for exactly one of S and −S."""
    x, y, z = shift.unbind(-1)
    return (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))


def _shortened(lattice: Tensor, periodic: tuple[bool, ...]) -> tuple[Tensor, Int[Tensor, "3 3"]]:
    """The lattice of a flat periodic cell with short vectors, and the whole numbers C that made them: C @ lattice.

    As long as a vector becomes shorter by taking away whole multiples of another (Lagrange), it is made so.
    """
    change, short = np.eye(3, dtype=np.int64), lattice.double().cpu().numpy().copy()
    volume = abs(np.linalg.det(short))
    if all(periodic) and 0 < volume < SKEWED * np.linalg.norm(short, axis=1).prod():
        shorter = True
        while shorter:
            shorter = False
            for long, other in itertools.permutations(range(3), 2):
                times = round(short[long] @ short[other] / (short[other] @ short[other]))
                candidate = short[long] - times * short[other]
                if candidate @ candidate < (1 - 1e-9) * (short[long] @ short[long]):
                    short[long], shorter = candidate, True
                    change[long] -= times * change[other]
    whole = torch.from_numpy(change).to(lattice.device)
    return whole.to(lattice.dtype) @ lattice, whole


def _find_with_vesin(
    positions: Tensor, lattice: Tensor, cutoff: float, periodic: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    from vesin import NeighborList

    calculator = NeighborList(cutoff=float(cutoff), full_list=True, n_threads=1)
    points, cell = positions.double().cpu(), lattice.double().cpu()
    box = (cell if all(periodic) or not len(points) else _boxed(points, cell, cutoff, periodic)).numpy()
    _refuse_scattered(box, cutoff)
    first, second, shift = calculator.compute(points.numpy(), box, True, "ijS")
    as_tensor = lambda array: torch.from_numpy(array.astype(np.int64)).to(positions.device)  # noqa: E731
    return as_tensor(first), as_tensor(second), as_tensor(shift).view(-1, 3)


def _boxed(positions: Tensor, lattice: Tensor, cutoff: float, periodic: tuple[bool, ...]) -> Tensor:
    """The lattice with a period where there is none, across which no atom sees another: vesin is slow with free axes."""
    full = _completed(lattice, periodic) if any(periodic) else torch.eye(3, dtype=lattice.dtype)
    coords = positions @ torch.linalg.inv(full)
    lengths = coords.amax(0) - coords.amin(0) + 2 * cutoff
    return full * torch.where(torch.tensor(periodic), 1.0, lengths).unsqueeze(1)


def _refuse_scattered(box: NDArray, cutoff: float) -> None:
    """An error for a space so long or so flat that vesin would have less than one box along an axis."""
    if np.maximum(np.linalg.norm(box, axis=1) / cutoff, 1).prod() < MOST_BOXES or not np.linalg.det(box):
        return
    heights = 1 / np.linalg.norm(np.linalg.inv(box), axis=0)
    boxes = np.maximum(heights / cutoff, 1)
    scale = np.cbrt(MOST_BOXES / boxes.prod())
    if scale < 1 and scale * boxes.min() < 2:  # its roundings may take one
        sides = " × ".join(f"{side:.3g}" for side in heights.tolist())
        raise ValueError(
            f"the atoms, or their cell, take {sides} Å, too long or too flat a space for a search of neighbours: an atom "
            "has flown away, or lengths are in other units"
        )


def _find_with_cluster(
    positions: Tensor, lattice: Tensor, cutoff: float, periodic: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """torch-cluster knows no periodic boundaries: search among ghost images. Both directions of every pair."""
    wrapped, moved = _into_cell(positions.double(), lattice.double(), periodic)
    images = _images(lattice.double(), wrapped, cutoff, periodic)
    ghosts = (wrapped.unsqueeze(0) + (images.to(wrapped) @ lattice.double()).unsqueeze(1)).flatten(0, 1)
    center, ghost = _radius(ghosts, wrapped, cutoff)
    second, shift = ghost % len(positions), images[ghost // len(positions)]
    real = (center != second) | (shift != 0).any(-1)
    center, second, shift = center[real], second[real], shift[real]
    return center, second, shift + moved[second] - moved[center]


def _into_cell(positions: Tensor, lattice: Tensor, periodic: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """Positions moved into the cell along its periodic axes, and the whole cells by which each was moved."""
    if not any(periodic):
        return positions, torch.zeros_like(positions, dtype=torch.int64)
    cells = -(positions @ torch.linalg.inv(_completed(lattice, periodic))).floor()
    cells = cells * torch.tensor(periodic, device=positions.device)
    return positions + cells @ lattice, cells.long()


def _completed(lattice: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """The lattice with unit vectors normal to the periodic ones in place of those that are not periodic."""
    full = lattice.clone()
    for axis in (axis for axis in range(3) if not periodic[axis]):
        others = torch.cat([full[:axis], full[axis + 1 :]])
        full[axis] = torch.linalg.svd(others).Vh[-1]
    return full


def _images(lattice: Tensor, wrapped: Tensor, cutoff: float, periodic: tuple[bool, ...]) -> Int[Tensor, "images 3"]:
    """The cell shifts that can hold a neighbour: ⌈cutoff / distance of the faces⌉ on each side of a periodic axis."""
    if not any(periodic):
        return torch.zeros(1, 3, dtype=torch.int64, device=lattice.device)
    heights = 1 / torch.linalg.inv(_completed(lattice, periodic)).norm(dim=0)
    reach = [int(torch.ceil(cutoff / height)) if flag else 0 for height, flag in zip(heights, periodic, strict=True)]
    return torch.cartesian_prod(*(torch.arange(-n, n + 1, device=lattice.device) for n in reach))


def _radius(ghosts: Tensor, centers: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """torch_cluster.radius without its silent cut: the bound on neighbours grows until no atom reaches it."""
    torch_cluster = _import_torch_cluster()
    bound = 64
    while True:
        center, ghost = torch_cluster.radius(ghosts, centers, cutoff, max_num_neighbors=bound)
        if len(center) == 0 or int(torch.bincount(center).max()) < bound or bound >= len(ghosts):
            break
        bound *= 4
    close = (ghosts[ghost] - centers[center]).norm(dim=-1) < cutoff
    return center[close], ghost[close]


def _import_torch_cluster() -> Any:
    try:
        import torch_cluster
    except ImportError as error:
        raise ImportError(
            "the neighbour backend 'cluster' needs torch-cluster, which is built against the installed torch: "
            'pip install --no-build-isolation "dao-ase[cluster]"; or use the backend "vesin"'
        ) from error
    return torch_cluster
