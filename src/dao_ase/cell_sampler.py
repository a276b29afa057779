"""DAO-G's trained networks at work: from the content of cells and seeds to structures, with or without guidance.

A structure is the best of several candidates. Some begin from noise, as DAO-G was trained to; others from known structure
types with the cell's elements in their places (`dao_ase.prototypes`), which DAO-G adapts in its last steps. A single
structure is chosen from both; of several, the first half come from types and the others from noise. DAO-P chooses: the
lowest energy per atom wins, with a handicap of `WORTH` for each unit by which a type suits the composition worse than the
best one does, and of `UNKNOWN_TYPE` for what came from noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dao_ase import checkpoint
from dao_ase.checkpoint import default_weights
from dao_ase.composition import Composition
from dao_ase.convert import to_structures
from dao_ase.crystals import Crystals
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.gates import refusal
from dao_ase.guidance import Guidance, GuidanceSettings
from dao_ase.processes import PROCESSES, Flow
from dao_ase.prototypes.library import Prototype, PrototypeLibrary
from dao_ase.rank import ranked_groups
from dao_ase.sampler import Known, SamplerSettings, batches_by_size, sample
from dao_ase.stability import load_stability

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGER = "dao_g_52"
"""Installed weights for the cells that are too large for the default ones."""
TRY_STRIDE = 2_000_000_011
"""Distance between the noise seeds of two tries at one structure."""
DRAWS = 80
"""Of many structures of one composition each gets fewer tries, so that no more than this are drawn from noise."""
PROTOTYPES = 4
"""Structure types that are tried for a composition, at least; of many structures each gets one."""
ADAPTED_FROM = 0.9
"""The time of the flow at which structure types enter: a tenth of the noise, a tenth of the steps."""
WORTH, UNKNOWN_TYPE = 0.2, 0.02
"""What candidates must be lower in energy by (eV/atom), for a unit of a type's distance and for coming from noise."""


def prototype_ranks(place: int, count: int) -> range:
    """Which structure types are tried for the structure at ``place`` among ``count`` of one cell, none for the second half.

    Each type is tried for one of the structures, so that they differ; the second half is left to noise.
    """
    half = (count + 1) // 2
    return range(place, max(half, PROTOTYPES), half) if place < half else range(0)


class CellSampler:
    """A weight file of DAO-G and the settings of its sampler; see `dao_ase.generator.DAOGenerator` for what they mean.

    ``changes`` are fields of `dao_ase.sampler.SamplerSettings` that replace what the weight file says; None changes nothing.
    """

    def __init__(
        self,
        weights: str | None = None,
        *,
        device: str = "cpu",
        tries: int | None = None,
        prototypes: bool | str = True,
        stability: str | None = None,
        **changes: float | None,
    ) -> None:
        if tries is not None and tries < 1:
            raise ValueError(f"tries is {tries}; a structure needs at least 1")
        self.weights, self.device, self.stability = weights, device, stability
        self._asked: dict[str, Any] = {"tries": tries, "prototypes": prototypes, **changes}
        path = weights or default_weights("dao_g")
        tensors, self._header = checkpoint.load(path, device)
        if self._header.get("model") != "denoiser":
            raise checkpoint.CheckpointError(f"{str(path)!r} holds no denoiser; DAO-G needs one")
        self._denoiser = Denoiser(DenoiserConfig(**self._header["config"]))
        self._denoiser.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self._denoiser.to(device).eval()
        self._process = PROCESSES[self._header["process"]]()
        known: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        self.settings = replace(SamplerSettings(**self._header.get("sampler", {})), **known)
        self._guide: Guidance | None = None

    def tries_of(self, count: int) -> int:
        """Tries from noise at each of ``count`` structures of one composition.

        As many as were asked for, or as the weight file and `DRAWS` say.
        """
        if self._asked["tries"] is not None:
            return int(self._asked["tries"])
        return max(1, min(int(self._header.get("tries", 1)), DRAWS // max(count, 1)))

    def evaluations(self, count: int) -> int:
        """How often a network is evaluated for each of ``count`` structures of a composition, at most."""
        from_noise = self.tries_of(count) * self.settings.steps
        adapted = len(prototype_ranks(0, count)) * self.settings.steps_from(ADAPTED_FROM) if self.library else 0
        return from_noise + adapted if count == 1 else max(from_noise, adapted)

    @cached_property
    def library(self) -> PrototypeLibrary | None:
        """The structure types that are adapted; none where they are not wanted, or the process begins from noise alone."""
        wanted = self._asked["prototypes"]
        if not wanted or not isinstance(self._process, Flow):
            return None
        return PrototypeLibrary.load(default_weights("prototypes") if wanted is True else wanted)

    @property
    def elements(self) -> list[str]:
        """The elements that the network was trained on."""
        return list(self._header["elements"])

    @property
    def max_atoms(self) -> int:
        """The largest cell that was trained on."""
        headers = [self._header] if self.weights else [self._header, checkpoint.read_header(default_weights(LARGER))]
        return max(int(header["max_atoms"]) for header in headers)

    @cached_property
    def larger(self) -> CellSampler:
        """The installed model for cells that are larger than those of the default one."""
        return CellSampler(str(default_weights(LARGER)), device=self.device, stability=self.stability, **self._asked)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell these weights from others."""
        digest = hashlib.sha256()
        for tensor in self._denoiser.state_dict().values():
            digest.update(tensor.cpu().numpy().tobytes())
        if not self.weights:
            digest.update(default_weights(LARGER).read_bytes())
        if self.library:
            digest.update(self.library.checksum.encode())
        return digest.hexdigest()[:8]

    @property
    def name(self) -> str:
        """What is written into ``properties["model"]``."""
        return str(self._header.get("name", "dao-g"))

    def guide(self, scale: float) -> Guidance | None:
        """Guidance of this strength, with the window that validation found best; None where the strength is 0."""
        if scale == 0:
            return None
        if self._guide is None:
            model, header = load_stability(self.stability, self.device)
            if header["process"] != self._process.name:
                raise checkpoint.CheckpointError(
                    f"the stability model was trained on the process {header['process']!r}, DAO-G on "
                    f"{self._process.name!r}; one cannot guide the other"
                )
            if not model.denoiser.same_code(self._denoiser):
                raise checkpoint.CheckpointError(
                    "the stability model standardises lattices otherwise than DAO-G; train it from these weights of DAO-G"
                )
            self._guide = Guidance(model, GuidanceSettings(**header.get("guidance", {})))
        return replace(self._guide, settings=replace(self._guide.settings, scale=scale))

    def sample_cells(
        self,
        cells: Sequence[Composition],
        seeds: Sequence[int],
        guidance: float = 0.0,
        *,
        count: int = 1,
        ranks: Sequence[range] | None = None,
    ) -> list[Structure]:
        """One structure for the content of each cell, from the seed of the same place.

        Each is the best of the structure types whose ``ranks`` are given (default: those of a single structure); where there
        are none, or only a single structure is made (``count``), also of `tries_of` the count from noise. What the geometry
        gates would refuse comes only where there is nothing else. Where a type was taken, ``properties["prototype"]`` names
        a crystal of it.
        """
        ranks = [prototype_ranks(0, 1)] * len(cells) if ranks is None else ranks
        own = [i for i, cell in enumerate(cells) if self.weights or cell.num_atoms <= self._header["max_atoms"]]
        made: list[Structure | None] = [None] * len(cells)
        if rest := sorted(set(range(len(cells))) - set(own)):
            others = self.larger.sample_cells(
                [cells[i] for i in rest], [seeds[i] for i in rest], guidance,
                count=count, ranks=[ranks[i] for i in rest],
            )  # fmt: skip
            for index, structure in zip(rest, others, strict=True):
                made[index] = structure
        groups = self._candidates(
            [cells[i] for i in own], [seeds[i] for i in own], [ranks[i] for i in own], guidance, count
        )
        contested = any(len(group) > 1 for group in groups)
        for index, candidates in zip(own, ranked_groups(groups, "likely" if contested else False), strict=True):
            chosen = next((one for one in candidates if refusal(one) is None), candidates[0])
            chosen.properties.update(formula_units=cells[index].formula_units, seed=seeds[index], model=self.name)
            made[index] = chosen
        return [structure for structure in made if structure is not None]

    def _candidates(
        self, cells: Sequence[Composition], seeds: Sequence[int], ranks: Sequence[range], guidance: float, count: int
    ) -> list[list[Structure]]:
        """For each cell its candidates, each with its handicap (eV/atom)."""
        tries = self.tries_of(count)
        groups: list[list[Structure]] = [[] for _ in cells]
        types: list[Sequence[Prototype]] = [self.library.suited(cell) if self.library else [] for cell in cells]
        adapted = [
            (index, seed + TRY_STRIDE * (tries + rank), types[index][rank])
            for index, (seed, wanted) in enumerate(zip(seeds, ranks, strict=True))
            for rank in wanted
            if rank < len(types[index])
        ]
        owners, attempts, prototypes = zip(*adapted, strict=True) if adapted else ((), (), ())
        drawn = self._draw([cells[i] for i in owners], attempts, guidance, prototypes)
        for index, prototype, structure in zip(owners, prototypes, drawn, strict=True):
            structure.properties.update(prototype=prototype.like, handicap=WORTH * prototype.distance)
            groups[index].append(structure)
        open_ones = [index for index, group in enumerate(groups) if count == 1 or not group]
        owners = tuple(index for index in open_ones for _ in range(tries))
        attempts = tuple(seeds[index] + TRY_STRIDE * attempt for index in open_ones for attempt in range(tries))
        for index, structure in zip(owners, self._draw([cells[i] for i in owners], attempts, guidance), strict=True):
            structure.properties["handicap"] = UNKNOWN_TYPE
            groups[index].append(structure)
        return groups

    def _draw(
        self,
        cells: Sequence[Composition],
        seeds: Sequence[int],
        guidance: float,
        prototypes: Sequence[Prototype] = (),
    ) -> list[Structure]:
        """One structure for each cell and seed, by this network, from noise or from prototypes; nothing is refused."""
        guide = self.guide(guidance)
        made: dict[int, Structure] = {}
        for indices in batches_by_size([cell.num_atoms for cell in cells]):
            numbers = [cells[index].atomic_numbers for index in indices]
            known = None
            if prototypes:
                known = Known(Crystals.concatenate([prototypes[index].crystal for index in indices]), ADAPTED_FROM)
            crystals = sample(
                self._denoiser, self._process, numbers, [seeds[index] for index in indices], self.settings,
                guidance=guide, known=known,
            )  # fmt: skip
            made.update(zip(indices, to_structures(crystals), strict=True))
        return [made[index] for index in range(len(cells))]
