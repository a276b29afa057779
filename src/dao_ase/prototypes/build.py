"""The structure types of stores: crystals that differ in their elements and a little in their geometry are one type.

``python -m dao_ase.prototypes.build STORE... -o FILE`` writes what `dao_ase.prototypes.library` reads.

Crystals with equal numbers of atoms of each element are compared by their interatomic distances
(`dao_ase.data.fingerprint`), whatever the elements are called. The first crystal of a type stands for its geometry, in a
cell of unit volume per atom; of the others only the elements and the volume are kept. Stable crystals come first.

How well element a stands for b is what the types show: n_ab counts how often both occupy the same place of a type, e_ab how
often they would by chance, and

    d(a, b) = ½ (s_aa + s_bb) − s_ab,    s_ab = log((n_ab + 1) / (e_ab + 1)).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dao_ase import checkpoint
from dao_ase.composition import ATOMIC_NUMBERS
from dao_ase.crystals import Crystals
from dao_ase.data.fingerprint import BINS, distance_shifts, fingerprint
from dao_ase.data.shards import encode_texts
from dao_ase.data.store import CrystalStore
from dao_ase.prototypes.library import STEPS, orders, starts
from dao_ase.train.kinds import STABLE, UNKNOWN, UNSTABLE, kinds_of

SAME_TYPE = 0.1
"""Mean change of the distances of a pair of elements, in units of (V/N)^⅓, below which two crystals are of one type."""
CLOSEST = 0.05
"""The least d(a, b) of two different elements."""
TYPICAL_VOLUME, SMALLEST_VOLUME = 15.0, 4.0
"""Å³ that an atom takes where there is nothing to fit, and at least."""
ELEMENTS = max(ATOMIC_NUMBERS.values()) + 1


class _Anonymous(NamedTuple):
    """A crystal without the names of its elements, which are numbered by ascending counts."""

    lattice: NDArray[np.float64]
    coords: NDArray[np.float64]
    counts: tuple[int, ...]
    elements: NDArray[np.int64]
    shape: NDArray[np.float32]
    """Its fingerprint, [element, element, distance]."""

    @classmethod
    def of(cls, crystal: Crystals) -> _Anonymous:
        numbers = crystal.atomic_numbers.numpy()
        elements, place, amount = np.unique(numbers, return_inverse=True, return_counts=True)
        ascending = np.argsort(amount, kind="stable")
        place = np.argsort(ascending)[place]
        lattice, coords = crystal.lattice[0].double().numpy(), crystal.frac_coords.double().numpy()
        shape = fingerprint(lattice, coords, place).reshape(len(elements), len(elements), BINS)
        unit = lattice / (abs(np.linalg.det(lattice)) / len(coords)) ** (1 / 3)
        sorted_coords = coords[np.argsort(place, kind="stable")]
        return cls(unit, sorted_coords, tuple(amount[ascending].tolist()), elements[ascending], shape)


class _Member(NamedTuple):
    volume: float
    kind: int
    identifier: str


@dataclass
class _Types:
    """The types found so far, and who belongs to them with which elements in the places."""

    first: list[_Anonymous] = field(default_factory=list)
    alike: dict[tuple[int, ...], list[int]] = field(default_factory=lambda: defaultdict(list))
    members: dict[tuple[int, tuple[int, ...]], _Member] = field(default_factory=dict)

    def add(self, crystal: _Anonymous, member: _Member) -> None:
        """Puts a crystal to its type; of several with the same elements the first stays."""
        number, order = self._find(crystal)
        if number == len(self.first):
            self.first.append(crystal)
            self.alike[crystal.counts].append(number)
        self.members.setdefault((number, tuple(crystal.elements[list(order)].tolist())), member)

    def _find(self, crystal: _Anonymous) -> tuple[int, tuple[int, ...]]:
        """The nearest type and the order of the elements in it; a new one where none is near enough."""
        best = (SAME_TYPE, len(self.first), tuple(range(len(crystal.counts))))
        alike = self.alike[crystal.counts]
        if alike:
            known = np.stack([self.first[number].shape.reshape(-1) for number in alike])
            for order in orders(crystal.counts):
                shifts = distance_shifts(crystal.shape[np.ix_(order, order)].reshape(-1), known)
                nearest = int(shifts.argmin())
                best = min(best, (float(shifts[nearest]), alike[nearest], order))
        return best[1], best[2]


def build(stores: Sequence[CrystalStore], without: tuple[str, float] | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a prototype file; see `dao_ase.prototypes.library.PrototypeLibrary` for what they are.

    Crystals that have the value of the label ``without`` are left out.
    """
    kinds, identifiers, types = [kinds_of(store) for store in stores], [store.texts("id") for store in stores], _Types()
    priority = [STABLE, UNKNOWN, UNSTABLE]
    places = [
        (number, int(index)) for number, store in enumerate(stores) for index in np.flatnonzero(~_has(store, without))
    ]
    places.sort(key=lambda place: priority.index(kinds[place[0]][place[1]]))
    for store, index in tqdm(places, desc="structure types", unit="crystal"):
        crystal = stores[store][index]
        volume = float(crystal.volume.abs()) / int(crystal.num_atoms)
        types.add(_Anonymous.of(crystal), _Member(volume, int(kinds[store][index]), str(identifiers[store][index])))
    return _tensors(types)


def _has(store: CrystalStore, label: tuple[str, float] | None) -> NDArray[np.bool_]:
    """Which crystals have this value of a label."""
    known = label is not None and label[0] in store.labels
    return store.labels[label[0]] == label[1] if label and known else np.zeros(len(store), dtype=bool)


def _tensors(types: _Types) -> dict[str, torch.Tensor]:
    members = sorted(types.members.items(), key=lambda item: item[0][0])
    placed = [np.array(elements) for (_, elements), _ in members]
    counts = [np.array(types.first[number].counts) for (number, _), _ in members]
    volume = np.array([member.volume for _, member in members])
    texts, ends = encode_texts([member.identifier for _, member in members])
    coords = np.concatenate([np.round(one.coords % 1 * STEPS).astype(np.int64) % STEPS for one in types.first])
    return {
        "lattice": torch.tensor(np.stack([one.lattice for one in types.first]), dtype=torch.float32),
        "coords": torch.tensor(coords.astype(np.uint16)),
        "counts": torch.tensor([count for one in types.first for count in one.counts], dtype=torch.uint8),
        "elements_of_type": torch.tensor([len(one.counts) for one in types.first], dtype=torch.uint8),
        "member_type": torch.tensor([number for (number, _), _ in members], dtype=torch.int32),
        "member_elements": torch.tensor(np.concatenate(placed), dtype=torch.uint8),
        "member_volume": torch.tensor(volume, dtype=torch.float16),
        "member_kind": torch.tensor([member.kind for _, member in members], dtype=torch.uint8),
        "member_name": torch.tensor(texts),
        "member_name_end": torch.tensor(ends.astype(np.int32)),
        "distances": torch.tensor(element_distances([key for key, _ in members]), dtype=torch.float32),
        "volumes": torch.tensor(element_volumes(placed, counts, volume), dtype=torch.float32),
    }


def element_distances(members: list[tuple[int, tuple[int, ...]]]) -> NDArray[np.float64]:
    """d(a, b) of any two atomic numbers, from (type, elements in its places) of members, sorted by type."""
    numbers = np.array([number for number, _ in members])
    together = np.zeros((ELEMENTS, ELEMENTS))
    first = starts(np.unique(numbers, return_counts=True)[1])
    for start, end in zip(first, [*first[1:], len(members)], strict=True):
        for place in zip(*(elements for _, elements in members[start:end]), strict=True):
            occupied = np.bincount(place, minlength=ELEMENTS).astype(float)
            together += (np.outer(occupied, occupied) - np.diag(occupied)) / (end - start)
    alone = together.sum(1)
    similarity = np.log((together + 1) / (np.outer(alone, alone) / max(alone.sum(), 1.0) + 1))
    itself = np.diag(similarity)
    distances = np.maximum(0.5 * (itself[:, None] + itself) - similarity, CLOSEST)
    np.fill_diagonal(distances, 0.0)
    return distances


def element_volumes(
    placed: list[NDArray[np.int64]], counts: list[NDArray[np.int64]], volume: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What an atom of each element takes (Å³), by ridge regression of the volume per atom on the composition."""
    rows = np.zeros((len(volume), ELEMENTS))
    for row, elements, amount in zip(rows, placed, counts, strict=True):
        np.add.at(row, elements, amount / amount.sum())
    fitted = np.linalg.solve(rows.T @ rows + np.eye(ELEMENTS), rows.T @ volume + TYPICAL_VOLUME)
    return np.maximum(fitted, SMALLEST_VOLUME)


def main() -> None:
    """Writes the prototype file of stores."""
    parser = argparse.ArgumentParser(description="Finds the structure types of stores of crystals.")
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--without", metavar="LABEL=VALUE", help="leave out crystals whose label has this value")
    arguments = parser.parse_args()
    label, _, value = (arguments.without or "").partition("=")
    tensors = build([CrystalStore.open(path) for path in arguments.stores], (label, float(value)) if label else None)
    header = {
        "model": "prototypes",
        "types": len(tensors["lattice"]),
        "members": len(tensors["member_type"]),
        "same_type": SAME_TYPE,
        "source": "Materials Project (materialsproject.org), CC BY 4.0; coordinates rounded, elements and volumes taken out",
    }
    checkpoint.save(arguments.output, tensors, header)
    print(f"{header['types']} structure types, {header['members']} members: {arguments.output}")


if __name__ == "__main__":
    main()
