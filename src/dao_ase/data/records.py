"""One crystal as a source gives it, the checks that it must pass, and many of them as the columns of a shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from dao_ase.composition import SYMBOLS
from dao_ase.data.shards import encode_texts
from dao_ase.niggli import niggli_reduce, wrap_coords

MIN_VOLUME_PER_ATOM = 0.5
"""Å³; what is smaller is no crystal (the densest, diamond, has 5.7, and solid hydrogen under pressure about 2)."""

ABOVE_HULL, OTHER_ABOVE_HULL = "e_above_hull", "energy_above_hull"
"""The label (eV/atom) that rules look at, and its name in the Materials Project's present API."""


@dataclass(frozen=True)
class Record:
    """One crystal with its identifier, where it came from and its labels.

    ``labels`` are numbers, vectors or matrices of the crystal (energies in eV, stress in eV/Å³), ``atom_labels``
    those of its atoms (forces in eV/Å), ``texts`` everything else that the source said.
    """

    id: str
    lattice: Float[np.ndarray, "3 3"]
    frac_coords: Float[np.ndarray, "atoms 3"]
    atomic_numbers: Int[np.ndarray, "atoms"]
    source: str
    row: int
    labels: Mapping[str, float | np.ndarray] = field(default_factory=dict)
    atom_labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A row of a source that is not taken, and why; ``rule`` is the reason in a word or two, for counting."""

    source: str
    row: int
    id: str
    rule: str
    reason: str


class RejectedRecord(ValueError):
    """Raised where a row cannot be taken; ``rule`` is the reason in a word or two, ``id`` the identifier if it is known."""

    def __init__(self, rule: str, reason: str, id: str = "") -> None:
        super().__init__(reason)
        self.rule, self.id = rule, id


def check_record(record: Record) -> None:
    """Raises `RejectedRecord` unless cell and coordinates are finite, the cell has a volume and the elements exist."""
    if not len(record.atomic_numbers):
        raise RejectedRecord("no atoms", "the crystal has no atoms")
    if record.frac_coords.shape != (len(record.atomic_numbers), 3):
        raise RejectedRecord(
            "broken", f"{len(record.atomic_numbers)} atoms but coordinates of shape {record.frac_coords.shape}"
        )
    wrong = {int(number) for number in record.atomic_numbers if not 0 < number < len(SYMBOLS)}
    if wrong:
        raise RejectedRecord(
            "unknown element", f"atomic numbers {sorted(wrong)} are no elements (1 to {len(SYMBOLS) - 1})"
        )
    if not np.isfinite(record.lattice).all():
        raise RejectedRecord("not finite", f"the cell holds a value that is not finite: {record.lattice.tolist()}")
    if not np.isfinite(record.frac_coords).all():
        atom = int(np.flatnonzero(~np.isfinite(record.frac_coords).all(axis=1))[0])
        raise RejectedRecord("not finite", f"atom {atom} has the coordinates {record.frac_coords[atom].tolist()}")
    volume = abs(np.linalg.det(record.lattice)) / len(record.atomic_numbers)
    if not MIN_VOLUME_PER_ATOM <= volume < 1e5:
        raise RejectedRecord(
            "singular cell",
            f"the cell has {volume:.3g} Å³ per atom; between {MIN_VOLUME_PER_ATOM:g} and 100000 are sensible",
        )


def with_hull_label(record: Record) -> Record:
    """The same crystal with its energy above the hull as `ABOVE_HULL`, also where it stands under the other name."""
    known = record.labels.get(ABOVE_HULL, np.nan)
    if OTHER_ABOVE_HULL not in record.labels or not np.isnan(known).all():
        return record
    return replace(record, labels={**record.labels, ABOVE_HULL: record.labels[OTHER_ABOVE_HULL]})


def tidy_cell(record: Record, niggli: bool) -> Record:
    """The same crystal in a right-handed cell, Niggli-reduced if asked for, coordinates in [0, 1).

    A left-handed cell is turned into a right-handed one by L → −L, f → −f, which leaves every position as it is.
    """
    if niggli:
        lattice, coords = niggli_reduce(record.lattice, record.frac_coords)
    else:
        sign = 1.0 if np.linalg.det(record.lattice) > 0 else -1.0
        lattice, coords = sign * record.lattice, wrap_coords(sign * record.frac_coords)
    return replace(record, lattice=lattice, frac_coords=coords)


def pack(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The columns of a shard that holds these records; see `dao_ase.data.shards`."""
    columns = {
        "num_atoms": np.array([len(record.atomic_numbers) for record in records], dtype=np.int32),
        "lattice": np.array([record.lattice for record in records], dtype=np.float32).reshape(-1, 3, 3),
        "frac_coords": _join([record.frac_coords for record in records], np.float32, (3,)),
        "atomic_numbers": _join([record.atomic_numbers for record in records], np.uint8, ()),
        "row": np.array([record.row for record in records], dtype=np.int64),
    }
    columns["frac_coords"][columns["frac_coords"] >= 1] = 0  # float32 may round up to 1
    for name in _names(record.labels for record in records):
        columns[f"label.{name}"] = _stack([record.labels.get(name) for record in records])
    for name in _names(record.atom_labels for record in records):
        columns[f"atom.{name}"] = _stack_atoms(records, name)
    texts: dict[str, list[str]] = {
        "id": [record.id for record in records],
        "source": [record.source for record in records],
    }
    for name in _names(record.texts for record in records):
        texts.setdefault(name, [record.texts.get(name, "") for record in records])
    for name, values in texts.items():
        columns[f"text.{name}"], columns[f"text_end.{name}"] = encode_texts(values)
    return columns


def _names(mappings: Iterable[Mapping]) -> list[str]:
    return sorted({name for mapping in mappings for name in mapping})


def _join(arrays: Sequence[np.ndarray], dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros((0, *shape), dtype), *arrays], dtype=dtype, casting="unsafe")


def _stack(values: Sequence[float | np.ndarray | None]) -> np.ndarray:
    """One row for each value, NaN where it is missing or has another shape than the first that is there."""
    shape = next(np.shape(value) for value in values if value is not None)
    rows = np.full((len(values), *shape), np.nan)
    for row, value in zip(rows.reshape(len(values), *shape, 1), values, strict=True):
        if value is not None and np.shape(value) == shape:
            row[..., 0] = value
    return rows


def _stack_atoms(records: Sequence[Record], name: str) -> np.ndarray:
    tail = next(record.atom_labels[name].shape[1:] for record in records if name in record.atom_labels)
    parts = []
    for record in records:
        value, shape = record.atom_labels.get(name), (len(record.atomic_numbers), *tail)
        parts.append(value if value is not None and value.shape == shape else np.full(shape, np.nan))
    return _join(parts, np.float32, tail)
