"""An independent judge of generated structures: CHGNet 0.3.0, and a hull of known crystals with CHGNet's energies.

The hull of a chemical system is that of every known crystal in it and in its subsystems (MP-20 train, validation and the
half of the test set at hand, and the Materials Project pool, up to `MAX_ATOMS` atoms), each at its published geometry with
CHGNet's energy. Crystals whose formation energy is known to lie more than `MARGIN` above the lowest of their formula are
left out: they cannot be on the hull. The other half of the test set is missing, so that the hull is a little too high.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from dao_ase.composition import SYMBOLS, Composition, reduced_key
from dao_ase.gates import refusal
from dao_ase.phase_diagram import Hull, Phase, missing_elements
from dao_ase.whole_files import write_json

KNOWN = ("mp20_train", "mp20_val", "mp20_test_a", "mp_pool_0", "mp_pool_1")
TRAINED = ("mp20_train", "mp_pool_0", "mp_pool_1")
MAX_ATOMS = 40
MARGIN = 0.1
"""eV/atom."""
STABLE = 0.1
"""eV/atom above the hull; up to here a structure counts as stable."""


class KnownCrystals:
    """The published crystals of some files, found by their elements or by their formula."""

    def __init__(self, folder: Path, files: Sequence[str] = KNOWN) -> None:
        self.numbers: list[np.ndarray] = []
        self.geometry: list[tuple[np.ndarray, np.ndarray]] = []
        self.names: list[str] = []
        self.energies: list[float] = []
        self.trained: list[bool] = []
        for name in files:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
                ends = np.cumsum(file["n_atoms"])[:-1]
                self.numbers += np.split(file["numbers"].astype(np.int64), ends)
                self.geometry += list(zip(file["lattice"], np.split(file["frac_coords"], ends), strict=True))
                self.names += [f"{name}:{one}" for one in file["id"]]
                label = "ef_mp_legacy" if "ef_mp_legacy" in file else "formation_energy_per_atom"
                self.energies += file[label].astype(float).tolist()
                self.trained += [name in TRAINED] * len(file["n_atoms"])
        self.present = np.zeros((len(self.numbers), len(SYMBOLS)), dtype=bool)
        for row, numbers in enumerate(self.numbers):
            self.present[row, numbers] = True
        self.sizes = np.array([len(numbers) for numbers in self.numbers])

    def structure(self, row: int) -> Structure:
        """One of them."""
        lattice, coords = self.geometry[row]
        return Structure(lattice, self.numbers[row].tolist(), coords)

    def of_system(self, elements: Iterable[int]) -> list[int]:
        """Those of a chemical system and its subsystems that may be on its hull."""
        outside = np.setdiff1d(np.arange(len(SYMBOLS)), list(elements))
        rows = np.flatnonzero(~self.present[:, outside].any(1) & (self.sizes <= MAX_ATOMS)).tolist()
        lowest: dict[Any, float] = {}
        for row in rows:
            key = reduced_key(self.numbers[row])
            lowest[key] = np.fmin(lowest.get(key, np.nan), self.energies[row])
        return [row for row in rows if not self.energies[row] > lowest[reduced_key(self.numbers[row])] + MARGIN]

    def of_formula(self, numbers: Sequence[int]) -> list[int]:
        """Those with the reduced formula of these atoms that DAO-G may have been trained on."""
        exact = np.zeros(len(SYMBOLS), dtype=bool)
        exact[list(numbers)] = True
        rows = np.flatnonzero((self.present == exact).all(1)).tolist()
        return [row for row in rows if self.trained[row] and reduced_key(self.numbers[row]) == reduced_key(numbers)]


class CHGNetEnergies:
    """Energies per atom by CHGNet 0.3.0, which is loaded when it is first asked."""

    @cached_property
    def model(self) -> Any:
        """The potential."""
        from chgnet.model import CHGNet

        return CHGNet.load(verbose=False, use_device="cpu")

    def __call__(self, structures: Sequence[Structure]) -> list[float | None]:
        """In eV; None for structures that the gates refuse or that have isolated atoms."""
        found: list[float | None] = []
        for structure in structures:
            try:
                with warnings.catch_warnings(action="ignore"):
                    graph = None if refusal(structure) else self.model.graph_converter(structure)
            except ValueError:
                graph = None
            found.append(None if graph is None else float(self.model.predict_graph(graph, task="e")["e"]))
        return found


class Judge:
    """Energies above the hull by CHGNet; energies of known crystals are kept in ``cache`` from run to run."""

    def __init__(self, known: KnownCrystals, cache: Path) -> None:
        self.known, self.cache, self.energies = known, cache, CHGNetEnergies()
        self._energies: dict[str, float | None] = json.loads(cache.read_text()) if cache.exists() else {}
        self._hulls: dict[frozenset[int], Hull | None] = {}

    def hull(self, structure: Structure) -> Hull | None:
        """The hull of the structure's elements; None where one of them is not known alone."""
        system = frozenset(structure.atomic_numbers)
        if system not in self._hulls:
            rows = self.known.of_system(system)
            wanted = [row for row in rows if self.known.names[row] not in self._energies]
            fresh = self.energies([self.known.structure(row) for row in wanted])
            self._energies |= {self.known.names[row]: energy for row, energy in zip(wanted, fresh, strict=True)}
            write_json(self.cache, self._energies)
            phases = [
                Phase(Composition.from_atomic_numbers(self.known.numbers[row]).formula, energy)
                for row in rows
                if (energy := self._energies[self.known.names[row]]) is not None
            ]
            symbols = [SYMBOLS[number] for number in system]
            self._hulls[system] = None if missing_elements(symbols, phases) else Hull(symbols, phases)
        return self._hulls[system]

    def above(self, structures: Sequence[Structure]) -> list[float | None]:
        """Energies above the hull (eV/atom): infinite for structures without an energy, None where there is no hull."""
        found: list[float | None] = []
        for structure, energy in zip(structures, self.energies(structures), strict=True):
            hull = self.hull(structure)
            if hull is None:
                found.append(None)
            elif energy is None:
                found.append(float("inf"))
            else:
                formula = Composition.from_atomic_numbers(structure.atomic_numbers).formula
                found.append(hull.above(Phase(formula, energy)))
        return found
