"""Phonons: those at Γ are the eigenvalues of the Hessian of one cell; sound costs nothing at Γ."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk

from dao_ase.calculator import DAOCalculator
from dao_ase.crystals import Crystals
from dao_ase.relax import relax
from dao_ase.simulate.phonons import enough_repeats, phonons
from named import MorsePotential, to_crystals

pytest.importorskip("phonopy", reason='needs phonopy: pip install "dao-ase[phonons]"')
MODEL = MorsePotential().requires_grad_(False)


def relaxed(atoms) -> Crystals:
    crystal = to_crystals(atoms)
    final = relax(crystal, MODEL, fmax=1e-5, keep_symmetry=True)[0].final
    lattice = torch.from_numpy(final.lattice)
    coords = torch.from_numpy(final.positions) @ torch.linalg.inv(lattice)
    return crystal.replace(lattice=lattice.unsqueeze(0), frac_coords=coords)


MAGNESIUM = relaxed(bulk("Mg", "hcp", a=2.8, c=4.6))


def hessian_frequencies(crystal: Crystals, masses: np.ndarray) -> np.ndarray:
    """Frequencies (THz) of the atoms of one cell, all its images moving with them."""
    from dao_ase.convert import to_atoms

    atoms = to_atoms(crystal)[0]
    atoms.calc = DAOCalculator(MODEL, dtype="float64")
    rows = []
    for place in range(3 * len(atoms)):
        pair = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions.flat[place] += sign * 1e-3
            pair.append(moved.get_forces().ravel())
        rows.append((pair[1] - pair[0]) / 2e-3)
    weights = np.repeat(masses, 3) ** -0.5
    squared = np.linalg.eigvalsh(0.5 * (np.array(rows) + np.array(rows).T) * weights[:, None] * weights)
    angular = np.sign(squared) * np.sqrt(np.abs(squared) * units._e / units._amu * 1e20)
    return angular / (2 * np.pi) / 1e12


def test_modes_at_gamma_are_those_of_the_hessian():
    found = phonons(MAGNESIUM, MODEL, supercell=(3, 3, 2), mesh=15.0, displacement=0.002)
    expected = hessian_frequencies(MAGNESIUM, bulk("Mg").get_masses())
    assert np.allclose(found.gamma, expected, atol=0.02)
    assert np.abs(found.gamma[:3]).max() < 0.01
    assert found.is_stable
    assert found.bands.labels[0] == "G"
    assert found.bands.frequencies.shape == (len(found.bands.distance), 6)


def test_isotopes_vibrate_by_their_mass():
    settings = {"supercell": (2, 2, 1), "mesh": 5.0}
    usual = phonons(MAGNESIUM, MODEL, **settings)
    heavy = phonons(MAGNESIUM, MODEL, masses=4 * bulk("Mg", "hcp").get_masses(), **settings)
    assert heavy.gamma[3:] == pytest.approx(usual.gamma[3:] / 2, rel=1e-4)
    assert heavy.phonopy.primitive.masses == pytest.approx([4 * 24.305] * 2)
    for masses, reason in (
        ([24.3], "1 masses for 2 atoms"),
        ([24.3, 0.0], "positive"),
        ([24.3, np.nan], "positive"),
        ([24.3, 25.0], "atoms of Mg have different masses"),
    ):
        with pytest.raises(ValueError, match=reason):
            phonons(MAGNESIUM, MODEL, masses=masses, **settings)


def test_heat_capacity_follows_dulong_and_petit():
    found = phonons(MAGNESIUM, MODEL, min_length=6.0, mesh=15.0, temperatures=[1000.0, 2000.0])
    assert found.supercell == (3, 3, 2)
    assert found.thermal["atoms"] == 2
    assert found.thermal["heat_capacity_J_K_mol"][-1] == pytest.approx(2 * 3 * 8.314, rel=0.02)
    assert np.trapezoid(found.dos, found.dos_frequencies) == pytest.approx(6, rel=0.02)


def test_a_crystal_on_a_saddle_has_imaginary_modes():
    found = phonons(relaxed(bulk("Cu", "sc", a=2.6)), MODEL, supercell=(3, 3, 3), mesh=15.0)
    assert not found.is_stable
    assert found.lowest < -1


def test_supercells_are_large_enough():
    sides = enough_repeats(MAGNESIUM, 12.0)
    assert sides[0] == sides[1]
    assert sides[0] * 2.9 * 3**0.5 / 2 > 12 * 0.9
    for settings, reason in (
        ({"supercell": (0, 1, 1)}, "three positive"),
        ({"supercell": (2, 2)}, "three positive whole"),
        ({"temperatures": [-5.0, 300.0]}, "none below zero"),
        ({"displacement": 0.0}, "positive"),
        ({"min_length": 1e9}, r"force constants .* need about"),
        ({"mesh": 1e9}, r"wave vectors of a mesh of 1e\+09 Å need about .* shorter mesh"),
    ):
        with pytest.raises(ValueError, match=reason):
            phonons(MAGNESIUM, MODEL, **settings)
    with pytest.raises(ValueError, match="2 crystals"):
        phonons(Crystals.concatenate([MAGNESIUM, MAGNESIUM]), MODEL)
    oganesson = dataclasses.replace(MAGNESIUM, atomic_numbers=torch.tensor([118, 118]))
    with pytest.raises(ValueError, match="contains Og, which is outside"):
        phonons(oganesson, MODEL)


def test_what_no_force_holds_has_no_phonons():
    copper = to_crystals(bulk("Cu"))
    with pytest.raises(ValueError, match=r"supercell of \[1, 1, 1\] holds a single atom"):
        phonons(copper, MODEL, supercell=(1, 1, 1))
    far = to_crystals(bulk("Cu", cubic=True, a=40.0))
    with pytest.raises(ValueError, match="none has a neighbour within DAO-P's cutoff"):
        phonons(far, MODEL, supercell=(1, 1, 1))


def test_a_left_handed_cell_has_the_same_phonons():
    mirrored = MAGNESIUM.replace(lattice=-MAGNESIUM.lattice, frac_coords=-MAGNESIUM.frac_coords)
    found, expected = (phonons(one, MODEL, supercell=(2, 2, 1), mesh=5.0) for one in (mirrored, MAGNESIUM))
    assert np.allclose(found.gamma, expected.gamma, atol=1e-6)
