"""The potential on crystals that move: laid out in rows of about equal length, anew only where a neighbour list has changed.

Rows of a batch are as long as the longest among them, and what is empty is computed all the same. So crystals with many
neighbours and crystals with few are evaluated apart, as long as that wastes less than one more call of the model costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dao_ase.derivatives import Layout
from dao_ase.neighbors import Neighbors, join
from dao_ase.potential import Potential
from dao_ase.verlet import VerletList

WASTE = 1500
"""Empty slots that cost about as much as a call of the model costs beside its arithmetic."""


@runtime_checkable
class Moving(Protocol):
    """A crystal whose geometry changes, with its list of neighbours."""

    numbers: Tensor
    positions: NDArray[np.float64]
    lattice: NDArray[np.float64]
    verlet: VerletList


class Answer(NamedTuple):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of one crystal."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def alike(sizes: Sequence[int], degrees: Sequence[int], waste: int = WASTE) -> list[list[int]]:
    """Groups of crystals, by their numbers of atoms and longest rows: cut where the empty slots of a group exceed ``waste``.

    >>> alike([10, 10, 10], [100, 99, 20], waste=500)
    [[0, 1], [2]]
    """
    groups: list[list[int]] = []
    width = empty = 0
    for place in sorted(range(len(sizes)), key=lambda place: (-degrees[place], place)):
        empty += sizes[place] * (width - degrees[place])
        if not groups or empty > waste:
            groups.append([])
            width, empty = degrees[place], 0
        groups[-1].append(place)
    return groups


class Rows:
    """The model on all moving crystals, group by group."""

    def __init__(self, model: Potential) -> None:
        self.model = model
        self._laid_out: dict[tuple, Layout] = {}
        self._seen: tuple[Moving, ...] = ()

    def evaluate(self, crystals: Sequence[Moving]) -> list[Answer]:
        """Energy, forces and stress of each crystal."""
        answers: dict[int, Answer] = {}
        laid_out: dict[tuple, Layout] = {}
        for group in alike([len(one.numbers) for one in crystals], [one.verlet.degree for one in crystals]):
            members = [crystals[place] for place in group]
            key = tuple((id(one), one.verlet.builds) for one in members)
            laid_out[key] = self._laid_out[key] if key in self._laid_out else self._lay_out(members)
            answers |= zip(group, _answers(members, laid_out[key]), strict=True)
        # the crystals are kept as long as their layouts: another crystal must not come to the same id
        self._laid_out, self._seen = laid_out, tuple(crystals)
        return [answers[place] for place in range(len(crystals))]

    def _lay_out(self, members: Sequence[Moving]) -> Layout:
        device, counts = self.model.reference.device, [len(one.numbers) for one in members]
        pairs = join([one.verlet.pairs for one in members], counts)
        crystal_index = torch.from_numpy(np.repeat(np.arange(len(members)), counts))
        numbers = torch.cat([one.numbers for one in members])
        rows = Neighbors.from_pairs(pairs, sum(counts))
        return Layout(self.model, numbers.to(device), rows.to(device), crystal_index.to(device))


def _answers(members: Sequence[Moving], layout: Layout) -> list[Answer]:
    device = layout.model.reference.device
    lattice = torch.from_numpy(np.stack([one.lattice for one in members]))
    positions = torch.from_numpy(np.concatenate([one.positions for one in members]))
    predicted = layout.predict(positions.to(device), lattice.to(device))
    forces, stress = (values.double().cpu().numpy() for values in (predicted.forces, predicted.stress))
    ends = np.cumsum([len(one.numbers) for one in members])
    parts = np.split(forces, ends[:-1])
    return [Answer(*one) for one in zip(predicted.energy.tolist(), parts, stress, strict=True)]
