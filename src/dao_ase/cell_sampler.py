"""DAO-G's trained networks at work: from the content of cells and seeds to structures, with or without guidance."""

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
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.gates import refusal
from dao_ase.guidance import Guidance, GuidanceSettings
from dao_ase.processes import PROCESSES
from dao_ase.rank import ranked_groups
from dao_ase.sampler import SamplerSettings, batches_by_size, sample
from dao_ase.stability import load_stability

if TYPE_CHECKING:
    from pymatgen.core import Structure

LARGER = "dao_g_52"
"""Installed weights for the cells that are too large for the default ones."""
TRY_STRIDE = 2_000_000_011
"""Distance between the noise seeds of two tries at one structure."""
DRAWS = 80
"""Of many structures of one composition each gets fewer tries, so that no more than this are drawn."""


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
        stability: str | None = None,
        **changes: float | None,
    ) -> None:
        if tries is not None and tries < 1:
            raise ValueError(f"tries is {tries}; a structure needs at least 1")
        self.weights, self.device, self.stability = weights, device, stability
        self._asked: dict[str, Any] = {"tries": tries, **changes}
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
        """Tries at each of ``count`` structures of one composition: as asked, or as the weight file and `DRAWS` say."""
        if self._asked["tries"] is not None:
            return int(self._asked["tries"])
        return max(1, min(int(self._header.get("tries", 1)), DRAWS // max(count, 1)))

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
        self, cells: Sequence[Composition], seeds: Sequence[int], guidance: float = 0.0, *, count: int = 1
    ) -> list[Structure]:
        """One structure for the content of each cell, from the seed of the same place.

        Of several tries (`tries_of` the ``count`` structures that are made of a composition) the one is taken that DAO-P
        gives the lowest energy, without relaxation; one that the geometry gates would refuse comes only where there is no
        other.
        """
        own = [i for i, cell in enumerate(cells) if self.weights or cell.num_atoms <= self._header["max_atoms"]]
        made: list[Structure | None] = [None] * len(cells)
        if rest := sorted(set(range(len(cells))) - set(own)):
            others = self.larger.sample_cells([cells[i] for i in rest], [seeds[i] for i in rest], guidance, count=count)
            for index, structure in zip(rest, others, strict=True):
                made[index] = structure
        drawn = self._tries([cells[i] for i in own], [seeds[i] for i in own], guidance, self.tries_of(count))
        for index, tries in zip(own, drawn, strict=True):
            chosen = next((one for one in tries if refusal(one) is None), tries[0])
            chosen.properties.update(formula_units=cells[index].formula_units, seed=seeds[index], model=self.name)
            made[index] = chosen
        return [structure for structure in made if structure is not None]

    def _tries(
        self, cells: Sequence[Composition], seeds: Sequence[int], guidance: float, tries: int
    ) -> list[list[Structure]]:
        """For each cell its tries, those of lowest energy first."""
        repeated = [cell for cell in cells for _ in range(tries)]
        attempts = [seed + TRY_STRIDE * attempt for seed in seeds for attempt in range(tries)]
        drawn = self._draw(repeated, attempts, guidance)
        groups = [drawn[place : place + tries] for place in range(0, len(drawn), tries)]
        return ranked_groups(groups, "energy" if tries > 1 else False)

    def _draw(self, cells: Sequence[Composition], seeds: Sequence[int], guidance: float) -> list[Structure]:
        """One structure for each cell and seed, by this network; nothing is refused."""
        guide = self.guide(guidance)
        made: dict[int, Structure] = {}
        for indices in batches_by_size([cell.num_atoms for cell in cells]):
            numbers = [cells[index].atomic_numbers for index in indices]
            crystals = sample(
                self._denoiser, self._process, numbers, [seeds[index] for index in indices], self.settings,
                guidance=guide,
            )  # fmt: skip
            made.update(zip(indices, to_structures(crystals), strict=True))
        return [made[index] for index in range(len(cells))]
