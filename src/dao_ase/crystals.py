"""The batch of crystals that every module speaks, and how many crystals are divided into parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Crystals:
    """Periodic crystals, concatenated along the atoms.

    Rows of ``lattice`` are the lattice vectors (Å), so positions are ``frac_coords @ lattice``; fractional coordinates
    are dimensionless and need not be wrapped. The atoms of crystal c stand together, after those of crystal c − 1.
    """

    lattice: Float[Tensor, "crystals 3 3"]
    frac_coords: Float[Tensor, "atoms 3"]
    atomic_numbers: Int[Tensor, "atoms"]
    num_atoms: Int[Tensor, "crystals"]

    def __post_init__(self) -> None:
        total = int(self.num_atoms.sum())
        if (
            total != len(self.frac_coords)
            or total != len(self.atomic_numbers)
            or len(self.num_atoms) != len(self.lattice)
        ):
            raise ValueError(
                f"{len(self.lattice)} lattices, {len(self.num_atoms)} atom counts that sum to {total}, "
                f"{len(self.frac_coords)} coordinates and {len(self.atomic_numbers)} atomic numbers do not fit together"
            )

    @property
    def crystal_index(self) -> Int[Tensor, "atoms"]:
        """The crystal to which each atom belongs."""
        count = torch.arange(len(self), device=self.num_atoms.device)
        return count.repeat_interleave(self.num_atoms, output_size=len(self.frac_coords))

    @property
    def first_atom(self) -> Int[Tensor, "crystals"]:
        """The index of the first atom of each crystal."""
        return self.num_atoms.cumsum(0) - self.num_atoms

    @property
    def positions(self) -> Float[Tensor, "atoms 3"]:
        """Cartesian positions (Å)."""
        return torch.einsum("ax,axy->ay", self.frac_coords, self.lattice[self.crystal_index])

    @property
    def volume(self) -> Float[Tensor, "crystals"]:
        """Cell volumes (Å³), negative for left-handed cells."""
        return torch.linalg.det(self.lattice)

    @property
    def dtype(self) -> torch.dtype:
        """The floating point type of lattice and coordinates."""
        return self.lattice.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.lattice.device

    def __len__(self) -> int:
        return len(self.lattice)

    def __iter__(self) -> Iterator[Crystals]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, selection: SupportsIndex | slice | Sequence[int] | Tensor) -> Crystals:
        """The selected crystals, in the order of the selection; an int gives a batch of one."""
        chosen = torch.arange(len(self), device=self.num_atoms.device)[selection].reshape(-1)
        counts = self.num_atoms[chosen]
        starts = (self.first_atom[chosen] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
        atoms = starts + torch.arange(len(starts), device=starts.device)
        return Crystals(self.lattice[chosen], self.frac_coords[atoms], self.atomic_numbers[atoms], counts)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Crystals:
        """The same crystals on another device or in another floating point type."""
        return Crystals(
            self.lattice.to(device=device, dtype=dtype),
            self.frac_coords.to(device=device, dtype=dtype),
            self.atomic_numbers.to(device=device),
            self.num_atoms.to(device=device),
        )

    def replace(
        self,
        *,
        lattice: Float[Tensor, "crystals 3 3"] | None = None,
        frac_coords: Float[Tensor, "atoms 3"] | None = None,
    ) -> Crystals:
        """The same atoms with another geometry."""
        return Crystals(
            self.lattice if lattice is None else lattice,
            self.frac_coords if frac_coords is None else frac_coords,
            self.atomic_numbers,
            self.num_atoms,
        )

    @staticmethod
    def concatenate(batches: Sequence[Crystals]) -> Crystals:
        """One batch out of many."""
        return Crystals(
            torch.cat([batch.lattice for batch in batches]),
            torch.cat([batch.frac_coords for batch in batches]),
            torch.cat([batch.atomic_numbers for batch in batches]),
            torch.cat([batch.num_atoms for batch in batches]),
        )


def parts_within(work: Sequence[int], budget: int) -> list[list[int]]:
    """Consecutive indices whose work stays within the budget, at least one in each part.

    >>> parts_within([8, 2, 30, 5, 5], 10)
    [[0, 1], [2], [3, 4]]
    """
    parts: list[list[int]] = []
    room = 0
    for index, amount in enumerate(work):
        if not parts or amount > room:
            parts.append([])
            room = budget
        parts[-1].append(index)
        room -= amount
    return parts
