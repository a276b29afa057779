"""What is read from outputs of pw.x 6.7; the files in printed/ are from real runs on two atoms of silicon."""

from pathlib import Path

import numpy as np
import pytest

from dao_ase.espresso.output import RYDBERG, parse, seconds

PRINTED = Path(__file__).parent / "printed"


def printed(name: str):
    return parse((PRINTED / f"{name}.pwo").read_text())


def test_scf_has_energy_forces_stress_and_counts():
    found = printed("scf")
    assert (found.version, found.ranks, found.k_points, found.electrons) == ("6.7MaX", 1, 8, 8.0)
    assert found.done and found.scf_converged and not found.out_of_time
    assert found.final.energy == pytest.approx(-20.42554 * RYDBERG, abs=1e-3)
    assert found.scf_iterations == len(found.final.accuracies) == 4
    assert found.final.accuracies[-1] < 1e-4 < found.final.accuracies[0]
    assert found.final.forces.shape == (2, 3) and np.abs(found.final.forces).max() < 1e-3
    # 5.5 Å is more than silicon's 5.48 Å in PBE: it is pulled, and ASE's sign is positive then
    assert 0.003 < np.trace(found.final.stress) / 3 < 0.01


def test_relaxation_is_a_path_downhill():
    found = printed("vc_relax")
    energies = [step.energy for step in found.steps[:-1]]
    assert len(found.steps) == 5 and found.relaxed
    assert energies == sorted(energies, reverse=True)
    assert found.scf_iterations == sum(len(step.accuracies) for step in found.steps) == 23
    volumes = [abs(np.linalg.det(step.lattice)) for step in found.steps]
    assert volumes[0] == pytest.approx(5.5**3 / 4, rel=1e-5) and volumes[-1] < volumes[0]
    np.testing.assert_allclose(
        found.final.positions[1] - found.final.positions[0], found.final.lattice.sum(0) / 4, atol=1e-3
    )


def test_times_are_those_of_the_program():
    found = printed("scf")
    assert 0 < found.processor_seconds <= found.wall_seconds


@pytest.mark.parametrize(
    ("clock", "value"),
    [("1.69s", 1.69), ("1m20.5s", 80.5), (" 2m 3.41s ", 123.41), ("1h 2m", 3720.0), ("1d 1h 1m", 90060.0)],
)
def test_clock(clock, value):
    assert seconds(clock) == value


def test_clock_that_is_none():
    with pytest.raises(ValueError, match=r"is not a time that pw\.x writes"):
        seconds("soon")


def test_ends_are_told_apart():
    assert printed("stopped").out_of_time and printed("stopped").done and len(printed("stopped").steps) == 1
    assert not printed("unconverged").scf_converged and not printed("unconverged").steps
    assert not printed("failed").done and "smearing nonsense unknown" in printed("failed").message
    assert printed("unrelaxed").done and not printed("unrelaxed").relaxed and printed("unrelaxed").steps


@pytest.mark.parametrize(
    "words",
    [
        "     Damped Dynamics: convergence achieved in  12 steps\n",
        "     FIRE: convergence achieved in  9 steps\n",
        "     Wentzcovitch Damped Dynamics:\n     convergence achieved, Efinal=    -22.83123456\n",
    ],
)
def test_relaxed_by_another_way_than_bfgs(words):
    text = (PRINTED / "unrelaxed.pwo").read_text()
    assert parse(text + words).relaxed and not parse(text).relaxed


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 0.97])
def test_output_that_ends_in_the_middle(share):
    text = (PRINTED / "vc_relax.pwo").read_text()
    found = parse(text[: int(share * len(text))])
    assert not found.done and found.processor_seconds is None
    assert len(found.steps) <= 5 and all(np.isfinite(step.energy) for step in found.steps)
