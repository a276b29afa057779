"""Equations of state: the minimum is where relaxation ends, the bulk modulus is the derivative of the pressure."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dao_ase.calculator import DAOCalculator
from dao_ase.relax import Frame, Relaxation, relax
from dao_ase.simulate.equation_of_state import FORMS, _fit, equation_of_state
from dao_ase.units import GPA
from named import MorsePotential, rattled, to_crystals

MODEL = MorsePotential().requires_grad_(False)
COPPER = bulk("Cu", cubic=True, a=3.5)


def pressure(atoms: Atoms, scale: float) -> float:
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array * scale, scale_atoms=True)
    moved.calc = DAOCalculator(MODEL, dtype="float64")
    return float(-moved.get_stress()[:3].mean() * GPA)


@pytest.mark.parametrize("form", FORMS)
def test_bulk_modulus_is_the_derivative_of_the_pressure(form):
    fit = equation_of_state(to_crystals(COPPER), MODEL, span=0.04, points=7, form=form)
    relaxed = COPPER.copy()
    relaxed.set_cell(np.eye(3) * np.cbrt(fit.volume), scale_atoms=True)
    assert pressure(relaxed, 1.0) == pytest.approx(0, abs=0.05)
    slope = (pressure(relaxed, 1.001) - pressure(relaxed, 0.999)) / (1.001**3 - 0.999**3)
    assert fit.bulk_modulus == pytest.approx(-slope, rel=0.01)
    assert fit.curve(np.array([fit.volume]))[0] == pytest.approx(fit.energy, abs=1e-9)
    assert fit.rms_residual < 1e-3


def test_atoms_and_shape_relax_at_each_volume():
    atoms = rattled(bulk("Mg", "hcp", a=2.8, c=4.7), 0.03)
    free = equation_of_state(to_crystals(atoms), MODEL, points=5)
    final = relax(to_crystals(atoms), MODEL, fmax=0.005, keep_symmetry=True)[0].final
    assert free.volume == pytest.approx(final.volume, rel=0.01)
    assert free.energy == pytest.approx(final.energy, abs=0.01)
    atoms.set_cell(atoms.cell.array * np.cbrt(1.02 * free.volume / atoms.get_volume()), scale_atoms=True)
    fixed = equation_of_state(to_crystals(atoms), MODEL, points=5, relax_first=False, relax_points="fixed")
    assert fixed.energy > free.energy
    shapes = [np.round(lattice / np.cbrt(np.linalg.det(lattice)), 12) for lattice in fixed.lattices]
    assert np.allclose(shapes, shapes[0])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"points": 4}, "at least 5"),
        ({"points": 10**8}, "at most 1000"),
        ({"span": 0.7}, "less than 0.5"),
        ({"form": "cubic"}, "none of birchmurnaghan"),
        ({"relax_points": "all"}, "none of 'volume'"),
        ({"steps": 1, "fmax": 1e-9}, "could not be relaxed first: not converged"),
        ({"relax_first": False, "relax_points": "fixed", "span": 0.01}, "no minimum between"),
    ],
)
def test_what_gives_no_curve_is_refused_with_the_reason(settings, reason):
    atoms = bulk("Cu", cubic=True, a=3.9)
    with pytest.raises(ValueError, match=reason):
        equation_of_state(to_crystals(rattled(atoms, 0.01)), MODEL, **settings)


def test_atoms_that_do_not_see_each_other_are_refused():
    with pytest.raises(
        ValueError, match=r"the energy is the same at all volumes from .* farther apart than DAO-P sees"
    ):
        equation_of_state(to_crystals(bulk("Cu", a=40.0)), MODEL, points=5)


def test_only_volumes_without_an_energy_give_a_reason():
    frame = Frame(np.zeros((1, 3)), np.eye(3), 0.0, np.zeros((1, 3)), np.zeros((3, 3)))
    known = Relaxation(False, 0, "not converged after 0 steps", frame, frame)
    lost = Relaxation(False, 0, "atoms 0 and 1 are 0.01 Å apart", None, None)
    with pytest.raises(
        ValueError, match=r"^only 4 of 5 volumes have an energy: point 5: atoms 0 and 1 are 0\.01 Å apart$"
    ):
        _fit([*[known] * 4, lost], "vinet", fixed=True)


@pytest.mark.parametrize(("energies", "hump"), [([4, 1, 0, 1, 4], 0), ([3, 5, 0, 1, 4], 2), ([4, 0, 1, -1, 9], 1)])
def test_more_than_one_minimum_is_seen(energies, hump):
    frames = [Frame(np.zeros((1, 3)), np.eye(3) * side, 0.01 * energy, np.zeros((1, 3)), np.zeros((3, 3)))
              for side, energy in zip((2.0, 2.1, 2.2, 2.3, 2.4), energies, strict=True)]  # fmt: skip
    fit = _fit([Relaxation(True, 0, "converged", frame, frame) for frame in frames], "birchmurnaghan", fixed=False)
    assert fit.hump == pytest.approx(0.01 * hump)


@pytest.mark.parametrize("form", ["vinet", "murnaghan"])
def test_a_fit_whose_minimum_is_elsewhere_is_refused(form):
    """Energies as of a slab, whose vacuum may be as thick as it likes: one is the lowest by chance, by some μeV."""
    found = {107.08618: -10.96559612, 110.50383: -10.96559245, 113.92147: -10.96560224, 117.33912: -10.96559856,
             120.75676: -10.96560104}  # fmt: skip
    frames = [Frame(np.zeros((1, 3)), np.eye(3) * np.cbrt(volume), energy, np.zeros((1, 3)), np.zeros((3, 3)))
              for volume, energy in found.items()]  # fmt: skip
    with pytest.raises(ValueError, match=r"minimum of the fitted .* not among the volumes from 107\.1 to 120\.8"):
        _fit([Relaxation(True, 0, "converged", frame, frame) for frame in frames], form, fixed=False)


def test_one_crystal_at_a_time():
    with pytest.raises(ValueError, match="2 crystals"):
        equation_of_state(to_crystals(COPPER, COPPER), MODEL)
