"""Relaxing rattled MP-20 validation crystals: DAO-P in one batch against a loop of CHGNet relaxations.

CHGNet relaxes a sample of them with its own StructOptimizer; crystals a second is what is compared. Both stop at the same
forces. How many still match the DFT structure, and the error of their volume, is printed for both on the same sample.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from record import arguments, record

from dao_ase import DAOCalculator
from dao_ase.composition import Composition, reduced_key
from dao_ase.crystals import Crystals
from dao_ase.relax import relax
from dao_ase.train.potential_task import HELD_OUT_FORMULAS

warnings.filterwarnings("ignore")
VAL = Path(__file__).parent.parent.parent / "shared" / "data" / "mp20_val.npz"


def sample(count: int, seed: int) -> list[Structure]:
    """Structures of the MP-20 validation split."""
    with np.load(VAL) as file:
        starts = np.concatenate([[0], np.cumsum(file["n_atoms"])])
        numbers, coords, lattice = file["numbers"], file["frac_coords"], file["lattice"]
    never = {reduced_key(Composition.parse(formula).atomic_numbers) for formula in HELD_OUT_FORMULAS}
    found: list[Structure] = []
    for frame in np.random.default_rng(seed).permutation(len(lattice)):
        atoms = slice(starts[frame], starts[frame + 1])
        if reduced_key(numbers[atoms]) not in never and len(found) < count:
            found.append(Structure(lattice[frame], numbers[atoms], coords[atoms]))
    return found


def rattle(structure: Structure, rng: np.random.Generator) -> Structure:
    """Atoms displaced by 0.1 Å, cell strained by 3 %."""
    lattice = structure.lattice.matrix @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3)))
    moved = Structure(lattice, structure.species, structure.frac_coords)
    shift = 0.1 / 3**0.5 * rng.normal(size=(len(structure), 3))
    return Structure(lattice, structure.species, moved.cart_coords + shift, coords_are_cartesian=True)


def batch(structures: list[Structure]) -> Crystals:
    """The structures as one batch."""
    return Crystals(
        torch.tensor(np.array([one.lattice.matrix for one in structures])),
        torch.tensor(np.concatenate([one.frac_coords for one in structures])),
        torch.tensor(np.concatenate([one.atomic_numbers for one in structures]).astype(np.int64)),
        torch.tensor([len(one) for one in structures]),
    )


def quality(relaxed: list[Structure], known: list[Structure]) -> dict[str, float]:
    """Share that matches the DFT structure, and the median error of the volume."""
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    tight = StructureMatcher(ltol=0.1, stol=0.15, angle_tol=5)
    pairs = list(zip(relaxed, known, strict=True))
    volumes = [abs(one.volume / other.volume - 1) for one, other in pairs]
    return {
        "matched_percent": round(100 * np.mean([matcher.fit(*pair) for pair in pairs]), 1),
        "matched_tightly_percent": round(100 * np.mean([tight.fit(*pair) for pair in pairs]), 1),
        "median_volume_error_percent": round(100 * float(np.median(volumes)), 2),
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--crystals", type=int, default=500)
    parser.add_argument("--peer-crystals", type=int, default=60)
    parser.add_argument("--fmax", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    if options.quick:
        options.crystals, options.peer_crystals = 10, 2
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    known = sample(options.crystals, options.seed)
    start = [rattle(structure, rng) for structure in known]
    model = DAOCalculator(device="cpu").model
    began, cpu = time.perf_counter(), time.process_time()
    results = relax(batch(start), model, fmax=options.fmax, steps=options.steps)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    ended = [
        Structure(r.final.lattice, one.species, r.final.positions, coords_are_cartesian=True) if r.final else one
        for one, r in zip(start, results, strict=True)
    ]
    ours = {
        "crystals": len(start),
        "converged_percent": round(100 * np.mean([r.converged for r in results]), 1),
        "mean_steps": round(float(np.mean([r.steps for r in results])), 1),
        "wall_s": round(wall, 1),
        "processor_s_per_crystal": round(cpu / len(start), 4),
        **quality(ended, known),
    }
    figures: dict = {"settings": vars(options), "rattled": quality(start, known), "DAO-P, one batch": ours}
    few = min(options.peer_crystals, len(start))
    try:
        from chgnet.model import StructOptimizer

        optimizer = StructOptimizer(use_device="cpu")
        began, cpu = time.perf_counter(), time.process_time()
        peers = [optimizer.relax(s, fmax=options.fmax, steps=options.steps, verbose=False) for s in start[:few]]
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        figures["CHGNet 0.4.2, one after another"] = {
            "crystals": few,
            "wall_s": round(wall, 1),
            "processor_s_per_crystal": round(cpu / few, 3),
            **quality([peer["final_structure"] for peer in peers], known[:few]),
        }
        again = time.process_time()
        relax(batch(start[:few]), model, fmax=options.fmax, steps=options.steps)
        again = time.process_time() - again
        figures["DAO-P on the same few"] = quality(ended[:few], known[:few]) | {
            "processor_s_per_crystal": round(again / few, 4)
        }
        figures["times_faster"] = round(cpu / again, 1)  # the same crystals, in a batch that is no larger
    except ImportError:
        pass
    record("relax_batch", figures, seed=options.seed, packages=("chgnet",) if "times_faster" in figures else ())
