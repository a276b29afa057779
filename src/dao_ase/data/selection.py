"""The second step of a build: what is decided by comparing crystals with each other and with those to be left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase.composition import reduced_key
from dao_ase.data.hull import Formula, energies_above_hull
from dao_ase.data.matching import Cell, duplicates_by_group, matches_by_group
from dao_ase.data.records import Record, Rejected
from dao_ase.data.store import FORMATION_ENERGIES, CrystalStore

logger = logging.getLogger(__name__)


class Selection:
    """Which of the staged crystals are kept, and why the others are not; ``keep`` shrinks with every rule."""

    def __init__(self, staged: CrystalStore, folder: Path, workers: int = 1) -> None:
        self.staged, self.folder, self.workers = staged, folder, workers
        self.keep = np.ones(len(staged), dtype=bool)
        self.e_above_hull = np.full(len(staged), np.nan)
        self.ids, self._sources = staged.ids, staged.texts("source")
        self._rows = staged.gather("row", np.arange(len(staged)))
        self._reasons: dict[int, tuple[str, str]] = {}
        self._numbers = np.split(
            staged.gather("atomic_numbers", np.arange(len(staged))), np.cumsum(staged.num_atoms)[:-1]
        )
        self.formulas: list[Formula] = [reduced_key(numbers.tolist()) for numbers in self._numbers[: len(staged)]]

    def above_hull(self, limit: float, energy_label: str, others: Sequence[tuple[Formula, float]] = ()) -> None:
        """Leaves out what lies further above the hull (eV/atom) than ``limit``; builds the hull where there is none.

        Published energies above the hull come first. Crystals with no energy at all are kept. ``others`` are formulas and
        energies (eV/atom) that belong on the hull though they are not in the set, for example cells that are too small.
        """
        labels = self.staged.labels
        if "e_above_hull" in labels:
            self.e_above_hull = labels["e_above_hull"].copy()
        unknown = np.isnan(self.e_above_hull)
        if unknown.any() and energy_label in labels:
            energies = np.append(labels[energy_label], [energy for _, energy in others])
            logger.info("building convex hulls from %s of %d crystals", energy_label, np.isfinite(energies).sum())
            formulas = self.formulas + [formula for formula, _ in others]
            above = energies_above_hull(formulas, energies, self.folder, self.workers)[: len(self.staged)]
            self.e_above_hull[unknown] = above[unknown]
        elif unknown.any() and energy_label != FORMATION_ENERGIES[0]:  # which was asked for
            raise ValueError(
                f"no crystal has the label {energy_label!r}, of which hulls are built; labels: {', '.join(labels) or 'none'}"
            )
        for place in np.flatnonzero(self.e_above_hull > limit).tolist():
            self._leave_out(
                place, "above hull", f"{self.e_above_hull[place]:.3f} eV/atom above the hull; at most {limit:g}"
            )

    def repeated_ids(self) -> None:
        """Leaves out crystals whose identifier an earlier one has."""
        first: dict[str, int] = {}
        for place in np.flatnonzero(self.keep).tolist():
            earlier = first.setdefault(str(self.ids[place]), place)
            if earlier != place:
                self._leave_out(place, "repeated id", f"{self._name(earlier)} has the same identifier")

    def excluded_structures(self, references: list[Record]) -> None:
        """Leaves out crystals that match one of the references (`StructureMatcher`, tolerances of the evaluation)."""
        places = np.flatnonzero(self.keep)
        logger.info("comparing %d crystals with %d that are excluded", len(places), len(references))
        cells = [Cell(record.lattice, record.frac_coords, record.atomic_numbers) for record in references]
        keys = [reduced_key(record.atomic_numbers.tolist()) for record in references]
        found = matches_by_group(
            self._cells(places), [self.formulas[i] for i in places], cells, keys, self.folder, self.workers
        )
        for place, match in found.items():
            reference = references[match]
            self._leave_out(int(places[place]), "excluded structure", f"matches {reference.id!r} of {reference.source}")

    def repeated_structures(self) -> None:
        """Leaves out crystals that match an earlier one (`StructureMatcher`, its default tolerances)."""
        places = np.flatnonzero(self.keep)
        logger.info("looking for duplicates among %d crystals", len(places))
        found = duplicates_by_group(self._cells(places), [self.formulas[i] for i in places], self.folder, self.workers)
        for place, earlier in found.items():
            self._leave_out(
                int(places[place]), "duplicate", f"the same structure as {self._name(int(places[earlier]))}"
            )

    def left_out(self) -> list[dict[str, Any]]:
        """Everything that was left out here, with rule and reason."""
        return [
            asdict(Rejected(str(self._sources[place]), int(self._rows[place]), str(self.ids[place]), rule, reason))
            for place, (rule, reason) in sorted(self._reasons.items())
        ]

    def _leave_out(self, place: int, rule: str, reason: str) -> None:
        self.keep[place] = False
        self._reasons[place] = rule, reason

    def _name(self, place: int) -> str:
        return f"{str(self.ids[place])!r} ({self._sources[place]}, row {self._rows[place]})"

    def _cells(self, places: np.ndarray) -> list[Cell]:
        lattices = self.staged.gather("lattice", places).astype(np.float64)
        coords = self.staged.gather("frac_coords", places).astype(np.float64)
        ends = np.cumsum(self.staged.num_atoms[places])
        parts = np.split(coords, ends[:-1])
        return [
            Cell(lattice, part, self._numbers[place].astype(np.int64))
            for lattice, part, place in zip(lattices, parts, places.tolist(), strict=False)
        ]
