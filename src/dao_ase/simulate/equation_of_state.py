"""Energy against volume: equilibrium volume and bulk modulus from an equation of state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dao_ase.crystals import Crystals
from dao_ase.potential import Potential
from dao_ase.relax import Relaxation, relax
from dao_ase.units import GPA

FORMS = ("birchmurnaghan", "vinet", "murnaghan", "pouriertarantola")
"""Equations of state, as ASE names them."""
MIN_POINTS, MAX_POINTS = 5, 1000
"""A fit of four parameters needs one point more; more than a thousand say nothing further."""
SAME_ENERGY = 1e-10
"""eV; energies that differ by less differ by rounding alone."""
HUMP = 1e-4
"""eV/atom; energies of relaxed volumes that stand out of their curve by less do so because relaxations end early."""


@dataclass(frozen=True)
class EquationOfStateFit:
    """Volumes (Å³) and energies (eV) of a cell, and what a fit to them says; ``left_out`` names points without energy.

    ``volume`` (Å³), ``energy`` (eV) and ``bulk_modulus`` (GPa) are those at the minimum, and so is ``bulk_derivative``, by
    the pressure; ``rms_residual`` (eV) is by how much the fit misses the energies.
    """

    volumes: NDArray[np.float64]
    energies: NDArray[np.float64]
    lattices: NDArray[np.float64]
    form: str
    volume: float
    energy: float
    bulk_modulus: float
    bulk_derivative: float
    rms_residual: float
    left_out: tuple[str, ...] = ()

    @property
    def hump(self) -> float:
        """The most by which a volume stands above others on both sides of it (eV); 0 where the energies have one minimum."""
        smaller, larger = (np.minimum.accumulate(self.energies[::way])[::way] for way in (1, -1))
        return float((self.energies - np.maximum(smaller, larger)).max())

    def curve(self, volumes: NDArray[np.float64]) -> NDArray[np.float64]:
        """The fitted energy (eV) at any volumes (Å³)."""
        from ase import eos

        return getattr(eos, self.form)(volumes, self.energy, self.bulk_modulus / GPA, self.bulk_derivative, self.volume)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the bulk modulus in GPa, everything else in eV and Å."""
        return {
            "form": self.form,
            "volume": self.volume,
            "energy": self.energy,
            "bulk_modulus_GPa": self.bulk_modulus,
            "bulk_derivative": self.bulk_derivative,
            "rms_residual": self.rms_residual,
            "volumes": self.volumes.tolist(),
            "energies": self.energies.tolist(),
            "lattices": self.lattices.tolist(),
            "left_out": list(self.left_out),
        }


def equation_of_state(
    crystal: Crystals,
    model: Potential,
    *,
    span: float = 0.06,
    points: int = 11,
    relax_first: bool = True,
    relax_points: str = "volume",
    form: str = "birchmurnaghan",
    fmax: float = 0.005,
    steps: int = 500,
    on_done: Callable[[int, Relaxation], object] | None = None,
) -> EquationOfStateFit:
    """Fits an equation of state to energies at volumes of ±``span`` around the relaxed one; all points are one batch.

    ``relax_points`` says what moves at each volume: positions and the shape of the cell ("volume"), positions alone
    ("none"), or nothing at all ("fixed"). Without ``relax_first`` the volumes stand around that of the crystal as given.
    ``fmax`` (eV/Å) and ``steps`` end each relaxation.

    >>> from dao_ase.calculator import load_potential
    >>> salt = Crystals(torch.full((1, 3, 3), 2.8) - 2.8 * torch.eye(3), torch.tensor([[0.0] * 3, [0.5] * 3]),
    ...                 torch.tensor([11, 17]), torch.tensor([2]))
    >>> 10 < equation_of_state(salt, load_potential(), points=5).bulk_modulus < 40
    True
    """
    _refuse(crystal, span, points, relax_points, form)
    if relax_first:
        first = relax(crystal, model, fmax=fmax, steps=steps, keep_symmetry=True)[0]
        if first.final is None or not first.converged:
            raise ValueError(f"the crystal could not be relaxed first: {first.reason}")
        crystal = _with_geometry(crystal, first.final.lattice, first.final.positions)
    growth = np.cbrt(np.linspace(1 - span, 1 + span, points))
    scaled = Crystals.concatenate([crystal.replace(lattice=crystal.lattice * scale) for scale in growth.tolist()])
    mode, most = ("none", 0) if relax_points == "fixed" else (relax_points, steps)
    results = relax(scaled, model, fmax=fmax, steps=most, cell=mode, on_done=on_done)
    return _fit(results, form, fixed=relax_points == "fixed")


def _refuse(crystal: Crystals, span: float, points: int, relax_points: str, form: str) -> None:
    if len(crystal) != 1:
        raise ValueError(f"{len(crystal)} crystals; an equation of state is fitted to one at a time")
    if not 0 < span < 0.5:
        raise ValueError(
            f"the span is {span:g} ({100 * span:g} % of the volume); give more than 0, less than 0.5 (50 %)"
        )
    if points < MIN_POINTS:
        raise ValueError(f"{points} points; a fit needs at least {MIN_POINTS}")
    if points > MAX_POINTS:
        raise ValueError(f"{points} points; at most {MAX_POINTS} are computed")
    if relax_points not in ("volume", "none", "fixed"):
        raise ValueError(f"relax_points {relax_points!r} is none of 'volume', 'none', 'fixed'")
    if form not in FORMS:
        raise ValueError(f"the equation of state {form!r} is none of {', '.join(FORMS)}")


def _with_geometry(crystal: Crystals, lattice: NDArray, positions: NDArray) -> Crystals:
    cell = torch.from_numpy(lattice)
    return crystal.to(dtype=torch.float64).replace(
        lattice=cell.unsqueeze(0), frac_coords=torch.from_numpy(positions) @ torch.linalg.inv(cell)
    )


def _fit(results: list[Relaxation], form: str, *, fixed: bool) -> EquationOfStateFit:
    from ase.eos import EquationOfState

    good = [one.final for one in results if one.final is not None and (one.converged or fixed)]
    left_out = tuple(
        f"point {place + 1}: {one.reason}"
        for place, one in enumerate(results)
        if one.final is None or not (one.converged or fixed)
    )
    if len(good) < MIN_POINTS:
        raise ValueError(f"only {len(good)} of {len(results)} volumes have an energy: {'; '.join(left_out)}")
    volumes, energies = np.array([one.volume for one in good]), np.array([one.energy for one in good])
    if np.ptp(energies) < SAME_ENERGY:
        raise ValueError(
            f"the energy is the same at all volumes from {volumes[0]:.4g} to {volumes[-1]:.4g} Å³: the atoms are farther "
            "apart than DAO-P sees; is the cell too large?"
        )
    lowest = int(energies.argmin())
    if lowest in (0, len(good) - 1):
        raise ValueError(
            f"the energy has no minimum between {volumes[0]:.4g} and {volumes[-1]:.4g} Å³, it is lowest at "
            f"{volumes[lowest]:.4g} Å³; relax the crystal first or take a wider span"
        )
    curve = EquationOfState(volumes, energies, eos=form)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is refused below, and of volumes tried on the way
            volume, energy, modulus = (float(value) for value in curve.fit())
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{form} could not be fitted to the energies: {error}") from error
    if not volumes.min() < volume < volumes.max():
        raise ValueError(
            f"the minimum of the fitted {form}, at {volume:.4g} Å³, is not among the volumes from {volumes.min():.4g} to "
            f"{volumes.max():.4g} Å³: the energies are no smooth curve; take a smaller fmax or a wider span"
        )
    fit = EquationOfStateFit(
        volumes,
        energies,
        np.stack([one.lattice for one in good]),
        form,
        volume,
        energy,
        modulus * GPA,
        float(curve.eos_parameters[2]),
        0.0,
        left_out,
    )
    return replace(fit, rms_residual=float(np.sqrt(np.mean((energies - fit.curve(volumes)) ** 2))))
