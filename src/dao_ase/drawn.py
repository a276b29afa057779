"""What DAO-G draws, judged by DAO-P: training crystals for the stability model.

Proposition 1 asks for energies of what the generator makes, E_t(M_t) = −log E[exp(−β E_0(M_0)) | M_t], M_0 drawn as DAO-G
draws; published crystals are nearly all stable and teach little of what is not. So DAO-G draws crystals with the atoms of
known ones, from noise, one try each, and each gets an energy above the hull: how far DAO-P finds it above the known crystal
(*parent*), plus what is published of that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from dao_ase.calculator import load_potential
from dao_ase.cell_sampler import CellSampler
from dao_ase.cells import SEED_STRIDE
from dao_ase.checkpoint import default_weights
from dao_ase.composition import Composition
from dao_ase.convert import from_structures
from dao_ase.crystals import Crystals
from dao_ase.data.parallel import once, one_thread, parallel_map
from dao_ase.data.store import INDEX, CrystalStore
from dao_ase.derivatives import predict_crystals
from dao_ase.gates import refusal
from dao_ase.potential import Potential
from dao_ase.whole_files import replacing

PART = 256
"""Parents in one unit of work: what a kill can cost."""


@dataclass(frozen=True)
class DrawRules:
    """Whose atoms are drawn, and how often.

    Parents have at most ``max_atoms`` atoms and are at most ``stable`` eV/atom above the hull. Energies above the hull are
    cut off at zero and at ``highest`` eV/atom.
    """

    parents: int = 10_000
    each: int = 2
    max_atoms: int = 20
    stable: float = 0.08
    highest: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.parents, self.each, self.max_atoms) < 1:
            raise ValueError(
                f"{self.parents} parents, {self.each} drawn of each, {self.max_atoms} atoms: all at least 1"
            )


def draw_crystals(
    store: CrystalStore,
    output: str | Path,
    rules: DrawRules | None = None,
    *,
    weights: str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Writes crystals drawn by DAO-G (``weights``, or the installed one) to the .npz file ``output``; returns how many.

    The store needs the label ``e_above_hull``; the file has it too (eV/atom), and is a source of ``dao-ase data build``.
    What the geometry gates refuse is left out. An interrupted call continues.
    """
    rules, output = rules or DrawRules(), Path(output)
    if output.suffix != ".npz":
        raise ValueError(f"{str(output)!r} must end in .npz")
    if "e_above_hull" not in store.labels:
        raise ValueError(f"{str(store.path)!r} has no label e_above_hull, which energies are measured from")
    if output.exists():
        raise FileExistsError(f"{str(output)!r} is there already; give another name or delete it")
    above = store.labels["e_above_hull"]
    chosen = np.flatnonzero((store.num_atoms <= rules.max_atoms) & (above <= rules.stable))
    chosen = np.sort(np.random.default_rng(rules.seed).permutation(chosen)[: rules.parents])
    work = output.with_name(f".{output.stem}-{_key(store, rules, weights)}")
    work.mkdir(parents=True, exist_ok=True)
    parts = [chosen[first : first + PART].tolist() for first in range(0, len(chosen), PART)]
    calls = (
        (work / f"part-{number:05d}.json", _draw_part, str(store.path), part, rules, weights)
        for number, part in enumerate(parts)
    )
    drawn = parallel_map(once, calls, workers)
    bar = tqdm(drawn, total=len(parts), desc="drawing", unit="part", disable=not progress)
    crystals = [one for part in bar for one in part]
    if not crystals:
        reason = (
            "the geometry gates refused all" if len(chosen) else f"no stable crystal has up to {rules.max_atoms} atoms"
        )
        raise ValueError(f"nothing was drawn with the atoms of {str(store.path)!r}: {reason}")
    _write(output, crystals)
    for file in work.iterdir():
        file.unlink()
    work.rmdir()
    return len(crystals)


@one_thread()
def _draw_part(path: str, indices: list[int], rules: DrawRules, weights: str | None) -> list[dict[str, Any]]:
    """What was drawn with the atoms of some parents and passes the gates, as JSON."""
    store, potential = CrystalStore.open(path, verify=False), load_potential()
    parents, known = store.batch(np.array(indices)), store.gather("label.e_above_hull", np.array(indices))
    hull = _energies_per_atom(potential, parents) - known
    owners = np.repeat(np.arange(len(indices)), rules.each)
    cells = [Composition.from_atomic_numbers(parents[[owner]].atomic_numbers.tolist()) for owner in owners.tolist()]
    seeds = [
        SEED_STRIDE * rules.seed + rules.each * indices[owner] + place % rules.each
        for place, owner in enumerate(owners)
    ]
    made = CellSampler(weights, tries=1, prototypes=False).sample_cells(cells, seeds, ranks=[range(0)] * len(cells))
    passed = [place for place, one in enumerate(made) if refusal(one) is None]
    energies = _energies_per_atom(potential, from_structures([made[place] for place in passed])) - hull[owners[passed]]
    names = store.ids
    return [
        {
            "id": f"{names[indices[owners[place]]]}/{rules.seed}-{place % rules.each}",
            "numbers": list(made[place].atomic_numbers),
            "lattice": made[place].lattice.matrix.tolist(),
            "frac_coords": made[place].frac_coords.tolist(),
            "e_above_hull": float(np.clip(energy, 0.0, rules.highest)),
        }
        for place, energy in zip(passed, energies, strict=True)
        if np.isfinite(energy)
    ]


def _energies_per_atom(potential: Potential, crystals: Crystals) -> Float[np.ndarray, "crystals"]:
    return (predict_crystals(potential, crystals).energy / crystals.num_atoms).numpy()


def _write(output: Path, crystals: list[dict[str, Any]]) -> None:
    """The crystals in the format of the reference data."""
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            n_atoms=np.array([len(one["numbers"]) for one in crystals], dtype=np.int32),
            numbers=np.concatenate([one["numbers"] for one in crystals]).astype(np.uint8),
            frac_coords=np.concatenate([one["frac_coords"] for one in crystals]).astype(np.float32) % 1,
            lattice=np.array([one["lattice"] for one in crystals], dtype=np.float32),
            id=np.array([one["id"] for one in crystals]),
            e_above_hull=np.array([one["e_above_hull"] for one in crystals]),
        )


def _key(store: CrystalStore, rules: DrawRules, weights: str | None) -> str:
    """What a run depends on, as sixteen digits: another store, other rules or other weights are another run."""
    digest = hashlib.sha256((store.path / INDEX).read_bytes())
    for file in (weights or default_weights("dao_g"), default_weights("dao_p")):
        digest.update(Path(file).read_bytes())
    digest.update(json.dumps(asdict(rules), sort_keys=True).encode())
    return digest.hexdigest()[:16]
