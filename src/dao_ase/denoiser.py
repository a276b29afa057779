"""DAO-G's network: Crysformer over all pairs of atoms in the cell, conditioned on the noise level.

It reads a noisy crystal (fractional coordinates, six lattice numbers) and a time in [0, 1], and returns one vector for each
atom and six numbers for the cell; what these mean (a velocity, a score, a clean lattice) is the process's business.
Rotations do not reach it, because the lattice is given by rotation-free numbers; a shift of the origin does not reach it,
because only differences of coordinates are used; a permutation of atoms permutes its output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dao_ase import lattice as lattices
from dao_ase.layers import AdaptiveBlock, GatedBlock, sinusoid

NUM_SPECIES = 100
"""Rows of the table of atoms, indexed by atomic number."""
FURTHEST = math.sqrt(80.0)
"""In widths of a Gaussian, which is constant beyond: exponentials that underflow take a processor eight times as long."""
LADDER = 8
"""Gaussians that are computed from one of them."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Size and style of the network; see `PRESETS`."""

    width: int = 192
    layers: int = 6
    heads: int = 8
    pair_width: int = 64  # 0: the raw, normalised pair features, as in the paper
    frequencies: int = 12  # Fourier features sin, cos 2πkΔf, k = 1…frequencies
    radial: int = 16  # Gaussians in the distance to the periodic images; 0: none
    radial_cutoff: float = 8.0  # Å
    block: str = "adaptive"  # "adaptive": AdaLN-zero; "gated": the paper's gated addition
    kinds: int = 0  # kinds of crystals that the network is told apart; 0: it is told nothing


PRESETS = {
    "small": DenoiserConfig(),
    "base": DenoiserConfig(width=256, layers=8),
    "paper": DenoiserConfig(width=384, layers=12, pair_width=0, frequencies=128, radial=0, block="gated"),
}


class PairFeatures(nn.Module):
    """What the network is told of an ordered pair of atoms, computed once for all layers.

    Fourier features of the coordinate difference, the shape of the metric L Lᵀ (its mean diagonal taken out), and
    (unless ``radial`` is 0) the density of periodic images around each atom, Σ_R exp(−(|Δ + R| − r_k)²/w²) over the 27
    nearest cells: real distances, self images included.
    """

    harmonics: Tensor
    images: Tensor

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.radial, self.cutoff = config.radial, config.radial_cutoff
        raw = 6 * config.frequencies + 9 + config.radial
        self.register_buffer("harmonics", torch.arange(1.0, config.frequencies + 1), persistent=False)
        self.register_buffer("images", torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=3))), persistent=False)
        self.raw_norm = nn.LayerNorm(raw, elementwise_affine=False) if config.pair_width == 0 else nn.Identity()
        if config.pair_width:
            self.stem = nn.Linear(raw, 2 * config.pair_width)
            self.source = nn.Linear(config.width, 2 * config.pair_width, bias=False)
            self.target = nn.Linear(config.width, 2 * config.pair_width, bias=False)
            self.out = nn.Linear(2 * config.pair_width, config.pair_width)
        self.width = config.pair_width or raw

    def forward(
        self,
        atoms: Float[Tensor, "crystals atoms width"],
        frac_coords: Float[Tensor, "crystals atoms 3"],
        lattice: Float[Tensor, "crystals 3 3"],
    ) -> Float[Tensor, "crystals atoms atoms pair_width"]:
        raw = self.raw_norm(self.raw(frac_coords, lattice))
        if not hasattr(self, "stem"):
            return raw
        species = self.target(atoms).unsqueeze(2) + self.source(atoms).unsqueeze(1)
        return functional.silu(self.out(functional.silu(self.stem(raw) + species)))

    def raw(
        self, frac_coords: Float[Tensor, "crystals atoms 3"], lattice: Float[Tensor, "crystals 3 3"]
    ) -> Float[Tensor, "crystals atoms atoms raw"]:
        """The features before anything that is learnt."""
        difference = frac_coords.unsqueeze(1) - frac_coords.unsqueeze(2)
        angles = 2 * math.pi * (difference.unsqueeze(-1) * self.harmonics).flatten(-2)
        crystals, count = frac_coords.shape[:2]
        metric = (lattice @ lattice.transpose(-1, -2)).flatten(1)
        size = metric[:, [0, 4, 8]].mean(-1, keepdim=True)
        shape = metric / size - torch.eye(3, dtype=metric.dtype, device=metric.device).flatten()
        cell = shape[:, None, None].expand(crystals, count, count, 9)
        features = [angles.sin(), angles.cos(), cell]
        if self.radial:
            features.append(self._image_density(difference, lattice))
        return torch.cat(features, -1)

    def _image_density(self, difference: Tensor, lattice: Tensor) -> Tensor:
        nearest = difference - difference.round()
        vectors = torch.einsum("bijx,bxy->bijy", nearest, lattice)
        shifts = torch.einsum("rx,bxy->bry", self.images, lattice)
        distance = (vectors.unsqueeze(-2) + shifts[:, None, None]).square().sum(-1).add(1e-6).sqrt()
        first, width = 0.5, self.cutoff / self.radial
        spacing = (self.cutoff - first) / max(self.radial - 1, 1)
        return _summed_gaussians((distance - first) / width, spacing / width, self.radial)


def _summed_gaussians(
    distance: Float[Tensor, "*pairs images"], spacing: float, count: int
) -> Float[Tensor, "*pairs count"]:
    """Σ exp(−(d − kΔ)²) over the last axis for k = 0, …, count − 1, with an exponential or two for every `LADDER` of them.

    Neighbouring Gaussians have the ratio exp(2Δu) · exp(−(2j + 1)Δ²), where u is the distance from the one that is
    computed and j the number of steps from it.
    """
    sums = []
    for start in range(0, count, LADDER):
        below = min(LADDER, count - start) // 2
        above = min(LADDER, count - start) - below - 1
        offset = (distance - (start + below) * spacing).clamp(-FURTHEST, FURTHEST)
        anchor, ratio = torch.exp(-offset.square()), torch.exp(2 * spacing * offset)
        down: list[Tensor] = []
        up = [anchor.sum(-1)]
        for steps, factor, found in ((below, 1 / ratio, down), (above, ratio, up)):
            value = anchor
            for step in range(steps):
                value = value * (factor * math.exp(-(2 * step + 1) * spacing**2))
                found.append(value.sum(-1))
        sums += [*reversed(down), *up]
    return torch.stack(sums, -1)


class Denoiser(nn.Module):
    """Crysformer over all pairs; see the module's description."""

    code_mean: Tensor
    code_std: Tensor

    def __init__(self, config: DenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DenoiserConfig()
        width = config.width
        self.species = nn.Embedding(NUM_SPECIES, width)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.cell = nn.Sequential(nn.Linear(7, width), nn.SiLU(), nn.Linear(width, width))
        if config.kinds:
            self.kind = nn.Embedding(config.kinds, width)
            nn.init.zeros_(self.kind.weight)
        self.pair_features = PairFeatures(config)
        block = {"adaptive": AdaptiveBlock, "gated": GatedBlock}[config.block]
        self.blocks = nn.ModuleList(block(width, config.heads, self.pair_features.width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.coordinate_head = nn.Linear(width, 3)
        self.lattice_head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6))
        self.register_buffer("code_mean", torch.zeros(6))
        self.register_buffer("code_std", torch.ones(6))

    def encode_lattice(
        self, lattice: Float[Tensor, "crystals 3 3"], num_atoms: Int[Tensor, "crystals"]
    ) -> Float[Tensor, "crystals 6"]:
        """Six standardised numbers of a lattice (Å): shape, and volume per atom."""
        vector = lattices.split_volume(lattices.to_log_vector(lattice), num_atoms, -1)
        return (vector - self.code_mean) / self.code_std

    def decode_lattice(
        self, code: Float[Tensor, "crystals 6"], num_atoms: Int[Tensor, "crystals"]
    ) -> Float[Tensor, "crystals 3 3"]:
        """The symmetric lattice matrix (Å) of six standardised numbers; cells beyond e^±6 Å are not represented."""
        vector = lattices.split_volume(code * self.code_std + self.code_mean, num_atoms, +1)
        return lattices.from_log_vector(vector.clamp(-4.0, 7.0))

    def fit_lattice(self, lattice: Float[Tensor, "crystals 3 3"], num_atoms: Int[Tensor, "crystals"]) -> None:
        """Sets the standardisation from the crystals that will be trained on."""
        vector = lattices.split_volume(lattices.to_log_vector(lattice), num_atoms, -1)
        self.code_mean.copy_(vector.mean(0))
        spread = vector.std(0) if len(vector) > 1 else torch.zeros_like(vector[0])  # of one crystal it is not a number
        self.code_std.copy_(spread.clamp_min(1e-3))

    def same_code(self, other: Denoiser) -> bool:
        """Whether another denoiser standardises lattices in the same way, so that one reads the codes of the other."""
        pairs = ((self.code_mean, other.code_mean), (self.code_std, other.code_std))
        return all(torch.allclose(one, two, rtol=1e-4, atol=1e-5) for one, two in pairs)

    def compile_layers(self) -> None:
        """Compiles the blocks and the pair features, each once for all sizes: about 1.5 times faster training."""
        for part in [self.pair_features, *self.blocks]:
            part.compile(dynamic=True)

    def forward(
        self,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        frac_coords: Float[Tensor, "crystals atoms 3"],
        code: Float[Tensor, "crystals 6"],
        lattice: Float[Tensor, "crystals 3 3"],
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"] | None = None,
        kind: Int[Tensor, "crystals"] | None = None,
    ) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals 6"]]:
        """One vector for each atom (mean zero over the crystal) and six numbers for the cell.

        ``code`` is the standardised lattice, ``lattice`` the matrix that it decodes to (Å). ``mask`` marks the real atoms of
        a padded batch; None means that all are real. ``kind`` is the kind of crystal that is asked for, 0 where nothing is
        said; a network that was trained without kinds takes no notice of it.
        """
        atoms, weight = self.trunk(atomic_numbers, frac_coords, code, lattice, time, mask, kind)
        return self.read_out(atoms, weight, code.dtype)

    def trunk(
        self,
        atomic_numbers: Int[Tensor, "crystals atoms"],
        frac_coords: Float[Tensor, "crystals atoms 3"],
        code: Float[Tensor, "crystals 6"],
        lattice: Float[Tensor, "crystals 3 3"],
        time: Float[Tensor, "crystals"],
        mask: Bool[Tensor, "crystals atoms"] | None = None,
        kind: Int[Tensor, "crystals"] | None = None,
    ) -> tuple[Float[Tensor, "crystals atoms width"], Float[Tensor, "crystals atoms 1"]]:
        """The last states of the atoms, and the weight of each in a mean over its crystal (zero on the padding)."""
        if mask is None:
            weight = torch.full_like(frac_coords[..., :1], 1.0 / frac_coords.shape[1])
            count = torch.full_like(code[:, :1], float(frac_coords.shape[1]))
        else:
            count = mask.sum(1, keepdim=True).to(code.dtype)
            weight = mask.unsqueeze(-1) / count.unsqueeze(-1)
        condition = self.time(sinusoid(time, 256)) + self.cell(torch.cat([code, count.log() - 2], -1))
        if self.config.kinds:
            condition = condition + self.kind(torch.zeros_like(count[:, 0], dtype=torch.long) if kind is None else kind)
        atoms = self.species(atomic_numbers)
        if self.config.block == "gated":
            atoms = atoms + condition.unsqueeze(1)
        pairs = self.pair_features(atoms, frac_coords, lattice).to(_compute_dtype(atoms))
        condition = functional.silu(condition)
        for block in self.blocks:
            atoms = block(atoms, pairs, condition, mask)
        return self.norm(atoms), weight

    def read_out(
        self,
        atoms: Float[Tensor, "crystals atoms width"],
        weight: Float[Tensor, "crystals atoms 1"],
        dtype: torch.dtype,
    ) -> tuple[Float[Tensor, "crystals atoms 3"], Float[Tensor, "crystals 6"]]:
        """The two denoising heads on the states that `trunk` gives."""
        vectors = self.coordinate_head(atoms).to(dtype)
        vectors = vectors - (vectors * weight).sum(1, keepdim=True)
        return vectors, self.lattice_head((atoms * weight).sum(1)).to(dtype)


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type of matrix products: autocast's, where it is on."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype
