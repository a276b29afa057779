"""What is done with generated structures before a user sees them: relaxed, symmetrized, ranked, made distinct."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from dao_ase.calculator import load_potential
from dao_ase.checkpoint import CheckpointError, default_weights
from dao_ase.composition import reduced_key
from dao_ase.convert import from_structures
from dao_ase.derivatives import predict_crystals
from dao_ase.gates import has_energy, is_finite
from dao_ase.relax import Relaxation, relax
from dao_ase.stability import energies_above_hull, load_stability
from dao_ase.symmetry import GENERATED, generated_space_group, idealized

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from dao_ase.potential import Potential

log = logging.getLogger(__name__)

ENERGIES = ("energy_per_atom", "e_above_hull")
"""Properties of a structure that are no longer true when its atoms have moved."""

RANKS = (True, False, "likely", "energy", "stability")
"""Orders that `ranked_groups` knows; True is "likely"."""


def finished(
    groups: Sequence[list[Structure]],
    *,
    relax: bool = False,
    rank: bool | str = True,
    deduplicate: bool = False,
    symmetrize: bool = False,
    stability: str | None = None,
    progress: bool = False,
) -> list[list[Structure]]:
    """Structures as a user sees them, one list for each composition: all relaxed together, each list ranked.

    Keywords mean what they mean for `dao_ase.generator.DAOGenerator.generate`; ``stability`` are the weights of another
    stability model than the installed one.
    """
    together = [structure for group in groups for structure in group]
    if relax:
        together = relax_structures(together, progress=progress)
    if symmetrize:
        together = with_missing_energies([symmetrized(structure) for structure in together])
    remaining = iter(together)
    ranked = ranked_groups([list(islice(remaining, len(group))) for group in groups], rank, stability)
    if deduplicate:
        ranked = [distinct(group) for group in ranked]
    for group in ranked:
        for structure in group:
            structure.properties["space_group"] = space_group(structure)
    return ranked


def installed_potential() -> Potential | None:
    """DAO-P as installed, or None where the installation carries no weights for it."""
    try:
        default_weights("dao_p")
    except CheckpointError:
        return None
    return load_potential()


def with_energies(structures: list[Structure], potential: Potential) -> list[Structure]:
    """The same structures, each with ``properties["energy_per_atom"]`` (eV/atom) where the potential knows its elements.

    What has coordinates that are not finite, next to no volume, or two atoms on one place gets none.
    """
    known = set(potential.elements)
    described = [one for one in structures if set(one.atomic_numbers) <= known and has_energy(one)]
    if described:
        crystals = from_structures(described)
        energies = predict_crystals(potential, crystals).energy / crystals.num_atoms
        for structure, energy in zip(described, energies.tolist(), strict=True):
            if np.isfinite(energy):
                structure.properties["energy_per_atom"] = energy
    return structures


def without_energies(structure: Structure) -> Structure:
    """A copy without its `ENERGIES`, for what was or may have been those of another geometry."""
    bare = structure.copy()
    bare.properties = {name: value for name, value in structure.properties.items() if name not in ENERGIES}
    return bare


def with_missing_energies(structures: list[Structure]) -> list[Structure]:
    """The same structures, as `with_energies` has them, where they had no energy and DAO-P is installed."""
    missing = [one for one in structures if "energy_per_atom" not in one.properties]
    if missing and (potential := installed_potential()) is not None:
        with_energies(missing, potential)
    return structures


def by_energy(structures: list[Structure]) -> list[Structure]:
    """Lowest energy per atom (eV) first; energies that are missing are computed with DAO-P, if it is installed.

    Structures without an energy come last, in the order given.
    """
    ordered = with_missing_energies(structures)
    return sorted(ordered, key=lambda one: one.properties.get("energy_per_atom", np.inf))


def by_likelihood(structures: list[Structure]) -> list[Structure]:
    """Lowest sum of the energy per atom and ``properties["handicap"]`` (eV/atom) first.

    The handicap is what `dao_ase.cell_sampler` holds against a candidate before its energy is known: types that suit the
    elements badly are seldom right, however low DAO-P finds them. Where energies are missing it decides alone.
    """
    handicaps = {id(one): one.properties.get("handicap", 0.0) for one in structures}
    ordered = by_energy(sorted(structures, key=lambda one: handicaps[id(one)]))
    return sorted(ordered, key=lambda one: one.properties.get("energy_per_atom", np.inf) + handicaps[id(one)])


def by_stability(structures: list[Structure], weights: str | None = None) -> list[Structure]:
    """Lowest ``properties["e_above_hull"]`` (eV/atom) first, as the stability model sees the structures as they are.

    ``weights`` is its weight file, by default the installed one. This costs one evaluation of a network of DAO-G's size.
    """
    model, header = load_stability(weights)
    if structures:
        energies = energies_above_hull(model, from_structures(structures), header["process"])
        for structure, energy in zip(structures, energies.tolist(), strict=True):
            structure.properties["e_above_hull"] = energy
    return sorted(structures, key=lambda one: one.properties["e_above_hull"])


def ranked_groups(
    groups: Sequence[list[Structure]], rank: bool | str, stability: str | None = None
) -> list[list[Structure]]:
    """Each group in the order that ``rank`` names: True or "likely", "energy", "stability", or False for the order given.

    What is ranked has DAO-P's energy, by whatever it is ranked; those of all groups are computed together.
    """
    check_rank(rank)
    if not rank:
        return list(groups)
    together = with_missing_energies([one for group in groups for one in group])
    if rank == "stability":
        ordered = by_stability(together, stability)
    else:
        ordered = by_energy(together) if rank == "energy" else by_likelihood(together)
    place = {id(one): place for place, one in enumerate(ordered)}
    return [sorted(group, key=lambda one: place[id(one)]) for group in groups]


def check_rank(rank: bool | str) -> None:
    """Refuses an order that `ranked_groups` does not know."""
    if rank not in RANKS:
        raise ValueError(f"rank is {rank!r}; give 'likely', 'energy', 'stability', True or False")


def relax_structures(
    structures: list[Structure],
    *,
    fmax: float = 0.05,
    steps: int = 200,
    progress: bool = False,
    potential: Potential | None = None,
    on_done: Callable[[int, Structure], object] | None = None,
) -> list[Structure]:
    """Structures relaxed with DAO-P, atoms and cell, until forces are below ``fmax`` (eV/Å) or ``steps`` are made.

    ``potential`` is another DAO-P than the installed one. ``on_done`` is told of each that ends, and at an interrupt
    (Ctrl-C) how far those on their way have come.
    ``properties`` gain ``energy_per_atom`` (eV), ``converged`` and ``relax_steps``. What cannot be relaxed stays as it is.
    """
    from tqdm import tqdm

    potential = potential or installed_potential()
    if potential is None:
        raise CheckpointError("relaxing needs the weights of DAO-P, which this installation does not carry")
    if not structures:
        return []
    crystals = from_structures(structures)
    relaxed = list(structures)
    with tqdm(total=len(structures), desc="relaxing", unit="structure", disable=not progress) as bar:

        def keep(index: int, result: Relaxation) -> None:
            relaxed[index] = _relaxed(structures[index], result)
            bar.update()
            if on_done is not None:
                on_done(index, relaxed[index])

        relax(crystals, potential, fmax=fmax, steps=steps, on_done=keep)
    return relaxed


def _relaxed(structure: Structure, result: Relaxation) -> Structure:
    """The structure where its relaxation ended, with what `relax_structures` says of it."""
    if result.final is None:
        log.warning("%s was not relaxed: %s", structure.composition.formula, result.reason)
        return structure
    moved = _moved(structure, result.final.lattice, result.final.positions)
    moved.properties = {
        **{name: value for name, value in structure.properties.items() if name not in ENERGIES},
        "energy_per_atom": result.final.energy / len(structure),
        "converged": result.converged,
        "relax_steps": result.steps,
    }
    return moved


def distinct(structures: list[Structure]) -> list[Structure]:
    """The first of each group of equal structures; see `with_copies`."""
    return [structure for structure, _ in with_copies(structures)]


def with_copies(structures: list[Structure]) -> list[tuple[Structure, int]]:
    """The first of each group of equal structures, with the number in the group.

    Equal is what pymatgen's StructureMatcher takes for equal by its default tolerances (`dao_ase.data.matching`): a crystal
    in a larger cell is still the same.
    """
    from dao_ase.data.matching import Cell, find_duplicates, group_by_formula

    cells = [Cell(one.lattice.matrix, one.frac_coords, np.array(one.atomic_numbers)) for one in structures]
    first_of = list(range(len(structures)))
    for group in group_by_formula(reduced_key(cell.atomic_numbers) for cell in cells):
        repeats = find_duplicates([cells[place] for place in group.members])
        for place, repeated in zip(group.members, repeats, strict=True):
            if repeated >= 0:
                first_of[place] = group.members[repeated]
    copies = Counter(first_of)
    return [(structures[first], copies[first]) for first in sorted(copies)]


def symmetrized(structure: Structure) -> Structure:
    """The structure with its atoms and cell moved onto the symmetry found within `GENERATED`, of any multiple of a cell.

    It loses its energies, which were those of the geometry before.
    """
    if not is_finite(structure):
        return structure
    kinds = list(dict.fromkeys(structure.species))
    numbers = np.array([kinds.index(specie) for specie in structure.species])
    found = idealized(structure.lattice.matrix, structure.frac_coords, numbers, GENERATED)
    if found is None:  # for example because atoms coincide
        return structure
    lattice, frac_coords = found
    return without_energies(_moved(structure, lattice, frac_coords @ lattice))


def space_group(structure: Structure) -> str:
    """The symbol of the space group, as `generated_space_group` finds it."""
    return generated_space_group(structure)[0]


def _moved(structure: Structure, lattice: np.ndarray, positions: np.ndarray) -> Structure:
    """The structure with everything that its sites carry, in another cell and at other positions (Å)."""
    from pymatgen.core import Lattice

    moved = structure.copy()
    moved.lattice = Lattice(lattice, pbc=structure.pbc)
    for site, place in zip(moved, moved.lattice.get_fractional_coords(positions), strict=True):
        site.frac_coords = place
    return moved
