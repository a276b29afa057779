"""Labels by pw.x that say how stiff simple crystals are: small strains and displacements that keep most of the symmetry.

What a potential learns from another one is as soft as its teacher. Crystals of one or two atoms are cheap enough for DFT
itself: each is compressed and stretched, strained along the axes of its conventional cell, and one atom after the other is
moved out of its place, in an element from cell to cell. Phonons and elastic constants ask for still smaller steps, where
the answer is linear: frames between rest and all but the first two have a part of what it changes. Only forces and
stresses are kept, the latter relative to that of the cell at rest, so that neither the volume nor the energy of another
functional or pseudopotential enters.

With GTH pseudopotentials pw.x 6.7 has stresses of strained cells that are not the derivative of its energy (GaAs sheared:
47 GPa, 59 by differences of the energy; magnesium oxide stretched: 81 and 155); with ONCV ones they agree. Forces agree with
both, so that of a crystal with a GTH one only the moved atom is computed, and its stress not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.formula import Formula
from ase.units import GPa
from numpy.typing import NDArray
from tqdm import tqdm

from dao_ase.convert import to_atoms
from dao_ase.data.store import FORMATION_ENERGIES, CrystalStore
from dao_ase.espresso.calculation import Calculation
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.labels import LabelledFrame, require_npz, write_frames
from dao_ase.espresso.presets import Preset, load_preset
from dao_ase.espresso.pseudopotentials import directories, find
from dao_ase.espresso.running import Machine, run
from dao_ase.symmetry import SymmetryOperations, space_group_number, standard_primitive

logger = logging.getLogger(__name__)

VOLUMES = (-0.015, 0.015)
"""Linear strains in all directions."""
STRETCH, SHEAR = 0.015, 0.02
"""Strain along z; engineering strain of y against z."""
STEP = 0.08
"""Å by which an atom is moved."""
BETWEEN = (1 / 3, 1 / 10)
"""At these parts of a stretch, a shear and a displacement the answer is taken to change by this part of the whole."""
SUPERCELL = 8
"""Stored cells are reduced when they have up to so many times the atoms: many of elements are 2 x 2 x 2 primitive ones."""
CUBIC = 195
"""The first cubic space group."""
NON_METALS = frozenset("H B C N O F Si P S Cl Ge As Se Br Sb Te I".split())
SIMPLE_METALS = frozenset("Li Be Na Mg Al K Ca Zn Ga Rb Sr In Cs Ba".split())
"""With a non-metal they make what needs few k-points."""
IONIC = frozenset("H O F Cl Br I".split())
"""An insulator with one of these needs even fewer."""
NOBLE_GASES = frozenset("He Ne Ar Kr Xe".split())
"""What holds their crystals together is not in the functional."""
UNSTATED = 125.0
"""Ry that a pseudopotential counts for that states no cutoff."""


@dataclass(frozen=True)
class StiffnessRules:
    """Which crystals are taken, and how pw.x is run: without spin, so not for elements that may carry moments.

    Atoms are counted in the primitive cell, and ``formulas`` (reduced) leaves out all others and says the order; of these
    even what nobody has computed is taken, such as a made up crystal with the bonds of a larger one.
    Spacings of k-points in 1/Å with the factor 2π, smearing in Ry, formation energy in eV/atom. With less smearing
    than ``degauss_metal`` aluminium's shear stress is not converged even on a grid of 14³ (0.03 Ry: -1 GPa, 24 at
    this one and on finer grids). Differences of stresses need no more than ``cutoff_share`` of the cutoff that a
    pseudopotential states (GaAs, germanium and GaP within 5 %), oxides, fluorides and metals of the d block 0.8 of
    it, forces 0.52; what needs more than ``max_cutoff`` (Ry) is left out. So is a crystal whose pressure at rest is above
    ``max_pressure`` (GPa): too few plane waves show there first, and are a tenth of the differences at this pressure
    (NaF). With ``only_moved`` no strained cells are computed, as with a GTH pseudopotential: forces alone, of many crystals.
    What is an insulator, and needs few k-points, is seen by its elements (`is_insulator`); with ``insulators`` all are, also
    oxides of empty d shells. With ``nonmagnetic`` elements that may carry moments are taken, too: in VFeSb they have none.
    """

    max_atoms: int = 2
    max_crystals: int | None = None
    formulas: Sequence[str] = ()
    max_formation_energy: float = 0.05
    seed: int = 0
    kspacing_ionic: float = 0.62
    kspacing_insulator: float = 0.45
    kspacing_metal: float = 0.2
    degauss_metal: float = 0.05
    cutoff_share: float = 0.55
    max_cutoff: float = 90.0
    max_pressure: float = 5.0
    only_moved: bool = False
    insulators: bool = False
    nonmagnetic: bool = False
    preset: Preset = field(default_factory=lambda: replace(load_preset("standard"), spin=False, conv_thr=1e-7))
    machine: Machine = field(default_factory=lambda: Machine(timeout=300.0))

    def calculation(self, frame: Atoms, rest: Atoms, pseudo_dirs: Sequence[Path]) -> Calculation:
        """What pw.x is asked of a frame: with the k-points of the cell at rest, unless it was doubled."""
        elements = set(frame.get_chemical_symbols())
        if self.insulators or is_insulator(rest):
            preset = replace(self.preset, kspacing=self.kspacing_ionic if elements & IONIC else self.kspacing_insulator)
        else:
            preset = replace(self.preset, kspacing=self.kspacing_metal, degauss=self.degauss_metal)
        pseudopotentials = find(elements, pseudo_dirs)
        stated = max(one.ecutwfc or UNSTATED for one in pseudopotentials.values())
        if (cutoff := round(self.cutoff_share * stated)) > self.max_cutoff:
            raise EspressoError(
                "failed", f"it needs {cutoff} Ry, more than the {self.max_cutoff:.0f} Ry that are allowed"
            )
        grid = preset.grid((rest if len(frame) == len(rest) else frame).cell.array)
        return Calculation(frame, "scf", preset, pseudopotentials, {"ecutwfc": cutoff}, grid)


def is_insulator(atoms: Atoms) -> bool:
    """Whether few k-points will do, by the elements of a primitive cell: a non-metal, alone or with simple metals.

    A non-metal that has one atom in the cell, as iodine has under pressure, is a metal.
    """
    elements = set(atoms.get_chemical_symbols())
    return len(atoms) > 1 and bool(elements & NON_METALS) and elements <= NON_METALS | SIMPLE_METALS


def strained_frames(atoms: Atoms) -> list[tuple[str, Atoms]]:
    """The primitive cell in the axes of its conventional one, at rest first, then strained, then with an atom moved.

    With each frame comes what was done to it: rest, volume, shape or moved. Training takes each kind as often as it is told.
    """
    rest = _primitive(atoms)
    stretched, sheared = np.eye(3), np.eye(3)
    stretched[2, 2] += STRETCH
    sheared[1, 2] = sheared[2, 1] = SHEAR / 2
    strains = [("volume", np.eye(3) * (1 + volume)) for volume in VOLUMES]
    frames = [("rest", rest)]
    for kind, strain in (*strains, ("shape", stretched), ("shape", sheared)):
        frames.append((kind, rest.copy()))
        frames[-1][1].set_cell(rest.cell.array @ strain, scale_atoms=True)
    start = rest.repeat((1, 1, 2)) if len(rest) == 1 else rest
    for place, axis in _displacements(start):
        frames.append(("moved", start.copy()))
        frames[-1][1].positions[place, axis] += STEP
    return frames


def _displacements(atoms: Atoms) -> list[tuple[int, int]]:
    """Atoms, and axes along which they are moved: one of each kind, along z and, where the crystal is not cubic, along x.

    The last atom comes first. One that is alone of its kind may stay: forces on it are those on all others, reversed.
    """
    crystal = atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers
    kinds = SymmetryOperations.find(*crystal).image.min(0)
    last = {int(kind): place for place, kind in enumerate(kinds)}
    places = sorted(last.values(), reverse=True)
    alone = [place for place in places[1:] if (kinds == kinds[place]).sum() == 1]
    axes = (2,) if space_group_number(*crystal) >= CUBIC else (2, 0)
    return [(place, axis) for place in places if place not in alone[-1:] for axis in axes]


def label_stiffness(
    store: CrystalStore,
    output: str | Path,
    folder: str | Path,
    rules: StiffnessRules | None = None,
    *,
    pseudo_dirs: Sequence[Path] = (),
    progress: bool = True,
) -> dict[str, int]:
    """Labels strained frames of a store's smallest crystals by pw.x and writes one npz file; counts of what came of it.

    Calculations are kept in ``folder`` and never repeated; the file is written anew after each crystal, so that what there
    is can be used at any time. Left out are crystals with an element that has no pseudopotential or may be magnetic, frames
    that do not converge, and the whole crystal where that is the one at rest.
    """
    rules, output = rules or StiffnessRules(), require_npz(output)
    rules.machine.require_program()
    places, crystals = _chosen(store, rules)
    frames: list[LabelledFrame] = []
    counts = {"crystals": 0, "frames": 0, "left out": 0}
    for place, atoms in zip(places, tqdm(crystals, disable=not progress, unit="crystals"), strict=True):
        found = _label_crystal(atoms, str(store.ids[place]), Path(folder), rules, directories(pseudo_dirs))
        counts["crystals" if found else "left out"] += 1
        counts["frames"] += len(found)
        if found:
            frames += found
            write_frames(frames, output)
    return counts


def _chosen(store: CrystalStore, rules: StiffnessRules) -> tuple[NDArray[np.int64], list[Atoms]]:
    """Crystals that are small enough and known to form: those that are asked for in this order, or in random order, those
    first that cost the least: cubic ones, of which insulators."""
    asked = [_reduced(formula) for formula in rules.formulas]
    places = np.flatnonzero(store.num_atoms <= SUPERCELL * rules.max_atoms)
    places = np.random.default_rng(rules.seed).permutation(places)
    fits = []
    for place, energy, atoms in zip(places, _energies(store)[places], to_atoms(store.batch(places)), strict=True):
        is_element = len(set(atoms.numbers)) == 1
        if energy > rules.max_formation_energy or (np.isnan(energy) and not is_element and not asked):
            continue  # an element, or an allotrope, is known to form anyhow
        if asked and _reduced(atoms.get_chemical_formula()) not in asked:
            continue
        if len(atoms) > rules.max_atoms:
            atoms = _primitive(atoms)
        if len(atoms) <= rules.max_atoms:
            fits.append((_rank(atoms, asked), place, atoms))
    if not fits:
        which = f" of {', '.join(asked)}" if asked else ""
        raise ValueError(
            f"no crystal{which} of {str(store.path)!r} has at most {rules.max_atoms} atoms and is known to form"
        )
    fits = sorted(fits, key=itemgetter(0))[: rules.max_crystals]
    return np.array([place for _, place, _ in fits]), [atoms for *_, atoms in fits]


def _energies(store: CrystalStore) -> NDArray[np.float64]:
    """The lowest formation energy (eV/atom) that is known of each crystal; not a number where there is none."""
    known = [store.labels[name] for name in set(FORMATION_ENERGIES) & set(store.labels)]
    return np.fmin.reduce(known) if known else np.full(len(store), np.nan)


def _primitive(atoms: Atoms) -> Atoms:
    cell, coords, numbers = standard_primitive(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    return Atoms(numbers, cell=cell, scaled_positions=coords, pbc=True)


def _rank(atoms: Atoms, asked: Sequence[str]) -> tuple[int, bool, bool]:
    """What comes first: by the place of the formula among those asked for, then cubic ones, then insulators."""
    group = space_group_number(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    return asked.index(_reduced(atoms.get_chemical_formula())) if asked else 0, group < CUBIC, not is_insulator(atoms)


def _reduced(formula: str) -> str:
    return str(Formula(formula).reduce()[0].format("hill"))


def _label_crystal(
    atoms: Atoms, parent: str, folder: Path, rules: StiffnessRules, pseudo_dirs: Sequence[Path]
) -> list[LabelledFrame]:
    """The frames of a crystal that converged, stresses relative to the one at rest; none where that did not."""
    formula = atoms.get_chemical_formula()
    excluded = NOBLE_GASES if rules.nonmagnetic else NOBLE_GASES | set(rules.preset.moments)
    if unfit := excluded & set(atoms.get_chemical_symbols()):
        logger.info("%s is left out for %s: magnetic or noble", formula, ", ".join(sorted(unfit)))
        return []
    labelled: list[LabelledFrame] = []
    at_rest: NDArray[np.float64] | float = 0.0  # eV/Å³
    frames = strained_frames(atoms)
    rest = frames[0][1]
    try:
        calculations = [rules.calculation(frame, rest, pseudo_dirs) for _, frame in frames]
    except EspressoError as error:
        logger.info("%s is left out: %s", formula, error)
        return []
    only_forces = rules.only_moved or any(one.is_gth for one in calculations[0].pseudopotentials.values())
    for (strain, _), calculation in zip(frames, calculations, strict=True):
        if only_forces and strain in ("volume", "shape"):
            continue
        result = run(calculation, folder, rules.machine)
        end = result.output.final if result.complete else None
        if end is None or end.forces is None or end.stress is None:
            logger.info("a frame of %s is left out: %s", formula, result.problem)
        elif not labelled and (pressure := abs(np.trace(end.stress)) / 3 / GPa) > rules.max_pressure:
            logger.info("%s is left out: %.1f GPa at rest, so too few plane waves", formula, pressure)
        else:
            at_rest = at_rest if labelled else end.stress * (np.nan if only_forces else 1.0)
            whole = LabelledFrame(calculation.atoms, end.forces, end.stress - at_rest, parent, strain)
            labelled.append(whole)
            if strain in ("shape", "moved"):
                labelled += [_between(labelled[0], whole, part) for part in BETWEEN]
        if not labelled:
            return []
    return labelled


def _between(rest: LabelledFrame, whole: LabelledFrame, part: float) -> LabelledFrame:
    """A frame between rest and another, with ``part`` of what changes of its forces and, of a strained cell, its stress.

    Of a moved atom the stress is not known: where the atom sits at a centre of symmetry it goes with the square.
    """
    atoms = whole.atoms.copy()
    start = rest.atoms.repeat((1, 1, len(atoms) // len(rest.atoms)))
    forces = np.resize(rest.forces, whole.forces.shape)  # repeated as the atoms are
    atoms.set_cell(start.cell.array + part * (atoms.cell.array - start.cell.array))
    atoms.positions = start.positions + part * (whole.atoms.positions - start.positions)
    stress = whole.stress * (np.nan if whole.strain == "moved" else part)
    return whole._replace(atoms=atoms, forces=forces + part * (whole.forces - forces), stress=stress)
