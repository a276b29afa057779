"""From the content of cells to structures: candidates by DAO-G, of which DAO-P chooses.

A structure is the best of several candidates. Some begin from noise, as DAO-G was trained to; others from known structure
types with the cell's elements in their places (`dao_ase.prototypes`), which DAO-G adapts in its last steps. A single
structure is chosen from both; of several, the first half come from types and the others from noise. DAO-P chooses: the
lowest energy per atom wins, with a handicap of `WORTH` for each power of e by which a type is less likely than the likeliest
one, and of `UNKNOWN_TYPE` for what came from noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING

from dao_ase import checkpoint
from dao_ase.checkpoint import default_weights
from dao_ase.composition import Composition
from dao_ase.gates import refusal
from dao_ase.guidance import Guidance
from dao_ase.prototypes.library import Prototype, PrototypeLibrary
from dao_ase.rank import ranked_groups
from dao_ase.sampler import SamplerSettings
from dao_ase.trained_network import TrainedNetwork

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
WORTH, UNKNOWN_TYPE = 0.04, 0.05
"""Handicaps (eV/atom) for each power of e by which a type is less likely than the likeliest, and for coming from noise."""


def prototype_ranks(place: int, count: int) -> range:
    """Which structure types are tried for the structure at ``place`` among ``count`` of one cell, none for the second half.

    Each type is tried for one of the structures, so that they differ; the second half is left to noise.
    """
    half = (count + 1) // 2
    return range(place, max(half, PROTOTYPES), half) if place < half else range(0)


class CellSampler:
    """DAO-G's networks and the library of structure types; see `dao_ase.generator.DAOGenerator` for the arguments.

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
        self._tries, self._prototypes, self._changes = tries, prototypes, changes
        self._network = self._load(str(default_weights("dao_g")) if weights is None else weights)

    @property
    def settings(self) -> SamplerSettings:
        """How the reverse process is integrated."""
        return self._network.settings

    @property
    def elements(self) -> list[str]:
        """The elements that the network was trained on."""
        return list(self._network.header["elements"])

    @property
    def formula_units(self) -> dict[str, dict[str, int]]:
        """How often the training crystals of each kind of formula have how many formula units in their cells."""
        return self._network.header["formula_units"]

    @property
    def max_atoms(self) -> int:
        """The largest cell that was trained on."""
        own = int(self._network.header["max_atoms"])
        if self.weights is not None:
            return own
        return max(own, int(checkpoint.read_header(default_weights(LARGER))["max_atoms"]))

    @property
    def name(self) -> str:
        """What is written into ``properties["model"]``."""
        return _name(self._network)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that tell these weights and structure types from others."""
        digest = hashlib.sha256(self._network.digest())
        if self.weights is None:
            digest.update(default_weights(LARGER).read_bytes())
        if self.library:
            digest.update(self.library.checksum.encode())
        return digest.hexdigest()[:8]

    @cached_property
    def library(self) -> PrototypeLibrary | None:
        """The structure types that are adapted; none where they are not wanted, or the process begins from noise alone."""
        wanted = self._prototypes
        if wanted is False or not self._network.adapts:
            return None
        return PrototypeLibrary.load(default_weights("prototypes") if wanted is True else wanted)

    def guide(self, scale: float | Real) -> Guidance | None:
        """Guidance of this strength, as `TrainedNetwork.guide` has it."""
        return self._network.guide(scale)

    def tries_of(self, count: int) -> int:
        """Tries from noise at each of ``count`` structures of one composition.

        As many as were asked for, or as the weight file and `DRAWS` say.
        """
        return self._tries or self._network.tries(count, DRAWS)

    def evaluations(self, count: int) -> int:
        """How often a network is evaluated for each of ``count`` structures of a composition, at most."""
        from_noise = self.tries_of(count) * self.settings.steps
        adapted = len(prototype_ranks(0, count)) * self._network.steps_to_adapt if self.library else 0
        return from_noise + adapted if count == 1 else max(from_noise, adapted)

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
        large = [not self.weights and cell.num_atoms > self._network.header["max_atoms"] for cell in cells]
        made: dict[int, Structure] = {}
        for is_large in sorted(set(large)):
            mine = [index for index, one in enumerate(large) if one == is_large]
            network = self._larger if is_large else self._network
            groups = self._candidates(
                network, [cells[i] for i in mine], [seeds[i] for i in mine], [ranks[i] for i in mine], guidance, count
            )
            contested = any(len(group) > 1 for group in groups)
            for index, candidates in zip(mine, ranked_groups(groups, "likely" if contested else False), strict=True):
                chosen = next((one for one in candidates if refusal(one) is None), candidates[0])
                about = {"formula_units": cells[index].formula_units, "seed": seeds[index], "model": _name(network)}
                chosen.properties.update(about)
                made[index] = chosen
        return [made[index] for index in range(len(cells))]

    def _candidates(
        self,
        network: TrainedNetwork,
        cells: Sequence[Composition],
        seeds: Sequence[int],
        ranks: Sequence[range],
        guidance: float,
        count: int,
    ) -> list[list[Structure]]:
        """For each cell its candidates, each with its handicap (eV/atom)."""
        tries = self._tries or network.tries(count, DRAWS)
        groups: list[list[Structure]] = [[] for _ in cells]
        adapted = [
            (index, seeds[index] + TRY_STRIDE * (tries + rank), types[rank])
            for index, types in enumerate(map(self._types, cells))
            for rank in ranks[index]
            if rank < len(types)
        ]
        owners, attempts, prototypes = zip(*adapted, strict=True) if adapted else ((), (), ())
        drawn = network.draw([cells[i] for i in owners], attempts, guidance, [one.crystal for one in prototypes])
        for index, prototype, structure in zip(owners, prototypes, drawn, strict=True):
            structure.properties.update(prototype=prototype.like, handicap=WORTH * prototype.surprise)
            groups[index].append(structure)
        open_ones = [index for index, group in enumerate(groups) if count == 1 or not group]
        owners = tuple(index for index in open_ones for _ in range(tries))
        attempts = tuple(seeds[index] + TRY_STRIDE * attempt for index in open_ones for attempt in range(tries))
        for index, structure in zip(owners, network.draw([cells[i] for i in owners], attempts, guidance), strict=True):
            structure.properties["handicap"] = UNKNOWN_TYPE
            groups[index].append(structure)
        return groups

    def _types(self, cell: Composition) -> Sequence[Prototype]:
        return self.library.suited(cell) if self.library else ()

    @cached_property
    def _larger(self) -> TrainedNetwork:
        """The installed network for cells that are larger than those of the default one."""
        return self._load(str(default_weights(LARGER)))

    def _load(self, weights: str) -> TrainedNetwork:
        return TrainedNetwork(weights, device=self.device, stability=self.stability, **self._changes)


def _name(network: TrainedNetwork) -> str:
    return str(network.header.get("name", "dao-g"))
