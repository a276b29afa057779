"""The table of settings: ``fast``, ``standard`` and ``tight``, kept as data in ``assets/espresso.toml``."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dao_ase.espresso.pseudopotentials import KINDS, Pseudopotential

PRESETS = ("fast", "standard", "tight")
MOST = 100_000
"""k-points before symmetry; pw.x takes 40,000 after it."""


@dataclass(frozen=True)
class Preset:
    """How accurate a calculation is. Energies in Ry; ``kspacing`` in 1/Å with the factor 2π; ``conv_thr`` per atom."""

    name: str
    kspacing: float
    ecutwfc: Mapping[str, float]
    ecutrho: Mapping[str, float]
    smearing: str
    degauss: float
    spin: bool
    conv_thr: float
    etot_conv_thr: float
    forc_conv_thr: float
    press_conv_thr: float
    electron_maxstep: int
    mixing_beta: float
    moments: Mapping[str, float]

    def __post_init__(self) -> None:
        if not 0 < self.kspacing < math.inf:  # nor is nan
            raise ValueError(f"k-spacing is {self.kspacing} 1/Å; it must be positive, for example 0.5")

    def cutoffs(self, pseudopotentials: Iterable[Pseudopotential]) -> tuple[float, float, list[str]]:
        """``ecutwfc`` and ``ecutrho`` (Ry) that suit every pseudopotential, and what had to be raised for whom."""
        wave = density = 0.0
        raised = []
        for one in pseudopotentials:
            own_wave = float(self.ecutwfc[one.kind])
            if one.ecutwfc > own_wave:
                raised.append(
                    f"{one.name} needs a cutoff of {one.ecutwfc:.0f} Ry, above the {own_wave:.0f} Ry of "
                    f"preset {self.name!r}: raised"
                )
                own_wave = math.ceil(one.ecutwfc)
            # the density of a norm-conserving calculation is exact at four times the cutoff
            own_density = own_wave * self.ecutrho[one.kind]
            if one.kind != "norm-conserving":
                own_density = max(own_density, math.ceil(one.ecutrho))
            wave, density = max(wave, own_wave), max(density, own_density)
        return wave, max(density, 4 * wave), raised

    def grid(self, lattice: NDArray[np.float64]) -> tuple[int, int, int]:
        """Γ-centred k-points along each reciprocal vector of a cell whose rows are ``lattice`` (Å)."""
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(lattice), axis=0)
        # 1e-4: a cell that is a hair shorter than another must not get another grid
        first, second, third = (max(1, math.ceil(length / self.kspacing - 1e-4)) for length in lengths)
        if first * second * third > MOST:
            raise ValueError(
                f"a k-spacing of {self.kspacing} 1/Å means {first} × {second} × {third} k-points; 0.2 is fine already"
            )
        return first, second, third


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("dao_ase") / "assets" / "espresso.toml").read_text(encoding="utf-8"))


def load_preset(name: str) -> Preset:
    """The preset of this name.

    >>> load_preset("fast").kspacing
    0.5
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is none of {', '.join(PRESETS)}")
    table = _table()
    preset = Preset(name=name, moments=table["moments"], **table[name])
    missing = set(KINDS) - set(preset.ecutwfc)
    if missing:
        raise ValueError(f"preset {name!r} gives no cutoff for {', '.join(sorted(missing))} pseudopotentials")
    return preset
