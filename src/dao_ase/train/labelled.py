"""Labelled crystals (energy, forces, stress) with their neighbours found once, in batches of about equal cost."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dao_ase.composition import reduced_key
from dao_ase.neighbors import Neighbors, Pairs, find_pairs
from dao_ase.potential import Potential
from dao_ase.whole_files import replacing


@dataclass(frozen=True)
class LabelledBatch:
    """What the potential sees of a batch, and what it should answer."""

    atomic_numbers: Tensor
    vectors: Float[Tensor, "atoms slots 3"]
    neighbors: Neighbors
    crystal_index: Tensor
    num_atoms: Tensor
    volume: Float[Tensor, "crystals"]
    energy: Float[Tensor, "crystals"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "crystals 3 3"]

    def __len__(self) -> int:
        return len(self.energy)


@dataclass(frozen=True)
class LabelledCrystals:
    """Frames with labels, concatenated along the atoms; energy of the cell (eV), forces (eV/Å), stress (eV/Å³).

    An energy or a stress that is not a number is not known, or stands on another scale: it is not trained on.
    """

    num_atoms: NDArray[np.int64]
    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    lattice: NDArray[np.float64]
    energy: NDArray[np.float64]
    forces: NDArray[np.float32]
    stress: NDArray[np.float32]

    @classmethod
    def load(cls, path: str | Path) -> LabelledCrystals:
        """Reads an npz file with ``n_atoms, numbers, frac_coords, lattice, forces, stress`` and ``energy[_per_atom]``."""
        try:
            return cls._read(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file of labels {str(path)!r}") from None
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{str(path)!r} cannot be read as a file of labels: {error}") from error

    @classmethod
    def _read(cls, path: str | Path) -> LabelledCrystals:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            counts = file["n_atoms"].astype(np.int64)
            energy = file["energy"] if "energy" in file else file["energy_per_atom"] * counts
            return cls(
                counts,
                file["numbers"].astype(np.int64),
                file["frac_coords"].astype(np.float64),
                file["lattice"].astype(np.float64),
                energy.astype(np.float64),
                file["forces"].astype(np.float32),
                file["stress"].astype(np.float32),
            )

    def __len__(self) -> int:
        return len(self.num_atoms)

    @property
    def starts(self) -> NDArray[np.int64]:
        """The first atom of each frame, and one past the last."""
        return np.concatenate([[0], np.cumsum(self.num_atoms)])

    def select(self, chosen: NDArray[np.int64]) -> LabelledCrystals:
        """The chosen frames, in this order."""
        starts = self.starts
        atoms = np.concatenate([np.arange(starts[frame], starts[frame + 1]) for frame in chosen])
        return LabelledCrystals(
            self.num_atoms[chosen],
            self.atomic_numbers[atoms],
            self.frac_coords[atoms],
            self.lattice[chosen],
            self.energy[chosen],
            self.forces[atoms],
            self.stress[chosen],
        )

    def join(self, other: LabelledCrystals) -> LabelledCrystals:
        """These frames and the others."""
        return LabelledCrystals(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__)
        )

    def counts(self) -> NDArray[np.float64]:
        """How many atoms of each element (column: atomic number) each frame holds."""
        return element_counts(self.atomic_numbers, self.num_atoms)

    def formulas(self) -> list[tuple[tuple[int, int], ...]]:
        """The reduced formula of each frame, as `dao_ase.composition.reduced_key` writes it."""
        starts = self.starts
        return [reduced_key(self.atomic_numbers[starts[i] : starts[i + 1]]) for i in range(len(self))]


def element_counts(atomic_numbers: NDArray[np.int64], num_atoms: NDArray[np.integer]) -> NDArray[np.float64]:
    """How many atoms of each element (column: atomic number) each crystal (row) holds."""
    table = np.zeros((len(num_atoms), 119))
    np.add.at(table, (np.repeat(np.arange(len(num_atoms)), num_atoms), atomic_numbers), 1)
    return table


def fit_references(
    counts: NDArray[np.float64], energy: NDArray[np.float64], ridge: float = 1e-2
) -> NDArray[np.float64]:
    """Reference energies of the elements (eV): least squares of E/N on the composition, pulled gently to the common mean.

    Elements that do not occur get 0.
    """
    known = np.isfinite(energy)
    counts, energy = counts[known], energy[known]
    size = counts.sum(1, keepdims=True)
    shares, target = counts / size, energy / size[:, 0]
    mean = target.mean()
    matrix = shares.T @ shares + ridge * np.eye(shares.shape[1])
    fitted = mean + np.linalg.solve(matrix, shares.T @ (target - mean))
    return np.where(counts.sum(0) > 0, fitted, 0.0)


class NeighborCache:
    """The pairs of every frame within the model's cutoffs, found once and kept as flat arrays, with what they are of."""

    def __init__(self, frames: LabelledCrystals, model: Potential, file: Path | None = None) -> None:
        key = _key(frames, model)
        if file is None or not file.exists():
            arrays = _find_all(frames, model) | {"key": np.array(key)}
            if file is not None:
                with replacing(file) as temporary:
                    np.savez(temporary, allow_pickle=False, **arrays)
        else:
            with np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
        if len(arrays["count"]) != len(frames):
            raise ValueError(
                f"{file} holds the pairs of {len(arrays['count'])} frames, not of {len(frames)}; delete it"
            )
        if str(arrays.get("key", key)) != key:  # older files have none
            raise ValueError(f"{file} holds the pairs of other frames, or within other cutoffs; delete it")
        self.count, self.degree = arrays["count"], arrays["degree"]
        self.first, self.second, self.shift = arrays["first"], arrays["second"], arrays["shift"]
        self.starts = np.concatenate([[0], np.cumsum(self.count)])

    def pairs(self, frames: NDArray[np.int64], num_atoms: NDArray[np.int64]) -> Pairs:
        """The pairs of some frames, as pairs of one batch."""
        taken = np.concatenate([np.arange(self.starts[f], self.starts[f + 1]) for f in frames])
        offset = np.repeat(np.cumsum(num_atoms) - num_atoms, self.count[frames])
        first, second = self.first[taken] + offset, self.second[taken] + offset
        return Pairs(
            torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(self.shift[taken].astype(np.int64))
        )


def _key(frames: LabelledCrystals, model: Potential) -> str:
    """Sixteen digits that geometries and cutoffs decide, on which the pairs depend."""
    elements = torch.arange(len(model.radii))
    arrays = frames.num_atoms, frames.atomic_numbers, frames.frac_coords, frames.lattice
    digest = hashlib.sha256(model.pair_cutoff(elements, elements).detach().cpu().numpy().round(4).tobytes())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _find_all(frames: LabelledCrystals, model: Potential) -> dict[str, NDArray]:
    counts, degrees, parts = [], [], []
    starts = frames.starts
    for frame, lattice in enumerate(torch.from_numpy(frames.lattice)):
        atoms = slice(starts[frame], starts[frame + 1])
        numbers = torch.from_numpy(frames.atomic_numbers[atoms])
        positions = torch.from_numpy(frames.frac_coords[atoms]) @ lattice
        pairs = model.within_cutoff(
            numbers, positions, lattice, find_pairs(positions, lattice, model.max_cutoff(numbers))
        )
        parts.append([part.numpy() for part in pairs])
        counts.append(len(pairs.first))
        ends = np.concatenate(parts[-1][:2])
        degrees.append(np.bincount(ends, minlength=1).max())
    first, second, shift = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return {
        "count": np.array(counts),
        "degree": np.array(degrees),
        "first": first.astype(np.int16),
        "second": second.astype(np.int16),
        "shift": shift.astype(np.int8),
    }


class LabelledBatches:
    """An endless iterator of batches whose rows of neighbours are equally long, so that few slots stay empty.

    Every pass takes each frame ``repeats`` times in a new random order: frames are sorted by their largest number of
    neighbours, blurred by 10 %, and cut where atoms × slots would exceed ``slots``; the batches come in random order, and
    are dealt out to the processes that train together.
    """

    def __init__(
        self,
        frames: LabelledCrystals,
        cache: NeighborCache,
        *,
        slots: int = 14_000,
        repeats: NDArray[np.int64] | None = None,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.frames, self.cache, self.slots, self.seed = frames, cache, slots, seed
        self._rank, self._processes = rank, processes
        self._members = np.repeat(np.arange(len(frames)), 1 if repeats is None else repeats)
        self._starts = frames.starts
        self._pass = self._place = 0
        self._plan = self._shuffle()

    def __iter__(self) -> Iterator[LabelledBatch]:
        return self

    def __next__(self) -> LabelledBatch:
        if self._place >= len(self._plan):  # fewer batches than before, if other processes share them
            self._pass, self._place = self._pass + 1, 0
            self._plan = self._shuffle()
        self._place += 1
        return self.batch(self._plan[self._place - 1])

    def state_dict(self) -> dict:
        """Where in which pass the iterator stands."""
        return {"pass": self._pass, "place": self._place}

    def load_state_dict(self, state: dict) -> None:
        """Continues where `state_dict` was taken."""
        self._pass, self._place = state["pass"], state["place"]
        self._plan = self._shuffle()

    def in_order(self) -> list[LabelledBatch]:
        """Every frame once, in batches: for validation."""
        order = np.argsort(self.cache.degree, kind="stable")
        return [self.batch(part) for part in self._cut(order)]

    def batch(self, chosen: NDArray[np.int64]) -> LabelledBatch:
        """The batch of these frames."""
        frames, counts = self.frames, self.frames.num_atoms[chosen]
        atoms = np.concatenate([np.arange(self._starts[f], self._starts[f + 1]) for f in chosen])
        crystal_index = torch.from_numpy(np.repeat(np.arange(len(chosen)), counts))
        lattice = torch.from_numpy(frames.lattice[chosen])
        frac_coords = torch.from_numpy(frames.frac_coords[atoms])
        positions = torch.einsum("ax,axy->ay", frac_coords, lattice[crystal_index])
        neighbors = Neighbors.from_pairs(self.cache.pairs(chosen, counts), len(atoms))
        return LabelledBatch(
            atomic_numbers=torch.from_numpy(frames.atomic_numbers[atoms]),
            vectors=neighbors.vectors(positions.float(), lattice.float()[crystal_index]),
            neighbors=neighbors,
            crystal_index=crystal_index,
            num_atoms=torch.from_numpy(counts),
            volume=torch.linalg.det(lattice).abs().float(),
            energy=torch.from_numpy(frames.energy[chosen]),
            forces=torch.from_numpy(frames.forces[atoms]),
            stress=torch.from_numpy(frames.stress[chosen]),
        )

    def _shuffle(self) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, self._pass])
        blurred = self.cache.degree[self._members] * (1 + 0.1 * rng.random(len(self._members)))
        batches = self._cut(self._members[np.argsort(blurred, kind="stable")])
        dealt = rng.permutation(len(batches) // self._processes * self._processes)[self._rank :: self._processes]
        return [batches[place] for place in dealt]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Consecutive parts of ``order``, each with at most ``slots`` atoms × slots, or a single frame."""
        parts, start, atoms, widest = [], 0, 0, 0
        for place, frame in enumerate(order):
            atoms, widest = atoms + self.frames.num_atoms[frame], max(widest, self.cache.degree[frame], 1)
            if place > start and atoms * widest > self.slots:
                parts.append(order[start:place])
                start, atoms, widest = place, self.frames.num_atoms[frame], max(self.cache.degree[frame], 1)
        return [*parts, order[start:]]
