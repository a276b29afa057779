"""The convex hull of a chemical system: what competes with a crystal, and how far above that it lies.

The energy above the hull of a crystal is its energy per atom less that of the mixture of phases, at its composition, that is
lowest in energy. Where the crystal itself is not among the phases it may be negative: then it would break the hull.
Energies must stand on one scale; DAO-P's is that of the Materials Project (PBE with its corrections).
"""

from __future__ import annotations

import csv
import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_ase.composition import ATOMIC_NUMBERS, Composition
from dao_ase.data.reading import FORMULA_COLUMNS, MORE_CELLS, ending, opened_text, separator, with_point
from dao_ase.database import SETTINGS, open_screen
from dao_ase.runs import SUMMARY, records_of

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Structure


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A phase by its formula and energy (eV/atom), where it comes from, and whether a relaxation brought it to rest."""

    formula: str
    energy_per_atom: float
    source: str = ""
    candidate: bool = False
    converged: bool | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.energy_per_atom):
            raise ValueError(f"the energy of {self.formula} is {self.energy_per_atom} eV/atom; give a finite number")

    @property
    def elements(self) -> frozenset[str]:
        """The symbols in the formula."""
        return frozenset(symbol for symbol, _ in Composition.parse(self.formula).counts)

    @cached_property
    def entry(self) -> Any:
        """pymatgen's PDEntry."""
        from pymatgen.analysis.phase_diagram import PDEntry

        composition = Composition.parse(self.formula)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on electronegativities of noble gases
            return PDEntry(dict(composition.counts), self.energy_per_atom * composition.num_atoms)


class Hull:
    """The convex hull of a chemical system: that of its phases and those of its subsystems.

    >>> oxide = Phase("MgO", -6.0)
    >>> hull = Hull("Mg O".split(), [Phase("Mg", -1.5), Phase("O2", -5.0), oxide])
    >>> hull.above(Phase("MgO", -5.9)), hull.above(Phase("Mg2O", -4.0))
    (0.1, 0.5)
    """

    def __init__(self, elements: Iterable[str], phases: Iterable[Phase]) -> None:
        self.elements = frozenset(elements)
        if not self.elements <= set(ATOMIC_NUMBERS):
            raise ValueError(
                f"{', '.join(sorted(self.elements - set(ATOMIC_NUMBERS)))!r} is not the symbol of an element"
            )
        self.phases = [phase for phase in phases if phase.elements <= self.elements]
        absent = missing_elements(self.elements, self.phases)
        if absent:
            raise ValueError(
                f"the system {self.name} has no phase of {', '.join(absent)} alone, and a hull needs one of each element; "
                "add it to the references, or screen it: an element is a composition too"
            )

    @property
    def name(self) -> str:
        """The elements, for example ``Cs-Sb-V``."""
        return "-".join(sorted(self.elements))

    @cached_property
    def diagram(self) -> PhaseDiagram:
        """pymatgen's phase diagram."""
        from pymatgen.analysis.phase_diagram import PhaseDiagram

        return PhaseDiagram([phase.entry for phase in self.phases])

    def above(self, phase: Phase) -> float:
        """Energy above the hull (eV/atom), to a tenth of a µeV; negative where the phase would break the hull."""
        height = self.diagram.get_hull_energy_per_atom(phase.entry.composition)
        return round(float(phase.energy_per_atom - height), 7) + 0.0

    def ordered(self) -> list[tuple[Phase, float]]:
        """Every phase with its energy above the hull, the nearest first."""
        return sorted(((phase, self.above(phase)) for phase in self.phases), key=lambda pair: pair[1])


def missing_elements(elements: Iterable[str], phases: Iterable[Phase]) -> list[str]:
    """The elements of which no phase consists alone."""
    pure = {next(iter(phase.elements)) for phase in phases if len(phase.elements) == 1}
    return sorted(set(elements) - pure)


def read_phases(paths: Iterable[str | Path], recompute: bool = False) -> list[Phase]:
    """The phases of CSV files, pymatgen's entries as JSON, structure files, folders of ``dao-ase screen`` or ``generate``.

    A CSV has columns ``composition`` and ``energy_per_atom`` (eV). Structures without an energy are relaxed with DAO-P;
    with ``recompute`` all structures are, but those of runs, whose energies are DAO-P's, and energies without a structure
    are refused.
    """
    found: list[Phase] = []
    for path in map(Path, paths):
        kind = ending(path)
        if path.is_dir():
            found += phases_of_run(path)[0]
        elif kind in (".csv", ".tsv") and recompute:
            raise ValueError(f"{path}: --recompute needs structures, and a table has energies alone")
        elif kind in (".csv", ".tsv"):
            found += _from_csv(path)
        elif kind == ".json":
            found += _from_json(path, recompute)
        else:
            found += _from_structures(path, recompute)
    return found


def phases_of_run(folder: Path, candidate: bool = False) -> tuple[list[Phase], int]:
    """The phases of a folder of ``dao-ase screen`` or ``generate``, and how many of its structures have no energy.

    Their source is the row of the screening's database, ``FOLDER:ID``, or the file, ``FOLDER/FILE``.
    """
    if (folder / SETTINGS).is_file():
        found = [
            (
                Composition.from_atomic_numbers(row.numbers).formula,
                row.get("energy_per_atom"),
                f"{folder.name}:{row.id}",
                row.get("converged"),
            )
            for row in open_screen(folder).rows()
            if "error" not in row
        ]
    elif (folder / SUMMARY).is_file():
        records = records_of(folder / SUMMARY)
        found = [
            (one.get("formula", ""), one.get("energy_per_atom"), f"{folder.name}/{one['file']}", one.get("converged"))
            for one in records
        ]
    else:
        raise ValueError(
            f"{folder}: is no folder of 'dao-ase screen' or 'dao-ase generate'; structure files are --references, by name"
        )
    known = [
        Phase(formula, energy, source, candidate, None if converged is None else bool(converged))
        for formula, energy, source, converged in found
        if energy is not None
    ]
    return known, len(found) - len(known)


def phases_of(structures: Iterable[Structure], source: str = "") -> list[Phase]:
    """Candidates: structures that have ``properties["energy_per_atom"]``."""
    return [
        Phase(_formula(one), one.properties["energy_per_atom"], str(one.properties.get("file", source)), True)
        for one in structures
        if one.properties.get("energy_per_atom") is not None
    ]


def systems_of(phases: Iterable[Phase]) -> list[frozenset[str]]:
    """The chemical systems of phases that are part of no larger one."""
    systems = {phase.elements for phase in phases}
    return sorted((one for one in systems if not any(one < other for other in systems)), key=sorted)


def _from_csv(path: Path) -> list[Phase]:
    with opened_text(path) as file:
        head = file.readline()
        between = separator(head)
        reader = csv.DictReader(chain([head], file), delimiter=between)
        reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or ()]
        rows = [(reader.line_num, row) for row in reader if any(row.values())]
    column = next((name for name in FORMULA_COLUMNS if name in columns), None)
    if column is None or "energy_per_atom" not in columns:
        there = ", ".join(columns) or "none"
        raise ValueError(f"{path}: needs the columns 'composition' and 'energy_per_atom' (eV); there are: {there}")
    found = []
    for number, row in rows:
        formula = row[column]
        try:
            if not formula:
                raise ValueError("there is no composition")
            if any(row.get(None, ())):  # type: ignore[call-overload]  # what DictReader has no name for
                raise ValueError(MORE_CELLS)
            energy = float(with_point(row["energy_per_atom"] or "", between))
            found.append(Phase(Composition.parse(formula).formula, energy, f"{path.name}:{number}"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}:{number}: a phase needs 'composition' and 'energy_per_atom' (eV): {error}"
            ) from None
    return found


def _from_json(path: Path, recompute: bool) -> list[Phase]:
    """The phases of one or several entries, or structures, of pymatgen's."""
    from monty.serialization import loadfn
    from pymatgen.core import Structure

    try:
        found = loadfn(path)
    # what monty cannot make, or not read, for its depth
    except (OSError, ValueError, TypeError, AttributeError, KeyError, ImportError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON of pymatgen's: {error}") from error
    entries = found if isinstance(found, list) else [found]
    if all(isinstance(one, Structure) for one in entries):
        return _relaxed(entries, path.name)
    if not all(hasattr(entry, "energy_per_atom") for entry in entries):
        raise ValueError(f"{path}: is no list of pymatgen's ComputedEntry; write one with monty.serialization.dumpfn")
    if recompute:
        structures = [entry.structure for entry in entries if hasattr(entry, "structure")]
        if len(structures) < len(entries):
            raise ValueError(f"{path}: --recompute needs entries with structures (ComputedStructureEntry)")
        return _relaxed(structures, path.name)
    try:
        return [
            Phase(_formula(entry), float(entry.energy_per_atom), str(getattr(entry, "entry_id", None) or path.name))
            for entry in entries
        ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_structures(path: Path, recompute: bool) -> list[Phase]:
    from dao_ase.convert import is_partly_occupied, structure_from_atoms
    from dao_ase.data.frames import frames_of

    found, refused = frames_of(path)
    if refused:
        raise ValueError("; ".join(refused))
    frames = list(found.values())
    energies = [None if recompute or one.calc is None else one.calc.results.get("energy") for one in frames]
    if any(map(is_partly_occupied, frames)):
        raise ValueError(f"{path}: sites are partly occupied; give an ordered structure")
    try:
        structures = [structure_from_atoms(atoms) for atoms in frames]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    known = [
        Phase(_formula(one), energy / len(one), path.name)
        for one, energy in zip(structures, energies, strict=True)
        if energy is not None
    ]
    bare = [one for one, energy in zip(structures, energies, strict=True) if energy is None]
    return known + _relaxed(bare, path.name)


def _relaxed(structures: list[Structure], source: str) -> list[Phase]:
    """DAO-P's energies of structures that it has relaxed."""
    if not structures:
        return []
    from dao_ase.rank import relax_structures

    relaxed = relax_structures(structures)
    without = [_formula(one) for one, before in zip(relaxed, structures, strict=True) if one is before]
    if without:
        raise ValueError(
            f"{source}: DAO-P has no energy for {', '.join(without)}; give the energies with the structures"
        )
    for one in relaxed:
        if not one.properties["converged"]:
            steps = one.properties["relax_steps"]
            log.warning("%s: %s is not at rest after %d steps, its energy is too high", source, _formula(one), steps)
    return [
        Phase(_formula(one), one.properties["energy_per_atom"], source, converged=one.properties["converged"])
        for one in relaxed
    ]


def _formula(described: Any) -> str:
    counts: Mapping[str, float] = described.composition.get_el_amt_dict()
    return Composition.from_counts(counts).formula
