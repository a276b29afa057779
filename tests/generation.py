"""A DAO-G of random weights: everything works but the structures, which are noise."""

from dataclasses import asdict
from pathlib import Path

import torch

from dao_ase import checkpoint
from dao_ase.denoiser import Denoiser, DenoiserConfig

TINY = DenoiserConfig(width=16, layers=1, heads=2, pair_width=8, frequencies=2, radial=4)
VOLUME_PER_ATOM = 20.0  # Å³


def write_random_generator(path: Path, process: str = "flow", elements: str = "H O Na Cl Fe V Cs Sb Si") -> Path:
    """Weights of a tiny network, standardised such that its cells have a sensible volume."""
    torch.manual_seed(0)
    denoiser = Denoiser(TINY)
    denoiser.code_mean[5] = torch.tensor(VOLUME_PER_ATOM).log() / 3**0.5
    denoiser.code_std.fill_(0.05)
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
