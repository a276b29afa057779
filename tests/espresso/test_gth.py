"""GTH pseudopotentials: from CP2K's list into pw.x's form and back, and the cutoff that their tails ask for."""

import math

import pytest

from dao_ase.espresso.gth import cutoff, end, from_list, read_gth
from pseudo import LIST


def test_numbers_stand_as_pw_x_reads_them():
    name, text = from_list(LIST, "Os", 76)
    lines = text.splitlines()
    assert name == "Os_GTH-PBE-q16.gth" and lines[1:4] == ["76 16 0", "10 11 2 0 0 0", "0.52 2 13.46303008 -2.24116983"]
    assert lines[4:8] == ["3", "0.39012207 3 -3.27416829 2.36003137 3.61101851", "2.82653464 -9.32360969", "7.40038577"]
    assert lines[8:12] == ["0.34945025 2 -6.89928214 7.52931882", "-8.90881017", "0 0", "0"]  # no spin-orbit coupling
    found = read_gth(text)
    assert found.atomic_number == 76 and found.is_pbe and found.ecutwfc == pytest.approx(110.59, abs=0.01)


def test_without_projectors_the_local_part_sets_the_cutoff():
    name, text = from_list(LIST, "H", 1)
    assert name == "H_GTH-PBE-q1.gth" and text.splitlines()[2:] == [
        "10 11 0 0 0 0",
        "0.2 2 -4.17890044 0.72446331",
        "0",
        "0.2 0",
    ]
    assert read_gth(text).ecutwfc == pytest.approx((end(2) / 0.4) ** 2)


@pytest.mark.parametrize("element", ["O", "S", "Os GTH"])
def test_element_that_is_not_in_the_list(element):
    assert from_list(LIST, element, 8) is None


def test_other_functional_and_comments():
    text = "x\n 14.0 4.0 10605 zatom,zion,pspdat\n 10 1 1 0 2001 0 pspcod,pspxc,lmax,lloc,mmax,r2well\n"
    found = read_gth(text + "0.44 1 -7.3 rloc\n 2 nnonloc\n 0.42 1 5.9 rs\n 0.48 1 2.7 rp\n 0.0 kp\n")
    assert not found.is_pbe and found.atomic_number == 14
    assert found.ecutwfc == pytest.approx(max(end(0) / 0.42, end(1) / 0.48) ** 2)


@pytest.mark.parametrize("power", range(6))
def test_tail_has_fallen_to_a_twentieth(power):
    def height(x):
        return x**power * math.exp(-x * x / 2)

    assert height(end(power)) == pytest.approx(0.05 * height(math.sqrt(power)), rel=1e-6) and end(power) > math.sqrt(
        power
    )
    assert cutoff(0.5, 0, []) == 0.0
