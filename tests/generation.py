"""A DAO-G of random weights, whose structures are noise, and rock salts to train and evaluate on."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from dao_ase import checkpoint
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.stability import StabilityModel

TINY = DenoiserConfig(width=16, layers=1, heads=2, pair_width=8, frequencies=2, radial=4)
VOLUME_PER_ATOM = 20.0  # Å³


def write_random_generator(path: Path, process: str = "flow", elements: str = "H O Na Cl Fe V Cs Sb Si") -> Path:
    """Weights of a tiny network."""
    torch.manual_seed(0)
    denoiser = Denoiser(TINY)
    standardise(denoiser)
    header = {
        "model": "denoiser",
        "name": "random",
        "config": asdict(TINY),
        "process": process,
        "max_atoms": 30,
        "elements": elements.split(),
        "formula_units": {"1-1": {"1": 50, "2": 30, "4": 20}, "any": {"1": 60, "2": 40}},
        "sampler": {"steps": 3},
    }
    checkpoint.save(path, denoiser.state_dict(), header)
    return path


def standardise(denoiser: Denoiser) -> None:
    """Such that cells have a sensible volume."""
    denoiser.code_mean[5] = torch.tensor(VOLUME_PER_ATOM).log() / 3**0.5
    denoiser.code_std.fill_(0.05)


def write_random_stability(path: Path, process: str = "flow") -> Path:
    """Weights of a tiny stability model to which no two crystals are alike."""
    torch.manual_seed(1)
    model = StabilityModel(TINY)
    standardise(model.denoiser)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    checkpoint.save(path, model.state_dict(), model.header(process) | {"guidance": {"start": 0.0, "stop": 1.0}})
    return path


def write_rock_salts(path: Path, count: int = 5) -> None:
    """Rock salt cells as an npz file of the data layer."""
    np.savez(
        path,
        n_atoms=np.full(count, 2, dtype=np.int32),
        numbers=np.tile(np.array([11, 17], dtype=np.uint8), count),
        frac_coords=np.tile(np.array([[0, 0, 0], [0.5, 0.5, 0.5]], dtype=np.float32), (count, 1)),
        lattice=np.linspace(0.95, 1.05, count)[:, None, None]
        * (2.82 * (np.ones((3, 3)) - np.eye(3))).astype(np.float32),
        id=np.array([f"salt-{i}" for i in range(count)]),
    )
