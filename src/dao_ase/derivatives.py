"""From one energy to forces and stress, exactly.

The energy of a crystal depends on its geometry through the pair vectors r_ij = x_j + S·L − x_i alone. With g_ij = ∂E/∂r_ij,

    F_i = Σ_j (g_ij − g_ji)   (eV/Å),      σ = 1/V Σ_ij ½ (r_ij ⊗ g_ij + g_ij ⊗ r_ij)   (eV/Å³)

which is the gradient by positions, and by a strain ε of the whole crystal, r → r (1 + ε). A crystal under compression has
a negative trace of σ: ASE's sign.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dao_ase.crystals import Crystals, parts_within
from dao_ase.device import own_precision
from dao_ase.memory import refuse_too_large
from dao_ase.neighbor_attention import collect
from dao_ase.neighbors import Neighbors, Pairs, find_pairs, join, largest_degree
from dao_ase.potential import Potential
from dao_ase.tape import NotRecordable, Tape

RECORD_AT = 4
"""From this call on the same neighbours a tape is recorded, which takes as long as about six calls."""
MOST_SLOTS = 10_000
"""Larger systems are not recorded: a tape is recorded with every intermediate value in memory, and saves little there."""


@dataclass(frozen=True)
class Prediction:
    """Energies (eV), forces (eV/Å) and stresses (eV/Å³, ASE's sign) of a batch of crystals."""

    energy: Float[Tensor, "crystals"]
    energies: Float[Tensor, "atoms"]
    forces: Float[Tensor, "atoms 3"]
    virial: Float[Tensor, "crystals 3 3"]
    volume: Float[Tensor, "crystals"]

    @property
    def stress(self) -> Float[Tensor, "crystals 3 3"]:
        """The virial divided by the volume."""
        return self.virial / self.volume.abs()[:, None, None]


def predict(
    model: Potential,
    atomic_numbers: Int[Tensor, "atoms"],
    vectors: Float[Tensor, "atoms slots 3"],
    neighbors: Neighbors,
    crystal_index: Int[Tensor, "atoms"],
    volume: Float[Tensor, "crystals"],
    *,
    differentiable: bool = False,
) -> Prediction:
    """Energy, forces and stress of a batch, given the pair vectors (Å); differentiable again when training.

    Energies are summed in float64, for a total of a thousand atoms has no room in float32 for what a force needs. Where the
    result is not differentiable, the model computes in its own type, whatever torch.autocast says.
    """
    with torch.enable_grad(), nullcontext() if differentiable else own_precision(vectors.device):
        vectors = vectors.detach().requires_grad_()
        atomic = model(atomic_numbers, vectors, neighbors)
        (gradient,) = torch.autograd.grad(atomic.sum(), vectors, create_graph=differentiable)
    if not differentiable:
        atomic, vectors = atomic.detach(), vectors.detach()
    energies = atomic.double() + model.reference[atomic_numbers].double()
    pulled = _sums(torch.bmm(vectors.transpose(1, 2), gradient), crystal_index, len(volume))
    return Prediction(
        energy=_sums(energies, crystal_index, len(volume)),
        energies=energies,
        forces=gradient.sum(1) - collect(gradient, neighbors),
        virial=0.5 * (pulled + pulled.transpose(1, 2)),
        volume=volume,
    )


def _sums(values: Float[Tensor, "atoms ..."], crystal_index: Tensor, crystals: int) -> Float[Tensor, "crystals ..."]:
    """Sums over the atoms of each crystal."""
    zeros = torch.zeros(crystals, *values.shape[1:], dtype=values.dtype, device=values.device)
    return zeros.index_add(0, crystal_index, values)


@dataclass
class Layout:
    """Atoms with their neighbours in rows, whose energy, forces and stress are asked for again and again.

    From call number `RECORD_AT` on, small systems on a processor are played from a tape (tape.py): the same numbers, sooner.
    """

    model: Potential
    atomic_numbers: Int[Tensor, "atoms"]
    neighbors: Neighbors
    crystal_index: Int[Tensor, "atoms"]
    _calls: int = field(default=0, init=False, repr=False)
    _tape: Tape | None = field(default=None, init=False, repr=False)

    def predict(self, positions: Float[Tensor, "atoms 3"], lattice: Float[Tensor, "crystals 3 3"]) -> Prediction:
        """Energy, forces and stress of these positions and lattices (Å), given in float64."""
        with own_precision(positions.device):
            return self._predict(positions, lattice)

    def _predict(self, positions: Tensor, lattice: Tensor) -> Prediction:
        self._calls += 1
        if self._tape is not None and not self._tape.stale:
            return Prediction(*self._tape(positions, lattice))
        if self._calls >= RECORD_AT and self.neighbors.index.numel() <= MOST_SLOTS and positions.device.type == "cpu":
            try:
                self._tape = Tape(self._values, positions, lattice)
                return Prediction(*self._tape.first)
            except (NotRecordable, AttributeError, TypeError):  # the last two: a torch whose inner names are others
                self._calls = -sys.maxsize
        return Prediction(*self._values(positions, lattice))

    def _values(self, positions: Tensor, lattice: Tensor) -> tuple[Tensor, ...]:
        dtype = self.model.reference.dtype
        vectors = self.neighbors.vectors(positions, lattice.index_select(0, self.crystal_index)).to(dtype)
        volume = torch.linalg.det(lattice).abs().to(dtype)
        found = predict(self.model, self.atomic_numbers, vectors, self.neighbors, self.crystal_index, volume)
        return found.energy, found.energies, found.forces, found.virial, found.volume

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tape": None}


@torch.inference_mode(False)
def predict_crystals(model: Potential, crystals: Crystals, *, slots: int = 30_000) -> Prediction:
    """Energy, forces and stress of any number of periodic crystals, in parts of about ``slots`` neighbours.

    >>> from dao_ase.calculator import load_potential
    >>> silicon = Crystals(torch.full((1, 3, 3), 2.73) - 2.73 * torch.eye(3), torch.tensor([[0.0] * 3, [0.25] * 3]),
    ...                    torch.tensor([14, 14]), torch.tensor([2]))
    >>> predict_crystals(load_potential(), silicon).forces.abs().max() < 1e-3
    tensor(True)
    """
    model.refuse_untrained(crystals.atomic_numbers.tolist())
    device, dtype = model.reference.device, model.reference.dtype
    if not len(crystals):
        nothing = torch.zeros(0, dtype=dtype, device=device)
        return Prediction(nothing.double(), nothing.double(), nothing.view(0, 3), nothing.view(0, 3, 3), nothing)
    crystals = crystals.to("cpu", torch.float64)
    counts = crystals.num_atoms.tolist()
    pairs = [pairs_of(model, crystal) for crystal in crystals]
    degrees = [largest_degree(found, count) for found, count in zip(pairs, counts, strict=True)]
    work = [count * degree for count, degree in zip(counts, degrees, strict=True)]
    for large in (crystal for crystal, amount in enumerate(work) if amount > slots):  # each is a part of its own
        what = f"crystal {large}: {counts[large]} atoms with up to {degrees[large]} neighbours each"
        refuse_too_large(model.bytes_needed(counts[large], work[large]), what, device)
    order = sorted(range(len(crystals)), key=degrees.__getitem__)  # rows of a part are as long as its longest
    parts = []
    for part in parts_within([work[c] for c in order], slots):
        chosen = [order[place] for place in part]
        batch = crystals[chosen]
        neighbors = Neighbors.from_pairs(
            join([pairs[c] for c in chosen], [counts[c] for c in chosen]), len(batch.frac_coords)
        )
        neighbors, batch = neighbors.to(device), batch.to(device)
        vectors = neighbors.vectors(batch.positions, batch.lattice[batch.crystal_index]).to(dtype)
        volume = batch.volume.abs().to(dtype)
        parts.append(predict(model, batch.atomic_numbers, vectors, neighbors, batch.crystal_index, volume))
    return _in_order(parts, order, crystals)


def _in_order(parts: list[Prediction], order: list[int], crystals: Crystals) -> Prediction:
    """The predictions of parts as those of the whole, in the order in which the crystals came."""
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in Prediction.__annotations__}
    device = joined["energy"].device
    place = torch.argsort(torch.tensor(order, dtype=torch.int64, device="cpu"))  # of each crystal among those evaluated
    atoms = torch.argsort(torch.argsort(place[crystals.crystal_index], stable=True)).to(device)
    place = place.to(device)
    return Prediction(**{name: joined[name][atoms if name in ("energies", "forces") else place] for name in joined})


def pairs_of(model: Potential, crystal: Crystals) -> Pairs:
    """The pairs of one crystal within the cutoffs of its elements."""
    positions, lattice = crystal.to(dtype=torch.float64).positions, crystal.lattice[0].double()
    found = find_pairs(positions, lattice, model.max_cutoff(crystal.atomic_numbers))
    return model.within_cutoff(crystal.atomic_numbers, positions, lattice, found)
