"""Crystals at rest as labels of a potential: formation energies of DFT, and no force on any atom.

A published crystal has been relaxed, so that what a potential should say of it is known without a teacher. Its energy
E = N E_f + Σ μ_z, where E_f is known, is put on the scale of the teacher's labels by the energies μ of the elements, fitted
by least squares to labelled frames that are such crystals as they are. Formation energies of an older release, corrected by
another scheme, get energies of the elements of their own, which makes up for nearly all of the difference. The stress is
zero where the source says that the cell is one of the functional that the labels come from (`SAME_FUNCTIONAL`), and not
known otherwise: cells of later releases of the Materials Project may come from another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase.data.store import FORMATION_ENERGIES, CrystalStore
from dao_ase.neighbors import find_pairs
from dao_ase.radii import COVALENT_RADII
from dao_ase.train.labelled import LabelledCrystals, element_counts, fit_references

logger = logging.getLogger(__name__)

SOURCE, SAME_FUNCTIONAL = "structure_source", (0, 3, 4)
"""The label that tells where a structure of MP-20 train was found, and its values for cells relaxed with PBE."""
FEWEST = 3
"""An element with fewer frames than this in the fit has no energy μ; that of crystals with it is not known."""
FREE_ATOMS = 9
"""A crystal of which only the forces are known is taken from this size on: in smaller ones symmetry lets few atoms move."""
CLOSEST = 0.7
"""The least distance of two atoms in covalent radii. Closer ones are broken entries: nothing is at rest there."""


def crystals_at_rest(store: str | Path, labels: Sequence[str | Path], max_atoms: int = 52) -> LabelledCrystals:
    """The crystals of a store, as frames without forces, with no stress or no known one, and an energy where it is known.

    ``labels`` are label files with frames of these crystals, by ``parent_id``; those of ``kind`` 0 are undistorted.
    """
    crystals = CrystalStore.open(store)
    known = [name for name in FORMATION_ENERGIES if name in crystals.labels]
    chosen = np.flatnonzero(crystals.num_atoms <= max_atoms)
    batch = crystals.batch(chosen)
    numbers, sizes = batch.atomic_numbers.numpy(), batch.num_atoms.numpy()
    energy = np.full(len(chosen), np.nan)
    for name in known:
        formation = crystals.labels[name]
        references = _element_energies(dict(zip(crystals.ids.tolist(), formation.tolist(), strict=True)), labels)
        found = formation[chosen] * sizes + np.add.reduceat(references[numbers], np.cumsum(sizes) - sizes)
        energy = np.where(np.isfinite(energy), energy, found)
    stress = np.full((len(chosen), 3, 3), np.nan, np.float32)
    if SOURCE in crystals.labels:
        stress[np.isin(crystals.labels[SOURCE][chosen], SAME_FUNCTIONAL)] = 0.0
    frames = LabelledCrystals(
        num_atoms=sizes,
        atomic_numbers=numbers,
        frac_coords=batch.frac_coords.double().numpy(),
        lattice=batch.lattice.double().numpy(),
        energy=energy,
        forces=np.zeros((len(numbers), 3), np.float32),
        stress=stress,
    )
    telling = np.isfinite(frames.energy) | np.isfinite(stress).all((1, 2)) | (sizes >= FREE_ATOMS)
    kept = [k for k in np.flatnonzero(telling) if not _crushed(frames.select(np.array([k])))]
    if not kept:
        raise ValueError(f"no crystal of {str(store)!r} has at most {max_atoms} atoms and tells anything")
    return frames.select(np.array(kept))


def _crushed(frame: LabelledCrystals) -> bool:
    """Whether two atoms of a crystal are closer than `CLOSEST` allows."""
    radii = torch.from_numpy(np.asarray(COVALENT_RADII)[frame.atomic_numbers])
    lattice = torch.from_numpy(frame.lattice[0])
    positions = torch.from_numpy(frame.frac_coords) @ lattice
    pairs = find_pairs(positions, lattice, 2 * CLOSEST * float(radii.max()))
    distance = (positions[pairs.second] - positions[pairs.first] + pairs.shift.double() @ lattice).norm(dim=-1)
    return bool((distance < CLOSEST * (radii[pairs.first] + radii[pairs.second])).any())


def _element_energies(formation: dict[str, float], labels: Sequence[str | Path]) -> NDArray[np.float64]:
    """μ of each element (eV), by its atomic number; NaN where too few frames know it."""
    counts, differences = [], []
    for path in labels:
        with np.load(path, allow_pickle=False) as file:
            known = np.array([formation.get(name, np.nan) for name in file["parent_id"].tolist()])
            kept = (file["kind"] == 0) & np.isfinite(known)
            counts.append(element_counts(file["numbers"].astype(np.int64), file["n_atoms"])[kept])
            differences.append((file["energy_per_atom"] - known)[kept])
    table, difference = np.concatenate(counts), np.concatenate(differences)
    if not len(table):
        raise ValueError(f"no undistorted frame of {[str(path) for path in labels]} has a known formation energy")
    references = fit_references(table, difference * table.sum(1))
    left = difference - table @ references / table.sum(1)
    logger.info("energies of the elements from %d frames, %.1f meV/atom left", len(table), 1e3 * np.abs(left).mean())
    return np.where((table > 0).sum(0) >= FEWEST, references, np.nan)
