"""Neighbour lists that outlive small motions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dao_ase.memory import refuse_too_large
from dao_ase.neighbors import Pairs, find_pairs, largest_degree
from dao_ase.potential import Potential

MIN_DISTANCE = 0.05
"""Two atoms closer than this (Å) are taken for one atom given twice."""
MANY_ATOMS = 1000
"""Fewer atoms, or slots of neighbours, fit everywhere: what they need is not compared with the memory that there is."""
MIN_VOLUME = 1.0
"""Å³ for each atom. In less, as where lengths are in other units, a few atoms have more neighbours than fit anywhere."""


class VerletList:
    """The pairs of one crystal within the model's cutoffs plus a skin, found again only when one may have been missed.

    Let F be the deformation of the cell since the pairs were found, and u the largest displacement of an atom beyond it.
    A pair outside the list was at least r_c + skin apart; now it is at least σ_min(F) (r_c + skin) − 2u apart, which is
    no less than r_c as long as 2u ≤ σ_min (r_c + skin) − r_c. The largest r_c gives the strictest bound when σ_min < 1.
    """

    def __init__(
        self,
        model: Potential,
        atomic_numbers: Tensor,
        *,
        periodic: bool | Sequence[bool] = True,
        skin: float = 0.5,
        backend: str = "vesin",
    ) -> None:
        model.refuse_untrained(atomic_numbers.tolist())
        self.model, self.atomic_numbers, self.backend = model, atomic_numbers, backend
        self.periodic, self.skin = periodic, skin
        self.cutoff = model.max_cutoff(atomic_numbers)
        self.builds = self.degree = 0
        self._at: tuple[NDArray, NDArray] | None = None
        self.pairs: Pairs

    def update(self, positions: NDArray[np.float64], lattice: NDArray[np.float64]) -> bool:
        """Makes `pairs` right for this geometry (Å); whether they had to be found again."""
        if self._holds(positions, lattice):
            return False
        self._at = None  # until the new pairs are there: an interrupt must not leave them with the old geometry
        self._refuse_too_many(lattice)
        x, cell = (torch.tensor(one, device="cpu") for one in (positions, lattice))
        pairs = find_pairs(x, cell, self.cutoff + self.skin, periodic=self.periodic, backend=self.backend)
        self._refuse_coincident(x, cell, pairs)
        self.pairs = self.model.within_cutoff(self.atomic_numbers, x, cell, pairs, self.skin)
        self.degree = largest_degree(self.pairs, len(self.atomic_numbers))
        self._refuse(len(self.atomic_numbers) * self.degree)
        self.builds += 1
        self._at = (positions.copy(), lattice.copy())
        return True

    def _holds(self, positions: NDArray, lattice: NDArray) -> bool:
        if self._at is None or not np.isfinite(positions).all():
            return False
        origin, cell = self._at
        shrink = 1.0
        if not np.array_equal(cell, lattice):
            if abs(np.linalg.det(cell)) < 1e-6:
                return False
            deformation = np.linalg.solve(cell, lattice)
            origin = origin @ deformation
            shrink = min(1.0, float(np.linalg.svd(deformation, compute_uv=False)[-1]))
        moved = float(np.sqrt(((positions - origin) ** 2).sum(1).max()))
        return 2 * moved < shrink * (self.cutoff + self.skin) - self.cutoff

    def _refuse_too_many(self, lattice: NDArray) -> None:
        """Before the search, which takes memory of its own: by the neighbours that atoms of this density have."""
        volume = abs(float(np.linalg.det(lattice)))
        if len(self.atomic_numbers) < MANY_ATOMS and volume > MIN_VOLUME * len(self.atomic_numbers):
            return
        if volume > 0 and (self.periodic is True or (not isinstance(self.periodic, bool) and all(self.periodic))):
            kinds, counts = torch.unique(self.atomic_numbers, return_counts=True)
            sphere = 4 / 3 * np.pi * self.model.pair_cutoff(kinds.unsqueeze(1), kinds.unsqueeze(0)).double() ** 3
            expected = float((counts.unsqueeze(1) * counts * sphere).sum()) / volume - len(self.atomic_numbers)
            self._refuse(max(int(expected), 0))

    def _refuse(self, slots: int) -> None:
        count = len(self.atomic_numbers)
        if slots < MANY_ATOMS:
            return
        what = f"{count} atoms with about {slots // count} neighbours each"
        refuse_too_large(self.model.bytes_needed(count, slots), what, self.model.reference.device)

    @staticmethod
    def _refuse_coincident(positions: Tensor, lattice: Tensor, pairs: Pairs) -> None:
        vectors = positions[pairs.second] - positions[pairs.first] + pairs.shift.to(lattice.dtype) @ lattice
        distance = vectors.norm(dim=-1)
        if len(distance) and float(distance.min()) < MIN_DISTANCE:
            worst = int(distance.argmin())
            first, second = int(pairs.first[worst]), int(pairs.second[worst])
            raise ValueError(
                f"atoms {first} and {second} are {float(distance[worst]):.3g} Å apart; atoms must be at least "
                f"{MIN_DISTANCE} Å apart: remove the duplicate or mend the cell"
            )
