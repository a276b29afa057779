"""What pw.x is asked: a task on atoms with a preset, and the input file that ASE makes of it."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.espresso.presets import Preset
from dao_ase.espresso.pseudopotentials import Pseudopotential

if TYPE_CHECKING:
    from ase import Atoms

TASKS = ("scf", "relax", "vc-relax")
INPUT = "espresso.pwi"
OWN = (
    "calculation", "restart_mode", "outdir", "prefix", "pseudo_dir", "max_seconds", "tprnfor", "tstress",
    "nat", "ntyp", "ibrav",
)  # fmt: skip
"""Keywords of pw.x that follow from the crystal, the task and the preset, or by which calculations are found again."""


@dataclass(frozen=True)
class Calculation:
    """What pw.x is asked: a task on atoms, with a preset and pseudopotentials; ``extra`` are further keywords of pw.x.

    ``grid`` are the k-points; without them, as many as the preset says.
    """

    atoms: Atoms
    task: str
    preset: Preset
    pseudopotentials: Mapping[str, Pseudopotential]
    extra: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task {self.task!r} is none of {', '.join(TASKS)}")

    @property
    def k_grid(self) -> tuple[int, int, int]:
        """Γ-centred k-points along each reciprocal vector."""
        return self.grid or self.preset.grid(self.atoms.cell.array)

    @property
    def elements(self) -> list[str]:
        """Symbols, in the order in which they first appear."""
        return list(dict.fromkeys(self.atoms.get_chemical_symbols()))

    @property
    def moments(self) -> list[float] | None:
        """The moment (μB) from which each atom starts, its own or its element's; None for a calculation without spin."""
        symbols, own = self.atoms.get_chemical_symbols(), self.atoms.get_initial_magnetic_moments()
        if self.preset.spin and own.any():
            return [float(moment) for moment in own]
        if not self.preset.spin or not set(symbols) & set(self.preset.moments):
            return None
        return [float(self.preset.moments.get(symbol, 0.0)) for symbol in symbols]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of pw.x (Ry, bohr), without those that say where and how long it runs."""
        count, preset = len(self.atoms), self.preset
        wave, density, _ = preset.cutoffs([self.pseudopotentials[one] for one in self.elements])
        if "ecutwfc" in self.extra:  # the density's cutoff goes with it
            wave, density = self.extra["ecutwfc"], density / wave * self.extra["ecutwfc"]
        words: dict[str, Any] = {
            "calculation": self.task, "tprnfor": True, "tstress": True,
            "ecutwfc": wave, "ecutrho": density,
            "occupations": "smearing", "smearing": preset.smearing, "degauss": preset.degauss,
            "conv_thr": preset.conv_thr * count, "electron_maxstep": preset.electron_maxstep,
            "mixing_beta": preset.mixing_beta,
        }  # fmt: skip
        if self.task != "scf":
            words |= {
                "etot_conv_thr": preset.etot_conv_thr * count,
                "forc_conv_thr": preset.forc_conv_thr,
                "nstep": 100,
            }
        if self.task == "vc-relax":
            words["press_conv_thr"] = preset.press_conv_thr
        if self.moments is not None:
            words["nspin"] = 2
        return words | dict(self.extra)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of everything that decides the result."""
        content = {
            "numbers": self.atoms.numbers.tolist(),
            "lattice": np.round(self.atoms.cell.array, 7).tolist(),
            "positions": np.round(self.atoms.positions, 7).tolist(),
            "keywords": self.keywords,
            "grid": self.k_grid,
            "moments": self.moments,
            "pseudopotentials": {one: self.pseudopotentials[one].digest for one in self.elements},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.atoms.get_chemical_formula()}-{self.task}-{self.key}"


def check_keywords(words: Iterable[str]) -> None:
    """Refuses keywords that pw.x does not have, which ASE would leave out, and those that are not to be chosen."""
    from ase.io.espresso_namelist.keys import pw_keys

    known = {word.partition("(")[0] for words in pw_keys.values() for word in words}
    for word in words:
        name = word.partition("(")[0].strip().lower()
        if name in OWN:
            raise ValueError(
                f"keyword {word!r} of pw.x can not be set: it follows from crystal, task, preset and folder"
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"pw.x has no keyword {word!r}" + (f"; do you mean {near[0]!r}?" if near else ""))


def write_input(calculation: Calculation, place: Path, seconds: float, restart: bool) -> None:
    """The input file in the folder ``place``, for at most so many seconds, going on from a saved state or not.

    Beside it stand the pseudopotentials, as links, so that it names no folder of this machine.
    """
    from ase.calculators.espresso import Espresso, EspressoProfile

    (place / "pseudo").mkdir(parents=True, exist_ok=True)
    for element in calculation.elements:
        calculation.pseudopotentials[element].put(place / "pseudo")
    atoms = calculation.atoms.copy()
    words = calculation.keywords | {
        "outdir": "state", "pseudo_dir": "pseudo", "max_seconds": seconds,
        "restart_mode": "restart" if restart else "from_scratch",
    }  # fmt: skip
    moments = calculation.moments  # the start lies between −1 and 1; a tenth per μB is near enough
    starts = None if moments is None else [round(max(-1.0, min(moment / 10, 1.0)), 4) for moment in moments]
    atoms.set_initial_magnetic_moments(starts)
    Espresso(
        profile=EspressoProfile("pw.x", place / "pseudo"),
        directory=place,
        input_data=words,
        pseudopotentials={one: calculation.pseudopotentials[one].name for one in calculation.elements},
        kpts=calculation.k_grid,
    ).write_inputfiles(atoms, ["energy", "forces", "stress"])
