"""The work on one shard of compositions: a pure function that any process on any machine can run.

Generate, relax, de-duplicate, rank, and put beside the references' hull. What goes wrong with one composition is its error
and touches no other.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_ase.cells import check_units, seed_of, structure_count, whole_number
from dao_ase.data.parallel import one_thread
from dao_ase.database import Outcome
from dao_ase.phase_diagram import Hull, Phase, missing_elements, phases_of

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from dao_ase.generator import DAOGenerator
    from dao_ase.potential import Potential

PACKAGES = ("dao-ase", "torch", "ase", "pymatgen", "spglib")
"""Whose versions are written beside each structure."""


@dataclass(frozen=True)
class ScreenSettings:
    """How compositions are screened; the same settings and the same weights give the same structures.

    ``samples`` are drawn of each composition and relaxed until forces are below ``fmax`` (eV/Å), at most ``relax_steps``
    steps (0: not at all). ``formula_units``, ``seed`` and ``max_atoms`` are those of `DAOGenerator.generate`, ``prototypes``
    is that of `DAOGenerator`.
    """

    samples: int = 20
    formula_units: str | tuple[int, ...] = (1,)
    seed: int = 0
    max_atoms: int | None = None
    relax_steps: int = 200
    fmax: float = 0.05
    prototypes: bool = True
    weights: str | None = None
    potential: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("weights", "potential"):  # workers stand in other folders
            if (file := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(Path(file).resolve()))
        structure_count("samples", self.samples)
        if self.relax_steps < 0:
            raise ValueError(f"relax_steps is {self.relax_steps}; it must not be negative")
        if not 0 < self.fmax < math.inf:
            raise ValueError(f"fmax is {self.fmax}; a force (eV/Å) is above 0")
        if self.max_atoms is not None and whole_number("max_atoms", self.max_atoms) < 1:
            raise ValueError(f"max_atoms is {self.max_atoms}; a cell has at least 1")
        seed_of(self.seed)
        check_units(self.formula_units)


@dataclass(frozen=True)
class Shard:
    """Compositions that are screened together, and the phases that compete with them."""

    compositions: tuple[str, ...]
    settings: ScreenSettings
    phases: tuple[Phase, ...] = ()


@one_thread()
def screen_shard(shard: Shard) -> list[Outcome]:
    """Screens the compositions of a shard, in their order; never raises for what one composition brings with it."""
    generator, _ = models(shard.settings)
    outcomes, fit = {}, []
    for composition in shard.compositions:
        try:
            generator.cells(composition, 1, shard.settings.formula_units, shard.settings.max_atoms)
            fit.append(composition)
        except (ValueError, TypeError) as error:
            outcomes[composition] = Outcome(composition, error=str(error))
    outcomes |= {outcome.composition: outcome for outcome in _screened(shard, fit)}
    return [outcomes[composition] for composition in shard.compositions]


def _screened(shard: Shard, compositions: list[str]) -> list[Outcome]:
    """All together, which is faster; where that fails one after another, to find the culprit."""
    if not compositions:
        return []
    started = time.perf_counter()
    try:
        groups = _ranked(shard, compositions)
    except Exception as error:  # numerics, memory, libraries: a composition may bring anything with it
        if len(compositions) > 1:
            return [outcome for one in compositions for outcome in _screened(shard, [one])]
        return [Outcome(compositions[0], error=f"{type(error).__name__}: {error}")]
    seconds = round((time.perf_counter() - started) / len(compositions), 3)
    origin = provenance(shard.settings)
    return [
        Outcome(one, group, None if group else "no sample passed the geometry gates", seconds, origin)
        for one, group in zip(compositions, groups, strict=True)
    ]


def _ranked(shard: Shard, compositions: Sequence[str]) -> list[list[Atoms]]:
    from dao_ase.rank import relax_structures, with_energies

    settings = shard.settings
    generator, potential = models(settings)
    made = generator.groups(
        compositions, settings.samples,
        formula_units=settings.formula_units, seed=settings.seed, max_atoms=settings.max_atoms,
    )  # fmt: skip
    together = [structure for group in made for structure in group]
    if together and settings.relax_steps:
        together = relax_structures(together, fmax=settings.fmax, steps=settings.relax_steps, potential=potential)
    with_energies([one for one in together if "energy_per_atom" not in one.properties], potential)
    remaining = iter(together)
    found = [_different([next(remaining) for _ in group], shard.phases) for group in made]
    rows = iter(_with_results([structure for group in found for structure, _ in group], potential))
    return [[_row(next(rows), structure, info) for structure, info in group] for group in found]


def _different(structures: list[Structure], phases: Sequence[Phase]) -> list[tuple[Structure, dict[str, Any]]]:
    """The different structures of one composition, the likeliest first, with what only the comparison tells."""
    from dao_ase.rank import by_likelihood, with_copies

    kept = with_copies(by_likelihood(structures))
    heights = above_hull([structure for structure, _ in kept], phases)
    return [
        (structure, {"rank": rank, "copies": copies, "e_above_hull": height})
        for rank, ((structure, copies), height) in enumerate(zip(kept, heights, strict=True), 1)
    ]


def _row(atoms: Atoms, structure: Structure, info: dict[str, Any]) -> Atoms:
    """A row of the database: the atoms with all that is known of the structure."""
    from dao_ase.rank import space_group

    known = {name: structure.properties.get(name) for name in ROW_KEYS}
    atoms.info = {**info, "space_group": space_group(structure), **known}
    return atoms


ROW_KEYS = ("energy_per_atom", "converged", "relax_steps", "formula_units", "prototype", "handicap", "seed", "model")
"""Properties of a structure that become columns of its row."""


def above_hull(structures: list[Structure], phases: Sequence[Phase]) -> list[float | None]:
    """Energies above the hull of the references (eV/atom), None where these do not span the system."""
    heights: list[float | None] = []
    for structure in structures:
        candidates = phases_of([structure])
        elements = {symbol for candidate in candidates for symbol in candidate.elements}
        possible = bool(candidates) and not missing_elements(elements, phases)
        heights.append(_hull(frozenset(elements), tuple(phases)).above(candidates[0]) if possible else None)
    return heights


@lru_cache(maxsize=64)
def _hull(elements: frozenset[str], phases: tuple[Phase, ...]) -> Hull:
    return Hull(elements, phases)


def _with_results(structures: list[Structure], potential: Potential) -> list[Atoms]:
    """ASE's atoms with energy (eV), forces (eV/Å) and stress (eV/Å³), where DAO-P knows the elements."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    from dao_ase.convert import from_structures, to_atoms
    from dao_ase.derivatives import predict_crystals

    if not structures:
        return []
    rows = to_atoms(from_structures(structures))
    known = [place for place, one in enumerate(structures) if set(one.atomic_numbers) <= set(potential.elements)]
    if known:
        found = predict_crystals(potential, from_structures([structures[place] for place in known]))
        forces = found.forces.double().cpu().split([len(structures[place]) for place in known])
        for place, energy, force, stress in zip(known, found.energy, forces, found.stress.double().cpu(), strict=True):
            rows[place].calc = SinglePointCalculator(
                rows[place], energy=float(energy), forces=force.numpy(),
                stress=full_3x3_to_voigt_6_stress(stress.numpy()),
            )  # fmt: skip
    return rows


@lru_cache(maxsize=1)
def models(settings: ScreenSettings) -> tuple[DAOGenerator, Potential]:
    """DAO-G and DAO-P, read once in each process; one try from noise at each sample, since all are relaxed and ranked."""
    from dao_ase.calculator import load_potential
    from dao_ase.generator import DAOGenerator

    generator = DAOGenerator(settings.weights, device=settings.device, tries=1, prototypes=settings.prototypes)
    return generator, load_potential(settings.potential, settings.device)


@lru_cache(maxsize=1)
def provenance(settings: ScreenSettings) -> dict[str, Any]:
    """What made the structures: weight files, settings, versions."""
    return {
        "weights": weight_digests(settings),
        "settings": asdict(settings),
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }


def weight_digests(settings: ScreenSettings) -> dict[str, str]:
    """Twelve hexadecimal digits that tell the weight files from others."""
    folder = resources.files("dao_ase") / "weights"  # not by dao_ase.checkpoint, which brings torch
    files = {"dao_g": settings.weights, "dao_p": settings.potential}
    files |= {} if settings.weights else {"dao_g_52": None}
    files |= {"prototypes": None} if settings.prototypes else {}
    return {
        name: hashlib.sha256((Path(file) if file else folder / f"{name}.safetensors").read_bytes()).hexdigest()[:12]
        for name, file in files.items()
    }


def run_name(settings: ScreenSettings, phases: Sequence[Phase]) -> str:
    """A name for runs whose results are the same: of settings, weights and references; the device does not count."""
    said = {**asdict(settings), "device": None, "weights": weight_digests(settings), "potential": None}
    said["phases"] = sorted((one.formula, one.energy_per_atom) for one in phases)
    return "screen-" + hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
