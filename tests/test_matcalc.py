"""matcalc takes DAOCalculator as it takes any other: relaxation, equation of state, elasticity and phonons of silicon."""

import warnings

import numpy as np
import pytest
from ase.build import bulk

from dao_ase.calculator import DAOCalculator

matcalc = pytest.importorskip("matcalc", reason='needs matcalc: pip install "dao-ase[matcalc]"')
pytestmark = pytest.mark.filterwarnings("ignore")  # of matcalc and the libraries under it


@pytest.fixture(scope="module")
def calculator() -> DAOCalculator:
    return DAOCalculator(dtype="float64")


@pytest.fixture(scope="module")
def relaxed(calculator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return matcalc.RelaxCalc(calculator, fmax=0.001).calc(bulk("Si"))


def test_relaxation(relaxed, calculator):
    structure = relaxed["final_structure"]
    assert structure.volume == pytest.approx(40, rel=0.1)
    atoms = structure.to_ase_atoms()
    atoms.calc = calculator
    assert relaxed["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert np.abs(atoms.get_stress()).max() < 1e-3


def test_equation_of_state(relaxed, calculator):
    found = matcalc.EOSCalc(calculator, relax_structure=False, n_points=7, max_abs_strain=0.03).calc(relaxed)
    assert 20 < found["bulk_modulus_bm"] < 150
    assert len(found["eos"]["energies"]) >= 7


def test_elasticity(relaxed, calculator):
    found = matcalc.ElasticityCalc(
        calculator, relax_structure=False, norm_strains=(-0.005, 0.005), shear_strains=(-0.01, 0.01), units_GPa=True
    ).calc(relaxed)
    tensor = np.asarray(found["elastic_tensor"].voigt)
    assert np.allclose(tensor, tensor.T, atol=2)
    assert tensor[0, 0] == pytest.approx(tensor[1, 1], rel=0.02)
    assert found["bulk_modulus_vrh"] == pytest.approx((tensor[0, 0] + 2 * tensor[0, 1]) / 3, rel=0.02)


def test_phonons(relaxed, calculator):
    found = matcalc.PhononCalc(
        calculator, relax_structure=False, supercell_matrix=2 * np.eye(3), write_phonon=False
    ).calc(relaxed)
    phonon = found["phonon"]
    phonon.run_qpoints([[0, 0, 0]])
    frequencies = np.sort(phonon.qpoints.frequencies[0])
    assert np.abs(frequencies[:3]).max() < 0.1
    assert np.ptp(frequencies[3:]) < 0.1
    assert frequencies[3] > 5
