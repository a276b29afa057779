"""Labels by pw.x that say how hard atoms repel each other: small molecules with one bond far too short.

A potential that has seen few close pairs forgets how steep the wall is, hydrogen's first of all: its atoms come nearer than
any others. A molecule in a box costs seconds of DFT. Only forces are kept: the energy is on another scale, and the stress
of a box says nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from tqdm import tqdm

from dao_ase.espresso.calculation import Calculation
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.labels import LabelledFrame, require_npz, write_frames
from dao_ase.espresso.presets import Preset, load_preset
from dao_ase.espresso.pseudopotentials import directories, find
from dao_ase.espresso.running import Machine, run

logger = logging.getLogger(__name__)

MOLECULES = (
    "H2 LiH CH4 NH3 H2O HF SiH4 PH3 SH2 HCl C2H2 C2H4 HCN H2CO N2H4 H2O2 HOCl CH3OH H3CNH2 CH3SH HCOOH HCF3 "
    "N2 CO CO2 F2 Cl2 N2O CS2 OCS SO2 SiO BF3 CF4 NF3 PF3 SiF4 F2O ClF AlF3"
).split()
"""Of ASE's collection g2, without unpaired electrons."""
SHORTER = {True: (0.6, 0.7, 0.85), False: (0.75, 0.9)}
"""The lengths of a bond, relative to its own, with and without hydrogen."""
BOND = 1.25
"""Atoms are bound when they are nearer than this many times the sum of their covalent radii."""


@dataclass(frozen=True)
class ClosePairRules:
    """How pw.x is run: in a box that leaves ``vacuum`` (Å) on each side, at this share of the stated cutoff."""

    molecules: Sequence[str] = tuple(MOLECULES)
    vacuum: float = 1.6
    cutoff_share: float = 0.7
    preset: Preset = field(default_factory=lambda: replace(load_preset("standard"), spin=False, conv_thr=1e-6))
    machine: Machine = field(default_factory=lambda: Machine(timeout=300.0))

    def calculation(self, frame: Atoms, pseudo_dirs: Sequence[Path]) -> Calculation:
        """What pw.x is asked of a frame: no other k-point than Γ."""
        pseudopotentials = find(set(frame.get_chemical_symbols()), pseudo_dirs)
        stated = self.preset.cutoffs(pseudopotentials.values())[0]
        cutoff = {"ecutwfc": round(self.cutoff_share * stated)}
        return Calculation(frame, "scf", self.preset, pseudopotentials, cutoff, (1, 1, 1))


def close_frames(name: str, vacuum: float) -> Iterator[Atoms]:
    """A molecule of g2 in its box (Å), one bond too short: for each pair of elements its shortest bond, at each length."""
    from ase.build import molecule
    from ase.data import covalent_radii

    whole = molecule(name)
    whole.center(vacuum)
    whole.pbc = True
    distances, radii = whole.get_all_distances(), covalent_radii[whole.numbers]
    first, second = np.triu_indices(len(whole), 1)
    bound = distances[first, second] < BOND * (radii[first] + radii[second])
    shortest: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b in sorted(zip(first[bound], second[bound], strict=True), key=lambda bond: distances[bond]):
        low, high = sorted((a, b), key=lambda k: whole.numbers[k])
        shortest.setdefault((int(whole.numbers[low]), int(whole.numbers[high])), (low, high))
    for (lighter, _), (moving, staying) in shortest.items():
        for part in SHORTER[lighter == 1]:
            frame = whole.copy()
            frame.positions[moving] += (1 - part) * (whole.positions[staying] - whole.positions[moving])
            yield frame


def label_close_pairs(
    output: str | Path,
    folder: str | Path,
    rules: ClosePairRules | None = None,
    *,
    pseudo_dirs: Sequence[Path] = (),
    progress: bool = True,
) -> dict[str, int]:
    """Labels molecules with one bond too short by pw.x and writes one npz file; counts of what came of it.

    Calculations are kept in ``folder`` and never repeated; the file is written anew after each molecule. Left out are
    frames that do not converge, and those with an element that has no pseudopotential.
    """
    rules, output = rules or ClosePairRules(), require_npz(output)
    rules.machine.require_program()
    frames: list[LabelledFrame] = []
    left_out = 0
    for name in tqdm(rules.molecules, disable=not progress, unit="molecules"):
        for frame in close_frames(name, rules.vacuum):
            try:
                result = run(rules.calculation(frame, directories(pseudo_dirs)), Path(folder), rules.machine)
                end = result.output.final if result.complete else None
                problem = result.problem
            except EspressoError as error:
                end, problem = None, error
            if end is None or end.forces is None:
                left_out += 1
                logger.info("a frame of %s is left out: %s", name, problem)
                continue
            frames.append(LabelledFrame(frame, end.forces, np.full((3, 3), np.nan), name))
        if frames:
            write_frames(frames, output)
    return {"molecules": len({one.parent for one in frames}), "frames": len(frames), "left out": left_out}
