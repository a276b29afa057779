"""DAO-G for pymatgen: from a composition to ranked crystal structures."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from monty.json import MSONable

from dao_ase import checkpoint
from dao_ase.composition import Composition
from dao_ase.convert import to_structures
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.gates import refusal
from dao_ase.processes import PROCESSES
from dao_ase.sampler import SamplerSettings, batches_by_size, sample

if TYPE_CHECKING:
    from pymatgen.core import Structure

log = logging.getLogger(__name__)

CHUNK = 256
"""Structures that are sampled together, and in memory at once while a long stream is generated."""

MAX_ATTEMPTS = 5
"""Samples drawn for each structure asked for before a composition is given up."""


SEED_STRIDE = 1_000_003
"""Distance between the noise seeds of two values of ``seed``; the samples in between take consecutive ones."""


@runtime_checkable
class StructureGenerator(Protocol):
    """Anything that turns a composition into candidate structures."""

    def generate(self, composition: Any, n: int) -> list[Structure]:
        """``n`` candidate structures of the composition."""


@dataclass(frozen=True)
class _Request:
    """One structure to make: for which of the compositions, what is in the cell, and the seed of its noise."""

    group: int
    cell: Composition
    seed: int


class DAOGenerator(MSONable):
    """Predicts crystal structures with DAO-G.

    >>> structures = DAOGenerator().generate("CsV3Sb5", n=20)
    >>> structures[0].properties["space_group"], structures[0].properties["energy_per_atom"]
    ('...', -...)

    ``weights`` is a weight file, by default the one installed with the package; ``steps`` is the number of network
    evaluations for a sample, ``anti_annealing`` the speed-up of the last steps (defaults: what validation found best).
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        device: str = "cpu",
        steps: int | None = None,
        anti_annealing: float | None = None,
    ) -> None:
        self.weights, self.device, self.steps, self.anti_annealing = weights, device, steps, anti_annealing
        path = weights or checkpoint.default_weights("dao_g")
        tensors, self._header = checkpoint.load(path, device)
        if self._header.get("model") != "denoiser":
            raise checkpoint.CheckpointError(f"{str(path)!r} holds no denoiser; DAO-G needs one")
        self._denoiser = Denoiser(DenoiserConfig(**self._header["config"]))
        self._denoiser.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self._denoiser.to(device).eval()
        self._process = PROCESSES[self._header["process"]]()
        changes: dict[str, Any] = {"steps": steps, "anti_annealing": anti_annealing}
        self.settings = replace(
            SamplerSettings(**self._header.get("sampler", {})),
            **{name: value for name, value in changes.items() if value is not None},
        )
        self.refused: Counter[str] = Counter()
        """How many samples the geometry gates refused in the last call, by reason."""

    def as_dict(self) -> dict[str, Any]:
        """The settings, as monty's MSONable writes them; the weights stay in their file."""
        settings = {name: getattr(self, name) for name in ("weights", "device", "steps", "anti_annealing")}
        return {"@module": type(self).__module__, "@class": type(self).__name__, **settings}

    @property
    def elements(self) -> list[str]:
        """The elements that the network was trained on."""
        return list(self._header["elements"])

    @property
    def max_atoms(self) -> int:
        """The largest cell that the network was trained on."""
        return int(self._header["max_atoms"])

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell these weights from others."""
        digest = hashlib.sha256()
        for tensor in self._denoiser.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:8]

    @property
    def name(self) -> str:
        """What is written into ``properties["model"]``."""
        return str(self._header.get("name", "dao-g"))

    def generate(
        self,
        composition: Any,
        n: int = 20,
        *,
        formula_units: int | Sequence[int] | str = 1,
        seed: int = 0,
        max_atoms: int | None = None,
        relax: bool = False,
        rank: bool = True,
        deduplicate: bool = False,
        symmetrize: bool = False,
        progress: bool = False,
    ) -> list[Structure]:
        """``n`` structures for each composition, lowest energy first.

        ``composition`` is a formula, a mapping, a pymatgen Composition, or a list of these (the results then follow one
        another in its order). The formula is taken as the content of the cell ("Zr16Rh8O4" has 28 atoms) times
        ``formula_units``: one number, a list among which the samples are shared out, or "auto" for what the training
        crystals show for such formulas, in cells up to ``max_atoms``.

        ``relax`` relaxes atoms and cell with DAO-P; ``rank`` sorts by DAO-P's energy per atom (eV); ``deduplicate`` keeps
        one of each group of equal structures; ``symmetrize`` moves atoms onto the symmetry found within 0.1 Å. The same
        seed gives the same structures.
        """
        groups = self.groups(
            composition, n, formula_units=formula_units, seed=seed, max_atoms=max_atoms, progress=progress
        )
        finish = {"relax": relax, "rank": rank, "deduplicate": deduplicate, "symmetrize": symmetrize}
        return [one for group in groups for one in self.finish(group, **finish, progress=progress)]

    def groups(
        self,
        composition: Any,
        n: int,
        *,
        formula_units: int | Sequence[int] | str = 1,
        seed: int = 0,
        max_atoms: int | None = None,
        progress: bool = False,
    ) -> list[list[Structure]]:
        """Like `generate`, unranked: one list of structures for each composition, all sampled together."""
        groups: list[list[Structure]] = [[] for _ in _as_list(composition)]
        requests = self._requests(composition, n, formula_units, seed, max_atoms)
        for request, structure in self._accepted(requests, n, progress):
            groups[request.group].append(structure)
        return groups

    def stream(
        self,
        composition: Any,
        n: int,
        *,
        formula_units: int | Sequence[int] | str = 1,
        seed: int = 0,
        max_atoms: int | None = None,
        progress: bool = False,
    ) -> Iterator[Structure]:
        """Like `generate`, one structure after another as they are made, in bounded memory and unranked."""
        requests = self._requests(composition, n, formula_units, seed, max_atoms)
        for _, structure in self._accepted(requests, n, progress):
            yield structure

    def finish(
        self,
        structures: list[Structure],
        *,
        relax: bool = False,
        rank: bool = True,
        deduplicate: bool = False,
        symmetrize: bool = False,
        progress: bool = False,
    ) -> list[Structure]:
        """Relaxes, symmetrizes, ranks and deduplicates structures of one composition, as `generate` does."""
        from dao_ase import rank as ranking

        if not structures:
            return []
        if relax:
            structures = ranking.relax_structures(structures, progress=progress)
        if symmetrize:
            structures = [ranking.symmetrized(structure) for structure in structures]
        if rank:
            structures = ranking.by_energy(structures)
        if deduplicate:
            structures = ranking.distinct(structures)
        for structure in structures:
            structure.properties["space_group"] = ranking.space_group(structure)
        return structures

    def cells(
        self, composition: Any, n: int, formula_units: int | Sequence[int] | str = 1, max_atoms: int | None = None
    ) -> list[Composition]:
        """The content of the ``n`` cells that will be sampled for a composition; refuses what cannot be sampled."""
        if n < 1:
            raise ValueError(f"n is {n}; ask for at least one structure")
        parsed = Composition.parse(composition)
        unknown = [symbol for symbol, _ in parsed.counts if symbol not in self.elements]
        if unknown:
            raise ValueError(
                f"{parsed.formula!r} contains {', '.join(unknown)}, which DAO-G has not seen in training; "
                f"the {len(self.elements)} trained elements are {' '.join(self.elements)}"
            )
        largest = self.max_atoms if max_atoms is None else max_atoms
        if formula_units == "auto":
            parsed = parsed.reduced
            units = self._usual_formula_units(parsed, largest)
        elif isinstance(formula_units, str):
            raise ValueError(f"formula_units is {formula_units!r}; give a number, a list of numbers, or 'auto'")
        else:
            units = {int(z): 1.0 for z in np.atleast_1d(formula_units)}
        for z in units:
            if z < 1:
                raise ValueError(f"formula_units contains {z}; it must be at least 1")
            if parsed.num_atoms * z > largest:
                raise ValueError(
                    f"{(parsed * z).formula} has {parsed.num_atoms * z} atoms in the cell; at most {largest} are allowed"
                    + ("" if max_atoms else " (what DAO-G was trained on; max_atoms= lifts the limit)")
                )
        return [cell for z, count in _share_out(units, n).items() for cell in [parsed * z] * count]

    def _requests(
        self, composition: Any, n: int, formula_units: int | Sequence[int] | str, seed: int, max_atoms: int | None
    ) -> list[_Request]:
        """What is to be made for all compositions; refuses everything that is wrong before any work begins."""
        return [
            _Request(group, cell, seed * SEED_STRIDE + index)
            for group, one in enumerate(_as_list(composition))
            for index, cell in enumerate(self.cells(one, n, formula_units, max_atoms))
        ]

    def _accepted(self, requests: list[_Request], n: int, progress: bool) -> Iterator[tuple[_Request, Structure]]:
        """Structures that passed the gates, chunk by chunk; those that are refused are drawn again with other seeds."""
        self.refused = Counter()
        with _bar(progress, len(requests)) as bar:
            for start in range(0, len(requests), CHUNK):
                waiting = requests[start : start + CHUNK]
                for _ in range(MAX_ATTEMPTS):
                    failed = []
                    structures = self.sample_cells([one.cell for one in waiting], [one.seed for one in waiting])
                    for request, structure in zip(waiting, structures, strict=True):
                        reason = refusal(structure)
                        if reason is None:
                            bar.update()
                            yield request, structure
                        else:
                            self.refused[reason] += 1
                            failed.append(replace(request, seed=request.seed + n))
                    waiting = failed
                    if not waiting:
                        break
                for formula, count in Counter(one.cell.formula for one in waiting).items():
                    log.warning(
                        "%s: %d of %d structures could not be made in %d attempts each; refused so far: %s",
                        formula, count, n, MAX_ATTEMPTS, dict(self.refused),
                    )  # fmt: skip

    def sample_cells(self, cells: Sequence[Composition], seeds: Sequence[int]) -> list[Structure]:
        """One structure for the content of each cell, from the seed of the same place; nothing is refused."""
        made: list[Structure | None] = [None] * len(cells)
        for indices in batches_by_size([cell.num_atoms for cell in cells]):
            numbers = [cells[index].atomic_numbers for index in indices]
            crystals = sample(
                self._denoiser, self._process, numbers, [seeds[index] for index in indices], self.settings
            )
            for index, structure in zip(indices, to_structures(crystals), strict=True):
                structure.properties.update(
                    formula_units=cells[index].formula_units, seed=seeds[index], model=self.name
                )
                made[index] = structure
        return [structure for structure in made if structure is not None]

    def _usual_formula_units(self, reduced: Composition, largest: int) -> dict[int, float]:
        """Formula units and their weights among training crystals of this kind of formula, in cells that are allowed."""
        table: Mapping[str, Mapping[str, int]] = self._header["formula_units"]
        kind = "-".join(str(count) for count in sorted(count for _, count in reduced.counts))
        for row in (table.get(kind, {}), table["any"]):
            fitting = {int(z): float(w) for z, w in row.items() if int(z) * reduced.num_atoms <= largest}
            if fitting:
                return fitting
        return {1: 1.0}


def _as_list(composition: Any) -> list[Any]:
    if isinstance(composition, Sequence) and not isinstance(composition, str):
        if not composition:
            raise ValueError("the list of compositions is empty")
        return list(composition)
    return [composition]


def _share_out(weights: dict[int, float], n: int) -> dict[int, int]:
    """Splits n among weights by largest remainders, so that the counts are whole and sum to n."""
    total = sum(weights.values())
    exact = {z: n * weight / total for z, weight in weights.items()}
    counts = {z: int(share) for z, share in exact.items()}
    by_remainder = sorted(exact, key=lambda z: exact[z] - counts[z], reverse=True)
    for z in by_remainder[: n - sum(counts.values())]:
        counts[z] += 1
    return {z: counts[z] for z in sorted(counts) if counts[z]}


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="generating", unit="structure", disable=not progress)
