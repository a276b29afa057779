"""Labels by pw.x that say how hard atoms repel each other: small molecules and crystals with one bond far too short.

A potential that has seen few close pairs forgets how steep the wall is, hydrogen's first of all: its atoms come nearer than
any others. A molecule in a box costs seconds of DFT, a small crystal some ten; molecules hold few kinds of bonds. Only
forces are kept: the energy is on another scale, and the stress of a box says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from tqdm import tqdm

from dao_ase.convert import to_atoms
from dao_ase.data.store import CrystalStore
from dao_ase.espresso.calculation import Calculation
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.labels import LabelledFrame, require_npz, write_frames
from dao_ase.espresso.presets import Preset, load_preset
from dao_ase.espresso.pseudopotentials import directories, find
from dao_ase.espresso.running import Machine, run

logger = logging.getLogger(__name__)

MOLECULES = (
    "H2 LiH CH4 NH3 H2O HF SiH4 PH3 SH2 HCl C2H2 C2H4 HCN H2CO N2H4 H2O2 HOCl CH3OH H3CNH2 CH3SH HCOOH HCF3 "
    "N2 CO CO2 F2 Cl2 N2O CS2 OCS SO2 SiO BF3 CF4 NF3 PF3 SiF4 F2O ClF AlF3"
).split()
"""Of ASE's collection g2, without unpaired electrons."""
SHORTER = {True: (0.6, 0.7, 0.85), False: (0.7, 0.75, 0.9)}
"""The lengths of a bond, relative to its own, with and without hydrogen."""
BOND = 1.25
"""Atoms are bound when they are nearer than this many times the sum of their covalent radii."""
NON_METALS = frozenset("H B C N O F Si P S Cl Se".split())
"""Of hydrogen only bonds to these count: in metals it sits in gaps."""


@dataclass(frozen=True)
class ClosePairRules:
    """Which cells are taken, and how pw.x is run: without spin, at this share of the stated cutoff.

    Molecules stand in a box that leaves ``vacuum`` (Å) on each side. Of crystals the bonds of ``element`` to heavier ones
    are shortened; they have at most ``max_atoms`` and no element that may carry a moment, and ``kspacing`` (1/Å, with the
    factor 2π) is coarse, as forces between close atoms are large.
    """

    molecules: Sequence[str] = tuple(MOLECULES)
    vacuum: float = 1.6
    element: str = "H"
    max_atoms: int = 12
    max_crystals: int | None = None
    kspacing: float = 1.0
    cutoff_share: float = 0.7
    preset: Preset = field(default_factory=lambda: replace(load_preset("standard"), spin=False, conv_thr=1e-6))
    machine: Machine = field(default_factory=lambda: Machine(timeout=300.0))

    def calculation(self, frame: Atoms, crystal: bool, pseudo_dirs: Sequence[Path]) -> Calculation:
        """What pw.x is asked of a frame: of a molecule no other k-point than Γ."""
        pseudopotentials = find(set(frame.get_chemical_symbols()), pseudo_dirs)
        stated = self.preset.cutoffs(pseudopotentials.values())[0]
        cutoff = {"ecutwfc": round(self.cutoff_share * stated)}
        grid = replace(self.preset, kspacing=self.kspacing).grid(frame.cell.array) if crystal else (1, 1, 1)
        return Calculation(frame, "scf", self.preset, pseudopotentials, cutoff, grid)


class Whole(NamedTuple):
    """What a bond is shortened in: a molecule in its box or a crystal, its name, and whose bonds to heavier atoms count."""

    atoms: Atoms
    name: str
    element: str | None = None


def molecules(names: Iterable[str], vacuum: float) -> Iterator[Whole]:
    """Molecules of g2, each in a box (Å)."""
    from ase.build import molecule

    for name in names:
        atoms = molecule(name)
        atoms.center(vacuum)
        atoms.pbc = True
        yield Whole(atoms, name)


def bound_crystals(store: CrystalStore, rules: ClosePairRules) -> list[Whole]:
    """Crystals of a store with bonds of the element that is asked for: of each kind in turn, the smallest cells first."""
    places = np.flatnonzero(store.num_atoms <= rules.max_atoms)
    queues: dict[str, list[tuple[float, Whole]]] = {}
    for place, atoms in zip(places, to_atoms(store.batch(places)), strict=True):
        symbols = set(atoms.get_chemical_symbols())
        if rules.element not in symbols or symbols & set(rules.preset.moments):
            continue
        one = Whole(atoms, str(store.ids[place]), rules.element)
        for _, staying in _bonds_of(one):
            if rules.element != "H" or atoms.symbols[staying] in NON_METALS:
                queues.setdefault(atoms.symbols[staying], []).append((atoms.get_volume(), one))
    for queue in queues.values():
        queue.sort(key=lambda entry: entry[0])
    turns = [one for turn in zip_longest(*(queues[symbol] for symbol in sorted(queues))) for one in turn if one]
    if not turns:
        raise ValueError(
            f"no crystal of {str(store.path)!r} has at most {rules.max_atoms} atoms and bonds of {rules.element}"
        )
    return list({one.name: one for _, one in turns}.values())[: rules.max_crystals]


def _bonds_of(whole: Whole) -> list[tuple[int, int]]:
    """The indices (lighter, heavier) of the shortest bond of each pair of elements that counts."""
    bonds = _shortest_bonds(whole.atoms).values()
    return [bond for bond in bonds if whole.element in (None, whole.atoms.symbols[bond[0]])]


def _shortest_bonds(atoms: Atoms) -> dict[tuple[int, int], tuple[int, int]]:
    """The indices (lighter, heavier) of the shortest bond of each pair of atomic numbers."""
    distances, radii = atoms.get_all_distances(mic=True), covalent_radii[atoms.numbers]
    first, second = np.triu_indices(len(atoms), 1)
    bound = distances[first, second] < BOND * (radii[first] + radii[second])
    shortest: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b in sorted(zip(first[bound], second[bound], strict=True), key=lambda bond: distances[bond]):
        low, high = sorted((int(a), int(b)), key=lambda k: atoms.numbers[k])
        shortest.setdefault((int(atoms.numbers[low]), int(atoms.numbers[high])), (low, high))
    return shortest


def close_frames(whole: Whole) -> Iterator[Atoms]:
    """The cell with one bond too short: for each pair of elements its shortest bond, at each length."""
    atoms = whole.atoms
    for moving, staying in _bonds_of(whole):
        bond = atoms.get_distance(moving, staying, mic=True, vector=True)
        for part in SHORTER[atoms.symbols[moving] == "H"]:
            frame = atoms.copy()
            frame.positions[moving] += (1 - part) * bond
            yield frame


def label_close_pairs(
    output: str | Path,
    folder: str | Path,
    rules: ClosePairRules | None = None,
    *,
    store: CrystalStore | None = None,
    pseudo_dirs: Sequence[Path] = (),
    progress: bool = True,
) -> dict[str, int]:
    """Labels molecules, or a store's crystals, with one bond too short by pw.x; counts of what came of it.

    Calculations are kept in ``folder`` and never repeated; the npz file is written anew after each cell. Left out are
    frames that do not converge, and those with an element that has no pseudopotential.
    """
    rules, output = rules or ClosePairRules(), require_npz(output)
    rules.machine.require_program()
    wholes = list(molecules(rules.molecules, rules.vacuum)) if store is None else bound_crystals(store, rules)
    frames: list[LabelledFrame] = []
    left_out = 0
    for whole in tqdm(wholes, disable=not progress, unit="cells"):
        for frame in close_frames(whole):
            try:
                calculation = rules.calculation(frame, store is not None, directories(pseudo_dirs))
                result = run(calculation, Path(folder), rules.machine)
                end = result.output.final if result.complete else None
                problem = result.problem
            except EspressoError as error:
                end, problem = None, error
            if end is None or end.forces is None:
                left_out += 1
                logger.info("a frame of %s is left out: %s", whole.name, problem)
                continue
            frames.append(LabelledFrame(frame, end.forces, np.full((3, 3), np.nan), whole.name))
        if frames:
            write_frames(frames, output)
    return {"cells": len({one.parent for one in frames}), "frames": len(frames), "left out": left_out}
