"""Crystals and tolerances that tests call by name, and a potential whose physics is known in closed form."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from dao_ase.convert import from_atoms
from dao_ase.crystals import Crystals
from dao_ase.potential import Potential, PotentialConfig

FORCE_TOLERANCE = {"float32": 1e-4, "float64": 1e-7}
"""Forces against finite differences and between equal crystals (eV/Å)."""
ENERGY_TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
"""Energies of equal crystals (eV/atom)."""


def rattled(atoms: Atoms, size: float = 0.05, seed: int = 0) -> Atoms:
    """The crystal with atoms and cell displaced by about ``size`` Å."""
    rng = np.random.default_rng(seed)
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + 0.3 * size * rng.normal(size=(3, 3))), scale_atoms=True)
    moved.positions += size * rng.normal(size=moved.positions.shape)
    return moved


def skewed() -> Atoms:
    """A crystal of five elements in a cell with sharp angles."""
    cell = [[4.2, 0, 0], [3.5, 3.9, 0], [-3.1, 2.2, 5.0]]
    coords = [[0.02, 0.1, 0.0], [0.5, 0.45, 0.55], [0.1, 0.6, 0.3], [0.8, 0.05, 0.6], [0.35, 0.9, 0.8]]
    return Atoms("NaClOFeH", scaled_positions=coords, cell=cell, pbc=True)


NAMED = {
    "silicon": bulk("Si"),
    "salt": rattled(bulk("NaCl", "rocksalt", a=5.64, cubic=True)),
    "copper": bulk("Cu"),
    "caesium": bulk("Cs", "bcc", a=6.05),
    "skewed": skewed(),
}


def to_crystals(*structures: Atoms) -> Crystals:
    """ASE's atoms as one batch, in float64."""
    return from_atoms(structures)


def random_potential(seed: int = 0, **sizes) -> Potential:
    """An untrained potential that accepts every element, in float64."""
    torch.manual_seed(seed)
    model = Potential(PotentialConfig(**{"width": 32, "heads": 4, "key_width": 8, "value_width": 16, **sizes}))
    model.trained[1:] = True
    return model.double().requires_grad_(False)


@contextmanager
def double_by_default() -> Iterator[None]:
    """In this block new tensors are in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


STATES_OF_TORCH = {
    "float64 by default": double_by_default,
    "inference mode": torch.inference_mode,
    "another device by default": partial(torch.device, "meta"),
    "autocast": partial(torch.autocast, "cpu"),
}
"""What a caller or another library may have told torch; MACE, for one, sets the default type for the whole process."""


class MorsePotential(Potential):
    """Pairs bound by D [(1 − exp(−a(r − r₀)))² − 1], smooth at the cutoff: every crystal has a known way downhill."""

    def __init__(self, depth: float = 0.4, width: float = 1.6, distance: float = 2.6) -> None:
        super().__init__(PotentialConfig(width=8, layers=1, heads=1, key_width=4, value_width=4))
        self.trained[1:] = True
        self.depth, self.reach, self.distance = depth, width, distance
        self.double()

    def forward(self, atomic_numbers, vectors, neighbors):
        cutoff = self.pair_cutoff(atomic_numbers.unsqueeze(1), atomic_numbers[neighbors.index])
        distance = torch.where(neighbors.present, vectors.square().sum(-1), cutoff.square()).sqrt()
        well = (1 - torch.exp(-self.reach * (distance - self.distance))).square() - 1
        fade = (1 - (distance / cutoff).clamp(max=1).square()).pow(3)
        return 0.5 * (self.depth * well * fade).sum(1)
