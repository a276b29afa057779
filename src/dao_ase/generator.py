"""DAO-G for pymatgen: from a composition to ranked crystal structures."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ase import Atoms
from ase.formula import Formula
from ase.symbols import Symbols
from monty.json import MSONable

from dao_ase.cell_sampler import CellSampler, prototype_ranks
from dao_ase.cells import CellRules, seed_of, whole_number
from dao_ase.composition import Composition
from dao_ase.convert import require_elements
from dao_ase.device import own_precision, usable_device
from dao_ase.gates import refusal

if TYPE_CHECKING:
    from pymatgen.core import Structure

log = logging.getLogger(__name__)

CHUNK = 64
"""Structures that are sampled together, and in memory at once while a long stream is generated."""

MAX_ATTEMPTS = 5
"""Samples drawn for each structure asked for before a composition is given up."""


@runtime_checkable
class StructureGenerator(Protocol):
    """Anything that turns a composition into candidate structures."""

    def generate(self, composition: Any, n: int) -> list[Structure]:
        """``n`` candidate structures of the composition."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One structure to make: for which of the compositions, what is in the cell, the seed of its noise, and which of the
    structure types are tried for it."""

    group: int
    cell: Composition
    seed: int
    ranks: range


class DAOGenerator(MSONable):
    """Predicts crystal structures with DAO-G.

    >>> structures = DAOGenerator().generate("CsV3Sb5", n=20)
    >>> structures[0].properties["space_group"], structures[0].properties["energy_per_atom"]
    ('...', -...)

    ``weights`` is a weight file; by default those installed with the package, one model for cells up to 20 atoms and another
    for larger ones. Each structure is the best of several candidates by DAO-P's energy, as they are: ``tries`` from noise
    (default: four for up to twenty structures of a composition, fewer for more, one from forty-one on), each of ``steps``
    network evaluations, and known structure types with other elements in them, adapted by the network. The types come
    from ``prototypes``: True for the installed library, another file, or False for the network alone; the property
    "prototype" of a structure names a crystal of its type. ``anti_annealing`` is the speed-up of the last steps,
    ``lattice_noise`` the spread of the cells at the start (defaults: what validation found best). ``stability`` is the
    weight file of the model that guides, by default the installed one.
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        device: str = "cpu",
        tries: int | None = None,
        prototypes: bool | str = True,
        steps: int | None = None,
        anti_annealing: float | None = None,
        lattice_noise: float | None = None,
        stability: str | None = None,
    ) -> None:
        weights, stability = (None if file is None else str(file) for file in (weights, stability))
        prototypes = prototypes if isinstance(prototypes, bool) else str(prototypes)
        device = usable_device(device)
        for name, count in (("tries", tries), ("steps", steps)):
            if count is not None:
                whole_number(name, count)
        self._options: dict[str, Any] = {
            "weights": weights, "device": device, "tries": tries, "prototypes": prototypes, "stability": stability,
            "steps": steps, "anti_annealing": anti_annealing, "lattice_noise": lattice_noise,
        }  # fmt: skip
        self.sampler = CellSampler(**self._options)
        """What draws: the networks, the structure types, the choice among candidates."""
        self.refused: Counter[str] = Counter()
        """How many samples the geometry gates refused in the last call, by reason."""

    def as_dict(self) -> dict[str, Any]:
        """The settings, as monty's MSONable writes them; the weights stay in their file."""
        return {"@module": type(self).__module__, "@class": type(self).__name__, **self._options}

    @property
    def elements(self) -> list[str]:
        """The elements that DAO-G was trained on."""
        return self.sampler.elements

    @property
    def max_atoms(self) -> int:
        """The largest cell that was trained on."""
        return self.sampler.max_atoms

    def generate(
        self,
        composition: Any,
        n: int = 20,
        *,
        formula_units: int | Sequence[int] | str = 1,
        seed: int = 0,
        max_atoms: int | None = None,
        guidance: float = 0.0,
        relax: bool = False,
        rank: bool | str = True,
        deduplicate: bool = False,
        symmetrize: bool = False,
        progress: bool = False,
    ) -> list[Structure]:
        """``n`` structures for each composition, the likeliest first.

        ``composition`` is a formula, a mapping, a pymatgen Composition, a Structure or ASE's Atoms (of which only the
        content counts), or several of these (the results then follow one another in their order). The formula is taken as
        the content of the cell ("Zr16Rh8O4" has 28 atoms) times ``formula_units``: one number, a list among which the
        samples are shared out, or "auto" for what the training crystals show for such formulas, in cells up to
        ``max_atoms``.

        ``guidance`` steers the samples towards what DAO-P holds for stable, while they are drawn: 0 is off, 1 the
        theory's strength, 5 what was measured. ``relax`` relaxes atoms and cell with DAO-P. ``rank`` sorts by DAO-P's
        energy per atom (eV), to which "likely" (True) adds the property "handicap" of structure types that suit the
        elements badly and "energy" adds nothing; "stability" sorts by the energy above the hull that the stability
        model sees. ``deduplicate`` keeps one of each group of equal structures; ``symmetrize`` moves atoms onto the
        symmetry found within 0.1 Å. The same seed gives the same structures, in whatever order a formula names its elements;
        their sites are in that order.
        """
        from dao_ase.rank import check_rank

        check_rank(rank)
        groups = self.groups(
            composition, n, formula_units=formula_units, seed=seed, max_atoms=max_atoms, guidance=guidance,
            progress=progress,
        )  # fmt: skip
        finish: dict[str, Any] = {"relax": relax, "rank": rank, "deduplicate": deduplicate, "symmetrize": symmetrize}
        return [one for group in self.finish_groups(groups, **finish, progress=progress) for one in group]

    def groups(self, composition: Any, n: int, **how: Any) -> list[list[Structure]]:
        """Like `generate`, unranked: one list for each composition, all sampled together; keywords as of `numbered`."""
        compositions = _as_list(composition)
        groups: list[list[Structure]] = [[] for _ in compositions]
        for group, structure in self.numbered(compositions, n, **how):
            groups[group].append(structure)
        return groups

    def stream(self, composition: Any, n: int, **how: Any) -> Iterator[Structure]:
        """Like `generate`, one structure after another, unranked and in bounded memory; keywords as of `numbered`."""
        return (structure for _, structure in self.numbered(composition, n, **how))

    def numbered(
        self,
        composition: Any,
        n: int,
        *,
        formula_units: int | Sequence[int] | str = 1,
        seed: int = 0,
        max_atoms: int | None = None,
        guidance: float = 0.0,
        progress: bool = False,
    ) -> Iterator[tuple[int, Structure]]:
        """Structures as they are made, unranked, each with the place of its composition among those given.

        Structures of different compositions may come in turns: they are sampled together. Keywords mean what they mean for
        `generate`.
        """
        first = seed_of(seed)
        cells = [self.cells(one, n, formula_units, max_atoms) for one in _as_list(composition)]
        requests = (
            _Request(group, cell, first + index, ranks)
            for group, mine in enumerate(cells)
            for index, (cell, ranks) in enumerate(zip(mine, _ranks(mine), strict=True))
        )
        return self._accepted(requests, sum(map(len, cells)), n, guidance, progress)

    def finish(self, structures: Iterable[Structure], **how: Any) -> list[Structure]:
        """Relaxes, symmetrizes, ranks and deduplicates structures of one composition, as `generate` does.

        Their energies are computed anew: those in ``properties`` are of a geometry before where pymatgen's ``relax``, or
        anything else, has moved the atoms since.
        """
        from dao_ase.rank import with_missing_energies, without_energies

        structures = list(structures)
        for number, one in enumerate(structures):
            require_elements(one, f"structure {number}")
        with own_precision("cpu"):
            renewed = with_missing_energies([without_energies(one) for one in structures])
        return self.finish_groups([renewed], **how)[0]

    def finish_groups(self, groups: Sequence[list[Structure]], **how: Any) -> list[list[Structure]]:
        """As `finish`, for one list of structures for each composition; keywords as of `dao_ase.rank.finished`."""
        from dao_ase.rank import finished

        with own_precision("cpu"):
            return finished(groups, stability=self._options["stability"], **how)

    def cells(
        self, composition: Any, n: int, formula_units: int | Sequence[int] | str = 1, max_atoms: int | None = None
    ) -> list[Composition]:
        """The content of the ``n`` cells that will be sampled for a composition; refuses what cannot be sampled."""
        rules = CellRules(self.elements, self.max_atoms, self.sampler.formula_units)
        return rules.cells(composition, n, formula_units, max_atoms)

    def _accepted(
        self, requests: Iterator[_Request], total: int, n: int, guidance: float, progress: bool
    ) -> Iterator[tuple[int, Structure]]:
        """Structures that passed the gates, chunk by chunk; those that are refused are drawn again with other seeds."""
        self.refused = Counter()
        with _bar(progress, total) as bar:
            while waiting := list(islice(requests, CHUNK)):
                for _ in range(MAX_ATTEMPTS):
                    failed = []
                    with own_precision(self._options["device"]):
                        structures = self.sampler.sample_cells(
                            [one.cell.in_iupac_order for one in waiting], [one.seed for one in waiting], guidance,
                            count=n, ranks=[one.ranks for one in waiting],
                        )  # fmt: skip
                    for request, structure in zip(waiting, structures, strict=True):
                        reason = refusal(structure)
                        if reason is None:
                            bar.update()
                            yield request.group, _in_order_of(request.cell, structure)
                        else:
                            self.refused[reason] += 1
                            failed.append(replace(request, seed=request.seed + n, ranks=range(0)))
                    waiting = failed
                    if not waiting:
                        break
                for formula, count in Counter(one.cell.formula for one in waiting).items():
                    log.warning(
                        "%s: %d of %d structures could not be made in %d attempts each; refused so far: %s",
                        formula, count, n, MAX_ATTEMPTS, dict(self.refused),
                    )  # fmt: skip


def _ranks(cells: Sequence[Composition]) -> Iterator[range]:
    """Which structure types each of these cells tries, so that those of equal content try different ones."""
    counts, places = Counter(cells), Counter[Composition]()
    for cell in cells:
        yield prototype_ranks(places[cell], counts[cell])
        places[cell] += 1


def _in_order_of(cell: Composition, structure: Structure) -> Structure:
    """The structure with its elements in the order in which the formula that was asked for names them."""
    places = {symbol: place for place, (symbol, _) in enumerate(cell.counts)}
    structure.sort(key=lambda site: places[site.specie.symbol])
    return structure


def _as_list(composition: Any) -> list[Any]:
    """Several compositions as a list, a single one as a list of one; a structure stands for its content."""
    one = _content(composition)
    if isinstance(one, str | bytes | Mapping | Composition) or not isinstance(one, Iterable):
        return [one]
    several = [_content(each) for each in one]
    if not several:
        raise ValueError("the list of compositions is empty")
    return several


def _content(composition: Any) -> Any:
    """What is in the cell of a Structure of pymatgen's or of ASE's Atoms, symbols or formula; anything else as it is."""
    if isinstance(composition, Atoms):
        composition = composition.symbols
    if isinstance(composition, Symbols):
        composition = composition.formula
    if isinstance(composition, Formula):
        return composition.count()
    return getattr(composition, "composition", composition)


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="generating", unit="structure", disable=not progress)
