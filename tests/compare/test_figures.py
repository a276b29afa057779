"""The numbers of a comparison: right on crystals whose answer is known, and blind to the zero of energy."""

import numpy as np
import pytest
from ase.build import bulk

from dao_ase.compare import figures
from dao_ase.compare.tasks import structure_of, to_structure
from dao_ase.units import GPA


def test_pressure_of_a_stress():
    errors = figures.stress_errors(np.eye(3) * -0.01, np.zeros((3, 3)))
    assert errors["pressure"] == pytest.approx(0.01 * GPA)
    assert errors["mean"] == pytest.approx(0.01 * GPA / 3)


def test_geometry_of_a_scaled_and_of_another_crystal():
    salt = to_structure(structure_of(bulk("NaCl", "rocksalt", a=5.6)))
    larger = to_structure(structure_of(bulk("NaCl", "rocksalt", a=5.6 * 1.01)))
    found = figures.geometry_errors(larger, salt)
    assert found["rmse"] == pytest.approx(0, abs=1e-6)  # the matcher compares shapes
    assert found["volume"] == pytest.approx(1.01**3 - 1) and found["largest_length"] == pytest.approx(0.01)
    other = to_structure(structure_of(bulk("NaCl", "cesiumchloride", a=3.4)))
    assert figures.geometry_errors(other, salt)["rmse"] is None


@pytest.mark.parametrize("zero", [0.0, -5000.0])
def test_equation_of_state_finds_its_own_parameters(zero):
    volumes = np.array([0.94, 0.97, 1, 1.03, 1.06]) * 20
    modulus, slope, best = 100 / GPA, 4.2, 19.8
    x = (best / volumes) ** (2 / 3)
    energies = zero + 9 * best * modulus / 16 * ((x - 1) ** 3 * slope + (x - 1) ** 2 * (6 - 4 * x))
    fit = figures.equation_of_state(volumes.tolist(), energies.tolist())
    assert fit["volume"] == pytest.approx(best, rel=1e-8)
    assert fit["bulk_modulus"] == pytest.approx(100, rel=1e-8)


def test_equation_of_state_without_a_minimum():
    assert figures.equation_of_state([1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0])["volume"] is None


def test_curves_are_compared_without_their_zeros():
    assert figures.curve_error([1.0, 2.0, 4.0], [101.0, 102.0, 104.0]) == pytest.approx(0)


def test_order_of_polymorphs():
    found = figures.orders({"pw.x": {"a": -10.0, "b": -9.0, "c": -8.0}, "DAO-P": {"a": 3.0, "b": 2.5, "c": 4.0}})
    assert [place["structure"] for place in found[1]["order"]] == ["b", "a", "c"]
    assert (found[1]["agreeing"], found[1]["pairs"]) == (2, 3)
    assert found[1]["order"][1]["energy"] == pytest.approx(500)


def test_what_is_equal_for_the_reference_has_no_order():
    found = figures.orders({"pw.x": {"a": -10.0, "b": -10.0, "c": -8.0}, "DAO-P": {"a": 3.0, "b": 2.9, "c": 4.0}})
    assert [(one["agreeing"], one["pairs"]) for one in found] == [(2, 2), (2, 2)]


def test_ratio_without_a_time():
    assert figures.ratio(10.0, 2.0) == 5 and figures.ratio(None, 2.0) is None and figures.ratio(1.0, 0.0) is None
