"""DAO-P, the potential: Crysformer on neighbours. One smooth, size-extensive energy of a crystal.

    E = Σ_i [ E_ref(z_i) + ε(h_i) ] + ½ Σ_ij ZBL(r_ij; z_i, z_j)

h_i is the state of atom i after attention over the neighbours (neighbor_attention.py), E_ref a reference energy of each
element, fitted to the training labels, and ZBL the screened repulsion of nuclei, which keeps atoms apart where no label
was ever seen. Each pair of elements has its own cutoff, r_c = max(r_min, r_0 + s (R_i + R_j)) with covalent radii R: light
atoms need a short one, caesium has its nearest neighbour at 5.2 Å.

The energy depends on the geometry through the vectors r_ij alone; derivatives.py turns ∂E/∂r_ij into forces and stress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dao_ase.composition import SYMBOLS
from dao_ase.invariants import Invariants
from dao_ase.neighbor_attention import (
    NeighborAttention,
    NeighborBlock,
    NeighborDensity,
    PairFeatures,
)
from dao_ase.neighbors import Neighbors, Pairs
from dao_ase.pair_geometry import DirectionMoments, blind_core, envelope, envelope_slope, polar, waves
from dao_ase.radii import COVALENT_RADII

MAX_ATOMIC_NUMBER = len(COVALENT_RADII) - 1
COULOMB = 14.399645
"""e²/4πε₀ in eV Å."""

NO_BOUND = 60.0
"""A bound on the attention's logits that none comes near to; its exponential is still far from the largest float32."""


@dataclass(frozen=True)
class PotentialConfig:
    """Sizes of the network and the rule of the cutoffs (Å); ``log_scales`` as `Invariants` takes them."""

    width: int = 96
    layers: int = 2
    heads: int = 8
    key_width: int = 32
    value_width: int = 32
    radial: int = 8
    rank: int = 3
    aligned: bool = False
    legendre: bool = False
    logarithms: bool = False
    log_scales: tuple[float, ...] = ()
    logit_bound: float = NO_BOUND
    cutoff_min: float = 4.5
    cutoff_offset: float = 2.5
    cutoff_scale: float = 0.8

    @classmethod
    def from_header(cls, sizes: Mapping[str, Any]) -> PotentialConfig:
        """What a weight file or a training configuration says; older files say besides that they are not ``gated``."""
        if sizes.get("gated", False):
            raise ValueError("its layers are joined by gated additions, which DAO-P no longer has; train it anew")
        known = {name: size for name, size in sizes.items() if name != "gated"}
        return cls(**known | {"log_scales": tuple(sizes.get("log_scales", ()))})


class _Shell(NamedTuple):
    """Distances (Å) to the neighbours, sums of covalent radii (Å), and what the layers see of each pair."""

    distance: Float[Tensor, "atoms slots"]
    contact: Float[Tensor, "atoms slots"]
    pairs: PairFeatures


class Potential(nn.Module):
    """Energies of atoms from the vectors to their neighbours."""

    reference: Tensor
    trained: Tensor
    radii: Tensor

    def __init__(self, config: PotentialConfig | None = None) -> None:
        super().__init__()
        self.config = c = config if config is not None else PotentialConfig()
        self.moments = DirectionMoments(c.rank)
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, c.width)
        self.density = NeighborDensity(c.width, c.radial, self._invariants())
        self.blocks = nn.ModuleList(
            NeighborBlock(
                c.width, NeighborAttention(c.width, c.heads, c.key_width, c.radial, self._invariants(), c.logit_bound)
            )
            for _ in range(c.layers)
        )
        self.head = nn.Sequential(
            nn.LayerNorm(c.width), nn.Linear(c.width, c.width), nn.GELU("tanh"), nn.Linear(c.width, 1)
        )
        elements = MAX_ATOMIC_NUMBER + 1
        self.register_buffer("reference", torch.zeros(elements))
        self.register_buffer("trained", torch.zeros(elements, dtype=torch.bool))
        self.register_buffer("radii", torch.tensor(COVALENT_RADII), persistent=False)

    @property
    def elements(self) -> list[int]:
        """The atomic numbers that the model was trained on."""
        return torch.nonzero(self.trained).flatten().tolist()

    def refuse_untrained(self, atomic_numbers: Iterable[int]) -> None:
        """An error that names the elements among these atoms that the model was not trained on."""
        unknown = sorted(set(map(int, atomic_numbers)) - set(self.elements))
        if unknown:
            shown = {0: "X (ghost atoms)"} | dict(enumerate(SYMBOLS[1:], start=1))
            names = ", ".join(shown.get(z, f"number {z}") for z in unknown)
            raise ValueError(
                f"the crystal contains {names}, which is outside the {len(self.elements)} trained elements; see "
                "DAOCalculator().elements"
            )

    def header(self) -> dict[str, Any]:
        """What a weight file must say for the model to be built again."""
        return {"model": "potential", "config": asdict(self.config)}

    def bytes_needed(self, num_atoms: int, slots: int) -> int:
        """About how much memory energy and forces take: what the backward pass keeps of each atom and each neighbour slot.

        Counted from the sizes of the network; for the installed weights, 5 to 25 % more than what was measured.
        """
        c = self.config
        components = sum(self.moments.sizes)
        looks = 6 * c.value_width * (c.layers + 1) + (3 * c.key_width + 8 * c.heads) * c.layers
        numbers = slots * (looks + 6 * (components + c.radial)) + num_atoms * 26 * c.width * c.layers
        return numbers * self.reference.element_size()

    def pair_cutoff(self, first: Int[Tensor, "..."], second: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The cutoff (Å) of two elements, given their atomic numbers."""
        radii = self.radii.to(first.device)
        return self._cutoff(radii[first] + radii[second])

    def max_cutoff(self, atomic_numbers: Int[Tensor, "atoms"]) -> float:
        """The largest cutoff (Å) among these atoms: the radius of the neighbour search."""
        number = atomic_numbers[torch.argmax(self.radii.to(atomic_numbers.device)[atomic_numbers])]
        return float(self.pair_cutoff(number, number))

    def within_cutoff(
        self,
        atomic_numbers: Int[Tensor, "atoms"],
        positions: Float[Tensor, "atoms 3"],
        lattice: Float[Tensor, "3 3"],
        pairs: Pairs,
        skin: float = 0.0,
    ) -> Pairs:
        """Those pairs of a crystal that are closer than the cutoff of their elements, plus a skin (Å)."""
        vectors = positions[pairs.second] - positions[pairs.first] + pairs.shift.to(lattice.dtype) @ lattice
        cutoff = self.pair_cutoff(atomic_numbers[pairs.first], atomic_numbers[pairs.second]) + skin
        close = vectors.norm(dim=-1) < cutoff
        return Pairs(pairs.first[close], pairs.second[close], pairs.shift[close])

    def forward(
        self,
        atomic_numbers: Int[Tensor, "atoms"],
        vectors: Float[Tensor, "atoms slots 3"],
        neighbors: Neighbors,
    ) -> Float[Tensor, "atoms"]:
        """The energy (eV) of each atom, without the reference of its element; see `reference`."""
        shell = self._shell(atomic_numbers, vectors, neighbors)
        learned = self.head(self._states(atomic_numbers, shell.pairs, neighbors)[-1]).squeeze(-1)
        return learned + _repulsion(atomic_numbers, shell.distance, shell.contact, neighbors)

    def states(
        self,
        atomic_numbers: Int[Tensor, "atoms"],
        vectors: Float[Tensor, "atoms slots 3"],
        neighbors: Neighbors,
    ) -> list[Float[Tensor, "atoms width"]]:
        """The states of the atoms after the first look at their neighbours and after each layer.

        The last ones are what the energy is read from; properties.py reads other properties from all of them.
        """
        return self._states(atomic_numbers, self._shell(atomic_numbers, vectors, neighbors).pairs, neighbors)

    def _invariants(self) -> Invariants:
        c = self.config
        return Invariants(
            c.value_width,
            self.moments,
            aligned=c.aligned,
            legendre=c.legendre,
            logarithms=c.logarithms,
            log_scales=c.log_scales,
        )

    def _shell(self, atomic_numbers: Tensor, vectors: Tensor, neighbors: Neighbors) -> _Shell:
        radius = self.radii[atomic_numbers]
        contact = radius.unsqueeze(1) + radius[neighbors.index]
        cutoff = self._cutoff(contact)
        x, direction = polar(vectors, neighbors.present, cutoff)
        radial, u = waves(blind_core(x, contact / cutoff), self.config.radial)
        moments = self.moments(direction.flatten(0, 1)).unflatten(0, x.shape)
        return _Shell(x * cutoff, contact, PairFeatures(radial, u, moments))

    def _states(self, atomic_numbers: Tensor, pairs: PairFeatures, neighbors: Neighbors) -> list[Tensor]:
        atoms = self.embedding(atomic_numbers)
        states = [atoms + self.density(atoms, pairs, neighbors)]
        for block in self.blocks:
            states.append(block(states[-1], pairs, neighbors))
        return states

    def _cutoff(self, contact: Tensor) -> Tensor:
        """The cutoff (Å) of atoms whose covalent radii sum to ``contact`` (Å)."""
        return (self.config.cutoff_offset + self.config.cutoff_scale * contact).clamp(min=self.config.cutoff_min)


def _repulsion(
    atomic_numbers: Tensor, distance: Tensor, contact: Tensor, neighbors: Neighbors
) -> Float[Tensor, "atoms"]:
    """½ Σ_j ZBL(r_ij) u(r_ij/(R_i + R_j)): each atom's half, gone where covalent bonds begin."""
    charge = atomic_numbers.to(distance.dtype)
    strength, inverse_length = _nuclei(charge.unsqueeze(1), charge[neighbors.index])
    return 0.5 * _Repulsion.apply(distance, contact, strength, inverse_length).sum(1)


class _Repulsion(torch.autograd.Function):
    """V u(r/R), whose derivative is V' u + V u'/R."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, contact: Tensor, strength: Tensor, inverse_length: Tensor) -> Tensor:
        ctx.save_for_backward(distance, contact, strength, inverse_length)
        repulsion, _ = _screened(distance, strength, inverse_length)
        return repulsion * envelope(distance / contact)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        distance, contact, strength, inverse_length = ctx.saved_tensors
        x = distance / contact
        repulsion, slope = _screened(distance, strength, inverse_length)
        slope = slope * envelope(x) + repulsion * (envelope_slope(x) / contact)
        return gradients[0] * slope, None, None, None


def zbl(
    distance: Float[Tensor, "*shape"], first: Float[Tensor, "..."], second: Float[Tensor, "..."]
) -> Float[Tensor, "*shape"]:
    """The universal repulsion of two nuclei (eV) at a distance (Å): Ziegler, Biersack, Littmark 1985.

    V(r) = (e²/4πε₀) z₁z₂/r φ(r/a),  a = 0.46850 Å / (z₁^0.23 + z₂^0.23),  φ(x) = Σ_k c_k exp(−d_k x)
    """
    return _screened(distance, *_nuclei(first, second))[0]


def _nuclei(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(e²/4πε₀) z₁z₂ (eV Å) and 1/a (1/Å)."""
    return COULOMB * first * second, (first**0.23 + second**0.23) / 0.46850


def _screened(distance: Tensor, strength: Tensor, inverse_length: Tensor) -> tuple[Tensor, Tensor]:
    """V(r) and its slope."""
    coefficients = distance.new_tensor([0.18175, 0.50986, 0.28022, 0.02817])
    exponents = distance.new_tensor([-3.19980, -0.94229, -0.40290, -0.20162])
    terms = torch.exp((distance * inverse_length).unsqueeze(-1) * exponents)
    repulsion = terms @ coefficients * strength / distance
    return repulsion, (terms @ (coefficients * exponents) * (strength * inverse_length) - repulsion) / distance
