"""Training throughput of DAO-G's `small` preset, and its share of what the processor multiplies in bfloat16.

One process on each core, their gradients averaged after every step, as `torchrun` runs `dao-ase train`. Crystals are random,
with the sizes of MP-20 (2 to 20 atoms): the arithmetic does not depend on where the atoms are.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import tempfile
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from record import arguments, record

from dao_ase.crystals import Crystals
from dao_ase.data.batches import BucketedBatches
from dao_ase.denoiser import PRESETS, Denoiser
from dao_ase.train.config import TrainConfig
from dao_ase.train.denoising import DenoisingObjective
from dao_ase.train.loop import Trainer

SIZES = {2: 5, 3: 7, 4: 13, 5: 8, 6: 10, 8: 11, 10: 9, 12: 12, 14: 6, 16: 7, 18: 6, 20: 12}
"""Per cent of crystals with each number of atoms, roughly as in MP-20."""


QUICK = 3
"""Steps of a quick run, which compiles nothing."""


class RandomCrystals:
    """Random atoms in cubes of 20 Å³ an atom."""

    def __init__(self, count: int, seed: int) -> None:
        shares = np.array(list(SIZES.values())) / sum(SIZES.values())
        self.num_atoms = np.random.default_rng(seed).choice(list(SIZES), count, p=shares)

    def batch(self, indices: np.ndarray) -> Crystals:
        """New random positions at every call."""
        counts = torch.from_numpy(self.num_atoms[indices])
        total = int(counts.sum())
        lattice = (20.0 * counts) ** (1 / 3) * torch.ones(3, 3, 1)
        return Crystals(
            lattice.permute(2, 0, 1) * torch.eye(3) + 0.1, torch.rand(total, 3), torch.randint(1, 90, (total,)), counts
        )


def multiplications(denoiser: Denoiser, num_atoms: np.ndarray) -> float:
    """Floating point operations of matrix products for one forward and backward pass, a crystal on average."""
    config, atoms, pairs = denoiser.config, num_atoms.mean(), (num_atoms.astype(float) ** 2).mean()
    width, pair = config.width, config.pair_width
    per_atom = config.layers * (4 * width**2 + 8 * width**2 + 2 * width * pair)
    raw = 6 * config.frequencies + 9 + config.radial
    per_pair = 2 * raw * pair + 2 * pair**2 + config.layers * (2 * config.heads * pair + 2 * width)
    per_crystal = config.layers * 6 * width**2
    return 3 * 2 * (atoms * per_atom + pairs * per_pair + per_crystal)


def peak(size: int = 2048) -> float:
    """Operations a second of a large matrix product in bfloat16."""
    left, right = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    started = time.perf_counter()
    for _ in range(8):
        left @ right
    return 8 * 2 * size**3 / (time.perf_counter() - started)


def train(rank: int, processes: int, steps: int, seed: int, results: Any) -> None:
    """Trains in one of the processes, and hands on the crystals a second of the whole, and what a crystal takes."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.set_num_threads(1)
    source = RandomCrystals(4000, seed)
    denoiser = Denoiser(PRESETS["small"])
    config = TrainConfig(compile=steps > QUICK, total_steps=1_000_000)
    batches = BucketedBatches(source, seed=seed, rank=rank)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(denoiser, DenoisingObjective(denoiser), batches, config, folder)
        for _ in range(steps // 2):  # compilation, and every size once
            trainer._train_step()
        samples, started = trainer.samples, time.perf_counter()
        for _ in range(steps):
            trainer._train_step()
        rate = processes * (trainer.samples - samples) / (time.perf_counter() - started)
    if rank == 0:
        millions = sum(p.numel() for p in denoiser.parameters()) / 1e6
        results.put((rate, multiplications(denoiser, source.num_atoms), millions))
    if dist.is_initialized():
        dist.destroy_process_group()


def peak_of(rank: int, results: Any) -> None:
    """`peak` of one of several processes that multiply at the same time."""
    torch.set_num_threads(1)
    results.put(peak())


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="one on each core")
    options = parser.parse_args()
    steps = QUICK if options.quick else 80
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(train, (options.processes, steps, options.seed, results), options.processes)
    rate, work, millions = results.get()
    mp.spawn(peak_of, (results,), options.processes)
    best = sum(results.get() for _ in range(options.processes))
    figures = {
        "processes": options.processes,
        "parameters, millions": round(millions, 2),
        "crystals a second": round(rate),
        "GFLOP a crystal": round(work / 1e9, 3),
        "bfloat16 peak, GFLOP a second": round(best / 1e9),
        "share of the peak, %": round(100 * rate * work / best, 1),
    }
    record("training", figures, seed=options.seed)
