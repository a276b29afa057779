"""A table of crystals with one number each, from any source of the data layer; rows that cannot be used are named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase.composition import SYMBOLS, Composition, reduced_key
from dao_ase.crystals import Crystals
from dao_ase.data.reading import Source, read
from dao_ase.data.records import Record, Rejected
from dao_ase.data.splits import formula_folds

Formula = tuple[tuple[int, int], ...]
FAMILY = "family"
"""The column by which errors are grouped where none is named; a table need not have it."""
SPREADS = (1e-9, 1e30)
"""Mean deviations, smallest and largest, of what can be learnt in float32; SI units of atoms are often outside."""
FURTHEST = 1e5
"""How many mean deviations from zero values may lie; beyond, float32 with its 7 digits rounds differences by a percent."""


@dataclass(frozen=True)
class Target:
    """Which property is learnt, and how: its logarithm (natural), or its share per atom where it is extensive.

    ``least`` is the smallest value that the property can have, zero for a band gap: a prediction below it is raised to it.
    """

    name: str
    unit: str = ""
    log: bool = False
    extensive: bool = False
    least: float | None = None

    @property
    def learnt_name(self) -> str:
        """What is learnt, in words.

        >>> Target("energy", extensive=True).learnt_name, Target("Tc", log=True).learnt_name
        ('energy per atom', 'ln(Tc)')
        """
        name = f"{self.name} per atom" if self.extensive else self.name
        return f"ln({name})" if self.log else name

    def learnt(self, values: NDArray[np.float64], num_atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is learnt of these values."""
        values = values / num_atoms if self.extensive else values
        return np.log(values) if self.log else values

    def restored(self, learnt: NDArray[np.float64], num_atoms: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values again."""
        values = np.exp(learnt) if self.log else learnt
        values = values * num_atoms if self.extensive else values
        return values if self.least is None else np.maximum(values, self.least)


@dataclass(frozen=True)
class PropertyTable:
    """Crystals, the number of each, and the rows that were left out with the rule and the reason."""

    ids: list[str]
    crystals: Crystals
    values: NDArray[np.float64]
    formulas: list[Formula]
    families: list[str]
    left_out: list[Rejected] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were left out by which rule."""
        return dict(Counter(row.rule for row in self.left_out).most_common())

    def select(self, chosen: NDArray[np.int64]) -> PropertyTable:
        """Only the chosen rows, in this order."""
        index = chosen.tolist()
        return PropertyTable(
            [self.ids[i] for i in index],
            self.crystals[index],
            self.values[chosen],
            [self.formulas[i] for i in index],
            [self.families[i] for i in index],
            self.left_out,
        )

    @classmethod
    def join(cls, tables: Sequence[PropertyTable]) -> PropertyTable:
        """The rows of several tables in one."""
        return cls(
            [one for table in tables for one in table.ids],
            Crystals.concatenate([table.crystals for table in tables]),
            np.concatenate([table.values for table in tables]),
            [one for table in tables for one in table.formulas],
            [one for table in tables for one in table.families],
            [one for table in tables for one in table.left_out],
        )


def read_table(
    sources: Sequence[Source],
    target: Target,
    trained: Collection[int],
    *,
    family: str = FAMILY,
    exclude: Sequence[str] = (),
    least: float = -math.inf,
) -> PropertyTable:
    """The usable rows of the sources, whose label ``target.name`` is the number to be learnt.

    ``trained`` are the atomic numbers that the trunk knows. ``exclude`` lists formulas whose crystals, and crystals close
    to them, are left out (`too_close`), ``least`` the smallest number that is taken. ``family`` names a text or a number of
    the rows.
    """
    left_out: list[Rejected] = []
    records: list[Record] = []
    columns: Counter[str] = Counter()
    shares = [_shares(Composition.parse(formula).atomic_numbers) for formula in exclude]
    for source in sources:
        for record in read(source, left_out.append):
            columns.update(name for name, value in record.labels.items() if np.ndim(value) == 0)
            wrong = _why_not(record, target, trained, shares, least)
            if wrong is None:
                records.append(record)
            else:
                left_out.append(Rejected(record.source, record.row, record.id, *wrong))
    if target.name not in columns:
        known = ", ".join(sorted(columns)) or "none"
        broken = [row for row in left_out if row.rule != "missing target"]
        unread = (
            f"; {len(broken)} cannot be used, {broken[0].id or f'row {broken[0].row}'}: {broken[0].reason}"
            if broken
            else ""
        )
        raise ValueError(f"no row has a number in the column {target.name!r}; columns with numbers: {known}{unread}")
    families = [_family(record, family) for record in records]
    if records and family != FAMILY and not any(families):
        raise ValueError(f"no row has a text or a number in the column {family!r}, by which errors are to be grouped")
    return PropertyTable(
        [record.id for record in records],
        crystals_of(records),
        np.array([float(record.labels[target.name]) for record in records]),
        [reduced_key(record.atomic_numbers) for record in records],
        families,
        left_out,
    )


def refuse_unlearnable(table: PropertyTable, folds: int, seed: int = 0) -> None:
    """Raises `ValueError` where no model can be made: too few rows, too few formulas, or the same number everywhere.

    Crystals of one formula stay in one fold, so that what is trained on may be few formulas even in a long table.
    """
    left_out = ", ".join(f"{count} {rule}" for rule, count in table.counts.items())
    rest = f"{len(table)} usable rows" + (f" (left out: {left_out})" if left_out else "")
    formulas = len(set(table.formulas))
    if formulas < max(folds, 3):
        raise ValueError(
            f"{rest} with {formulas} different formulas: fewer than the {folds} folds need; crystals of one formula stay "
            "in one fold, and each fold needs some to train on and some to stop by: give more rows or fewer folds"
        )
    place = formula_folds(table.formulas, folds, seed).tolist()
    pairs = set(zip(place, table.formulas, strict=True))
    if any(sum(other != fold for other, _ in pairs) < 2 for fold in range(folds)):
        raise ValueError(
            f"{rest} with {formulas} different formulas: one of the {folds} folds would have crystals of a single formula "
            "to train on, and each needs some to train on and some to stop by: give rows of more formulas, or more folds"
        )
    if np.ptp(table.values) <= 1e-9 * max(1e-30, float(np.abs(table.values).max())):
        raise ValueError(f"{rest}, but all have the value {table.values[0]:g}: there is nothing to learn")


def refuse_other_scales(target: Target, learnt: NDArray[np.float64]) -> None:
    """Raises `ValueError` where what is learnt is so large or so small that float32 cannot tell its values apart."""
    middle = float(np.median(learnt))
    spread = float(np.abs(learnt - middle).mean())
    if not SPREADS[0] <= spread <= SPREADS[1]:
        raise ValueError(
            f"the values of {target.name} differ by {spread:.2g} on average; what differs by {SPREADS[0]:g} to "
            f"{SPREADS[1]:g} can be learnt: give them in another unit"
        )
    if abs(middle) > FURTHEST * spread:
        raise ValueError(
            f"the values of {target.name} are about {middle:.6g} and differ by {spread:.2g} on average, of which float32 "
            "keeps too little: give them less a constant, such as their mean"
        )


def crystals_of(records: Sequence[Record]) -> Crystals:
    """The records as one batch, in float64."""
    return Crystals(
        torch.from_numpy(np.array([record.lattice for record in records], dtype=np.float64).reshape(-1, 3, 3)),
        torch.from_numpy(np.concatenate([np.zeros((0, 3)), *(record.frac_coords for record in records)])),
        torch.from_numpy(
            np.concatenate([np.zeros(0), *(record.atomic_numbers for record in records)]).astype(np.int64)
        ),
        torch.tensor([len(record.atomic_numbers) for record in records], dtype=torch.int64, device="cpu"),
    )


def too_close(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether a composition (atomic fractions by atomic number) is another one, or a doped form of it.

    The distance is the share of the atoms that would have to be exchanged. Up to a tenth is the same or doped, whatever the
    dopant; a composition with all elements of ``second`` is already too close at a quarter.
    """
    distance = 0.5 * float(np.abs(first - second).sum())
    return distance <= (0.25 if bool((first[second > 0] > 0).all()) else 0.1)


def _shares(atomic_numbers: Sequence[int]) -> NDArray[np.float64]:
    return np.bincount(np.asarray(atomic_numbers), minlength=len(SYMBOLS)) / len(atomic_numbers)


def _family(record: Record, column: str) -> str:
    """The text by which errors are grouped, which may be a number: that of the space group."""
    number = record.labels.get(column, math.nan)
    known = np.ndim(number) == 0 and not math.isnan(float(number))
    return record.texts.get(column, f"{float(number):g}" if known else "")


def _why_not(
    record: Record,
    target: Target,
    trained: Collection[int],
    excluded: Sequence[NDArray[np.float64]],
    least: float,
) -> tuple[str, str] | None:
    """The rule and the reason by which a row is left out, if it is."""
    value = record.labels.get(target.name)
    if value is None or np.ndim(value) != 0 or math.isnan(float(value)):
        text = record.texts.get(target.name)
        if text is not None:
            remedy = "; a number has a decimal point and no comma" * ("," in text)
            return "not a number", f"the column {target.name!r} holds {text!r}{remedy}"
        return "missing target", f"the column {target.name!r} holds no number"
    number = float(value)
    if math.isinf(number):
        return "not finite", f"{target.name} is {number:g}; a finite number can be learnt"
    if target.log and number <= 0:
        return "not positive", f"{target.name} is {number:g}, which has no logarithm"
    if number < least:
        return "below the least value", f"{target.name} is {number:g}, less than {least:g}"
    unknown = sorted(set(record.atomic_numbers.tolist()) - set(trained))
    if unknown:
        symbols = ", ".join(SYMBOLS[number] for number in unknown)
        return "untrained element", f"{symbols}: outside the {len(trained)} elements that DAO-P was trained on"
    if len(np.unique(np.round(record.frac_coords, 8) % 1, axis=0)) < len(record.atomic_numbers):
        return "atoms coincide", "two of its atoms stand on one place"
    here = _shares(record.atomic_numbers.tolist())
    if any(too_close(here, other) for other in excluded):
        return "held out", "its composition is one that is kept for testing, or close to one"
    return None
