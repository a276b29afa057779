"""Molecular dynamics: what must be conserved is, what is written can be continued, what flies apart is told."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedLine, FixedPlane, FixSymmetry, Hookean
from ase.io.trajectory import Trajectory, TrajectoryWriter

from dao_ase.calculator import DAOCalculator
from dao_ase.simulate.dynamics import BlowUpError, run_dynamics
from dao_ase.simulate.trajectory import DynamicsSettings, read_dynamics, summarise
from named import MorsePotential

ARGON = bulk("Ar", "fcc", a=4.1, cubic=True)


def calculator() -> DAOCalculator:
    return DAOCalculator(MorsePotential(depth=0.05, distance=2.9), dtype="float64")


def run(path, steps, atoms=ARGON, **settings):
    return list(run_dynamics(atoms, calculator(), steps, path, DynamicsSettings(**settings)))


def test_energy_is_conserved_and_the_trajectory_says_the_same(tmp_path):
    seen = run(tmp_path / "a.traj", 200, ensemble="nve", temperature=100, timestep=2)
    assert [one.step for one in seen] == list(range(0, 201, 10))
    assert seen[-1].time == pytest.approx(0.4)
    assert np.ptp([one.total for one in seen]) / len(ARGON) < 1e-3
    settings, read = read_dynamics(tmp_path / "a.traj")
    assert settings == DynamicsSettings("nve", 100, 2)
    assert read == seen
    summary = summarise(seen, len(ARGON))
    assert summary["time_ps"] == pytest.approx(0.4)
    assert abs(summary["total_energy_drift_meV_atom_ps"]) < 1
    assert summary["volume"]["mean"] == pytest.approx(ARGON.get_volume())


def test_a_continued_run_equals_one_that_was_not_interrupted(tmp_path):
    settings = {"ensemble": "nve", "temperature": 200}
    whole = run(tmp_path / "whole.traj", 60, **settings)
    first = run(tmp_path / "parts.traj", 20, **settings)
    with open(tmp_path / "parts.traj", "ab") as file:
        file.write(b"half a frame, because the machine went down")
    second = run(tmp_path / "parts.traj", 60, **settings)
    assert [one.step for one in [*first, *second]] == [one.step for one in whole]
    assert np.allclose([one.total for one in [*first, *second]], [one.total for one in whole], atol=1e-10)
    assert len(read_dynamics(tmp_path / "parts.traj")[1]) == 7
    assert run(tmp_path / "parts.traj", 60, **settings) == []


def test_thermostat_and_barostat_reach_their_targets(tmp_path):
    atoms = ARGON * (2, 2, 1)
    warm = run(tmp_path / "nvt.traj", 240, atoms, ensemble="nvt", temperature=150, damping=40, timestep=4, interval=4)
    assert np.mean([one.temperature for one in warm[20:]]) == pytest.approx(150, rel=0.25)
    pressed = run(tmp_path / "npt.traj", 240, atoms, ensemble="npt", temperature=50, pressure=1, damping=40, timestep=4)
    assert np.mean([one.pressure for one in pressed[8:]]) == pytest.approx(1.0, abs=0.5)
    assert pressed[-1].volume != pressed[0].volume


def test_a_continued_thermostat_draws_new_noise(tmp_path):
    first = run(tmp_path / "a.traj", 20)
    second = run(tmp_path / "a.traj", 40)
    assert len({one.kinetic for one in [*first, *second]}) == 5


def test_the_first_noise_is_not_that_of_the_velocities(tmp_path):
    run(tmp_path / "a.traj", 1, ARGON * (2, 2, 1), temperature=100, damping=40, interval=1)
    with Trajectory(tmp_path / "a.traj") as file:
        before, after = (frame.get_momenta().ravel() for frame in file)
    assert abs(np.corrcoef(before, after - before)[0, 1]) < 0.5


def test_atoms_at_rest_get_velocities(tmp_path):
    resting = ARGON.copy()
    resting.set_momenta(np.zeros((4, 3)))  # as the CONTCAR of a relaxation has them
    settings = {"ensemble": "nve", "temperature": 100}
    assert run(tmp_path / "a.traj", 10, resting, **settings) == run(tmp_path / "b.traj", 10, **settings)
    assert len(run(tmp_path / "a.traj", 20, resting, **settings)) == 1


def test_frames_keep_what_other_programs_begin_with(tmp_path):
    iron = bulk("Fe", cubic=True)
    iron.set_initial_magnetic_moments([2, -2])
    iron.set_initial_charges([1, -1])
    for steps in (10, 20):
        list(run_dynamics(iron, DAOCalculator(), steps, tmp_path / "a.traj"))
    with Trajectory(tmp_path / "a.traj") as file:
        for atoms in file:
            assert atoms.get_initial_magnetic_moments().tolist() == [2, -2]
            assert atoms.get_initial_charges().tolist() == [1, -1]


def test_a_barostat_keeps_the_temperature_of_few_atoms(tmp_path):
    atoms = bulk("Ar", "fcc", a=4.1) * (2, 1, 1)
    atoms.set_momenta([[1.5, 0.2, 0.0], [0.5, -0.3, 0.4]])
    settings = {"ensemble": "npt", "temperature": 50, "damping": 40, "timestep": 4, "interval": 2}
    seen = run(tmp_path / "a.traj", 500, atoms, **settings)
    with Trajectory(tmp_path / "a.traj") as file:
        assert np.allclose(file[-1].get_momenta().sum(0), 0, atol=1e-6)
    assert np.mean([one.kinetic for one in seen[25:]]) == pytest.approx(1.5 * units.kB * 50, rel=0.3)
    assert np.mean([one.temperature for one in seen[25:]]) == pytest.approx(50, rel=0.3)
    with pytest.raises(ValueError, match="a single atom moves with all its images"):
        run(tmp_path / "b.traj", 10, bulk("Ar", "fcc", a=4.1), **settings)


def test_molecules_have_no_pressure_and_no_npt(tmp_path):
    water = molecule("H2O")
    seen = run(tmp_path / "a.traj", 10, water, temperature=50)
    assert np.isnan(seen[-1].pressure)
    assert summarise(seen, 3)["pressure"] is None
    with pytest.raises(ValueError, match="periodic in three directions"):
        run(tmp_path / "b.traj", 10, water, ensemble="npt")


def test_other_masses_or_constraints_are_another_run(tmp_path):
    fixed, heavy = ARGON.copy(), ARGON.copy()
    fixed.set_constraint(FixAtoms([0]))
    heavy.set_masses(2 * ARGON.get_masses())
    run(tmp_path / "free.traj", 10)
    for atoms in (fixed, heavy):
        with pytest.raises(ValueError, match="other masses or constraints"):
            run(tmp_path / "free.traj", 20, atoms)
    run(tmp_path / "fixed.traj", 10, fixed)
    assert len(run(tmp_path / "fixed.traj", 20, fixed)) == 1
    with pytest.raises(ValueError, match="other masses or constraints"):
        run(tmp_path / "fixed.traj", 30)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (FixedLine(0, [1, 0, 0]), FixedLine(0, [0, 1, 0])),
        (FixedPlane(0, [1, 0, 0.3]), FixedPlane(0, [0, 1, 0.3])),
        (FixCartesian(0, (True, False, False)), FixCartesian(0, (False, True, False))),
        (FixBondLengths([[0, 1]]), FixBondLengths([[2, 3]])),
    ],
)
def test_a_constraint_is_more_than_the_atoms_that_it_names(tmp_path, first, other):
    held, otherwise = ARGON.copy(), ARGON.copy()
    held.set_constraint(first)
    otherwise.set_constraint(other)
    run(tmp_path / "a.traj", 10, held)
    assert len(run(tmp_path / "a.traj", 20, held)) == 1
    with pytest.raises(ValueError, match="other masses or constraints"):
        run(tmp_path / "a.traj", 30, otherwise)


def test_what_a_constraint_adds_to_the_energy_is_not_taken_for_another_potential(tmp_path):
    tied = ARGON.copy()
    tied.set_constraint(Hookean(0, 1, k=5.0, rt=2.0))
    first = run(tmp_path / "parts.traj", 20, tied, ensemble="nve")
    second = run(tmp_path / "parts.traj", 40, tied, ensemble="nve")
    whole = run(tmp_path / "whole.traj", 40, tied, ensemble="nve")
    assert np.allclose([one.total for one in [*first, *second]], [one.total for one in whole], atol=1e-10)
    assert read_dynamics(tmp_path / "whole.traj")[1] == whole


def test_other_velocities_are_another_run(tmp_path):
    moving, otherwise = ARGON.copy(), ARGON.copy()
    moving.set_constraint(FixAtoms([0]))
    otherwise.set_constraint(FixAtoms([0]))
    moving.set_momenta(np.ones((4, 3)), apply_constraint=False)
    otherwise.set_momenta(2 * np.ones((4, 3)))
    run(tmp_path / "a.traj", 10, moving)
    assert len(run(tmp_path / "a.traj", 20, moving)) == 1
    with pytest.raises(ValueError, match="began with other velocities"):
        run(tmp_path / "a.traj", 30, otherwise)


def test_what_cannot_move_leaves_no_file(tmp_path):
    held, symmetric = ARGON.copy(), ARGON.copy()
    held.set_constraint(FixAtoms(range(4)))
    symmetric.set_constraint(FixSymmetry(symmetric))
    for atoms, reason in ((held, "every atom is fixed"), (symmetric, "no temperature .* FixSymmetry")):
        with pytest.raises(ValueError, match=reason):
            run(tmp_path / "a.traj", 10, atoms)
    assert not list(tmp_path.iterdir())


def test_what_is_refused_is_refused_before_the_first_step(tmp_path):
    for steps, settings in ((15, None), (10, DynamicsSettings("npt"))):
        with pytest.raises(ValueError, match=r"not a multiple|periodic in three directions"):
            run_dynamics(molecule("H2O"), calculator(), steps, tmp_path / "a.traj", settings)


def test_two_runs_do_not_write_to_one_trajectory(tmp_path):
    path = tmp_path / "a.traj"
    first, second = (run_dynamics(ARGON, calculator(), 20, path) for _ in range(2))
    next(first)
    with pytest.raises(ValueError, match=r"another run is writing to .*a\.traj"):
        run(path, 20)
    first.close()
    with pytest.raises(ValueError, match=r"written to .* meanwhile"):
        next(second)
    assert len(run(path, 20)) == 2


def test_a_calculator_without_stress_has_no_pressure(tmp_path):
    seen = list(run_dynamics(ARGON, _Weightless(), 20, tmp_path / "a.traj"))
    assert np.isnan(seen[-1].pressure) and seen[-1].volume > 0
    assert len(read_dynamics(tmp_path / "a.traj")[1]) == 3
    assert summarise(seen, len(ARGON))["pressure"] is None
    with pytest.raises(ValueError, match="gives no stress, which npt needs"):
        run_dynamics(ARGON, _Weightless(), 20, tmp_path / "b.traj", DynamicsSettings("npt"))


class _Weightless(Calculator):
    """No energy, no forces, and no stress at all."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE declares them)

    def calculate(self, *arguments, **settings):
        super().calculate(*arguments, **settings)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


def test_an_interrupt_before_the_first_frame_leaves_nothing_in_the_way(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrajectoryWriter, "write", interrupted)
        run(tmp_path / "a.traj", 10)
    assert len(run(tmp_path / "a.traj", 10)) == 2


def test_an_interrupt_within_a_frame_leaves_nothing_of_it(tmp_path, monkeypatch):
    """As by Ctrl-C: what ASE has of the frame must not be written when the file is closed."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole.traj", 30, ensemble="nve")
    frames = run_dynamics(ARGON, calculator(), 30, tmp_path / "a.traj", DynamicsSettings(ensemble="nve"))
    seen = [next(frames), next(frames)]
    with monkeypatch.context() as patch:
        patch.setattr("dao_ase.calculator.DAOCalculator.todict", interrupted)  # when the positions are written
        with pytest.raises(KeyboardInterrupt):
            next(frames)
    assert read_dynamics(tmp_path / "a.traj")[1] == seen
    seen += run(tmp_path / "a.traj", 30, ensemble="nve")
    assert [one.step for one in seen] == [0, 10, 20, 30]
    assert seen[-1].total == pytest.approx(whole[-1].total, abs=1e-9)


def test_a_barostat_takes_no_constraints(tmp_path):
    held = ARGON.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="some atoms are constrained; npt moves all of them"):
        run(tmp_path / "a.traj", 10, held, ensemble="npt")


def test_blow_up_keeps_what_was_good(tmp_path):
    close = Atoms("Ar2", positions=[[0, 0, 0], [3.0, 0, 0]], cell=20 * np.eye(3), pbc=True)
    with pytest.raises(BlowUpError, match="blew up between step 10 and 20"):
        list(run_dynamics(close, _Exploding(20), 100, tmp_path / "a.traj", DynamicsSettings("nve", timestep=1.0)))
    assert [one.step for one in read_dynamics(tmp_path / "a.traj")[1]] == [0, 10]


def test_atoms_without_an_energy_leave_no_file(tmp_path):
    fused = Atoms("Ar2", positions=np.zeros((2, 3)), cell=20 * np.eye(3), pbc=True)
    with pytest.raises(ValueError, match="0 Å apart"):
        list(run_dynamics(fused, calculator(), 10, tmp_path / "a.traj"))
    assert not (tmp_path / "a.traj").exists()


class _Exploding(DAOCalculator):
    """Forgets what a force is after some calls."""

    def __init__(self, calls: int) -> None:
        super().__init__(MorsePotential(), dtype="float64")
        self.calls = calls

    def calculate(self, *arguments, **settings):
        super().calculate(*arguments, **settings)
        self.calls -= 1
        if self.calls < 0:
            self.results["forces"] = self.results["forces"] * 1e6 + 1e6


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ensemble": "nph"}, "none of nve"),
        ({"temperature": -1.0}, "thermostat needs a positive one"),
        ({"temperature": float("nan")}, "temperature is nan; it must be a finite number"),
        ({"timestep": 0.0}, "timestep is 0.0; it must be positive"),
        ({"pressure": 1.0}, "needs the ensemble npt"),
        ({"damping": 0.1}, r"damping is 0\.1 fs with a timestep of 1 fs; a thermostat needs a damping of 2 timesteps"),
        ({"seed": -1}, "the seed is -1; it must not be negative"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        DynamicsSettings(**settings)


def test_another_run_is_not_continued(tmp_path):
    run(tmp_path / "a.traj", 10)
    with pytest.raises(ValueError, match=r"other settings \(temperature 300\.0\)"):
        run(tmp_path / "a.traj", 20, temperature=400.0)
    with pytest.raises(ValueError, match="not of Cu4"):
        run(tmp_path / "a.traj", 20, bulk("Cu", cubic=True))
    with pytest.raises(ValueError, match="not a multiple"):
        run(tmp_path / "b.traj", 15)
    with pytest.raises(ValueError, match="began with another geometry"):
        run(tmp_path / "a.traj", 20, bulk("Ar", "fcc", a=4.2, cubic=True))
    with pytest.raises(ValueError, match="another potential"):
        list(run_dynamics(ARGON, DAOCalculator(MorsePotential(depth=0.5)), 20, tmp_path / "a.traj"))
    with pytest.raises(ValueError, match="steps is -10; it must not be negative"):
        run(tmp_path / "b.traj", -10)
    (tmp_path / "c.traj").write_text("no trajectory")
    with pytest.raises(ValueError, match="delete it to begin anew"):
        run(tmp_path / "c.traj", 10)


@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.01])
def test_a_file_that_was_cut_is_named(tmp_path, share):
    path = tmp_path / "a.traj"
    run(path, 30)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"a\.traj is no trajectory that can be continued .* delete it to begin anew"):
        run(path, 40)
