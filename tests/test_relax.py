"""Relaxation in batches: every crystal ends where it would end alone, and none disturbs another."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from dao_ase.calculator import DAOCalculator
from dao_ase.crystals import Crystals
from dao_ase.relax import relax
from dao_ase.symmetry import SymmetryOperations, space_group
from dao_ase.units import GPA
from named import MorsePotential, rattled, to_crystals

MODEL = MorsePotential().requires_grad_(False)
COPPER, HCP = bulk("Cu", cubic=True, a=3.5), bulk("Mg", "hcp", a=2.8, c=4.5)


def one(atoms: Atoms, **settings):
    return relax(to_crystals(atoms), MODEL, **settings)[0]


def group_of(frame, numbers) -> str:
    return space_group(frame.lattice, frame.positions @ np.linalg.inv(frame.lattice), numbers)


def test_relaxes_to_where_ase_relaxes():
    atoms = rattled(COPPER, 0.08)
    result = one(atoms, fmax=1e-4)
    atoms.calc = DAOCalculator(MODEL, dtype="float64")
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=500)
    assert result.converged
    assert result.reason == "converged"
    assert result.final.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    assert result.final.volume == pytest.approx(atoms.get_volume(), rel=1e-3)
    assert result.final.max_force < 1e-4
    assert result.start.energy > result.final.energy


def test_final_frame_is_what_the_calculator_says():
    result = one(rattled(HCP, 0.05), fmax=0.01)
    atoms = HCP.copy()
    atoms.set_cell(result.final.lattice)
    atoms.positions = result.final.positions
    atoms.calc = DAOCalculator(MODEL, dtype="float64")
    assert atoms.get_potential_energy() == pytest.approx(result.final.energy, abs=1e-9)
    assert np.allclose(atoms.get_forces(), result.final.forces, atol=1e-9)
    assert -np.trace(atoms.get_stress(voigt=False)) / 3 * GPA == pytest.approx(result.final.pressure, abs=1e-6)


def test_pressure_is_reached():
    result = one(rattled(COPPER), fmax=1e-3, pressure=5.0)
    assert result.final.pressure == pytest.approx(5.0, abs=0.1)
    assert result.final.volume < one(rattled(COPPER), fmax=1e-3).final.volume


def test_cell_modes():
    fixed = one(rattled(HCP), fmax=1e-3, cell="none")
    assert np.array_equal(fixed.final.lattice, fixed.start.lattice)
    assert fixed.converged
    constant = one(rattled(HCP), fmax=1e-3, cell="volume")
    assert constant.final.volume == pytest.approx(constant.start.volume, rel=1e-10)
    assert not np.allclose(constant.final.lattice, constant.start.lattice)
    stress = constant.final.stress
    assert np.abs(stress - np.trace(stress) / 3 * np.eye(3)).max() * constant.final.volume / 2 < 1e-3


def test_batch_is_as_good_as_alone_whatever_the_order_and_the_size_of_parts():
    structures = [rattled(COPPER, 0.05, seed) for seed in range(3)] + [rattled(HCP, 0.1), bulk("Cu")]
    alone = [one(atoms, fmax=0.005) for atoms in structures]
    for slots in (1, 500, 100_000):
        together = relax(to_crystals(*structures), MODEL, fmax=0.005, slots=slots)
        for first, second in zip(alone, together, strict=True):
            assert (first.converged, first.steps) == (second.converged, second.steps)
            assert np.allclose(first.final.positions, second.final.positions, atol=1e-8)
            assert np.allclose(first.final.lattice, second.final.lattice, atol=1e-8)


def test_one_bad_crystal_touches_no_other():
    good = [rattled(COPPER, 0.05), rattled(HCP, 0.05)]
    coincident = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.001]], cell=4 * np.eye(3), pbc=True)
    crushed = Atoms("Cu2", positions=[[0, 0, 0], [0.1, 0, 0]], cell=4 * np.eye(3), pbc=True)
    nowhere = rattled(COPPER)
    nowhere.positions[0] = np.nan
    flat = Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)
    unknown = Crystals(
        torch.eye(3).double().unsqueeze(0) * 4, torch.zeros(1, 3).double(), torch.tensor([118]), torch.tensor([1])
    )
    parts = [to_crystals(good[0], coincident, good[1]), _with_nan(nowhere), _raw(flat), unknown, to_crystals(crushed)]
    results = relax(Crystals.concatenate(parts), MODEL, fmax=0.01)
    for atoms, result in [(good[0], results[0]), (good[1], results[2])]:
        assert result.converged
        assert np.allclose(result.final.positions, one(atoms, fmax=0.01).final.positions, atol=1e-8)
    reasons = ["are 0.001 Å apart", "not a finite number", "three-dimensional", "contains Og, which is outside"]
    for result, reason in zip([results[1], *results[3:6]], reasons, strict=True):
        assert (result.converged, result.steps, result.final) == (False, 0, None)
        assert reason in result.reason


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_bad_ones_among_many_touch_no_other(count):
    """Each is named with its reason; every other crystal ends where it ends without them."""
    good = to_crystals(*(rattled(bulk("Cu", a=3.6), 0.02, seed) for seed in range(count)))
    twice = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0.001]], cell=4 * np.eye(3), pbc=True)
    empty = Crystals(good.lattice[:1], good.frac_coords[:0], good.atomic_numbers[:0], torch.tensor([0]))
    nameless = Crystals(good.lattice[:1], good.frac_coords[:1], torch.tensor([130]), torch.tensor([1]))
    bad = [empty, nameless, _with_nan(COPPER), to_crystals(twice), _raw(Atoms("Cu", cell=np.zeros((3, 3))))]
    mixed = [good[:30], *bad[:3], good[30:70], *bad[3:], good[70:]]
    alone = relax(good, MODEL, steps=2)
    among = relax(Crystals.concatenate(mixed), MODEL, steps=2)
    reasons = [among[place].reason for place in (30, 31, 32, 73, 74)]
    for reason, expected in zip(
        reasons, ("no atoms", "number 130", "finite", "0.001 Å apart", "three-dimensional"), strict=True
    ):
        assert expected in reason
    rest = among[:30] + among[33:73] + among[75:]
    for first, second in zip(alone, rest, strict=True):
        assert first.reason == second.reason
        assert np.allclose(first.final.positions, second.final.positions, atol=1e-9)
        assert np.allclose(first.final.lattice, second.final.lattice, atol=1e-9)


def test_left_handed_cells_relax_to_the_same_crystal():
    atoms = rattled(HCP, 0.03)
    mirrored = atoms.copy()
    mirrored.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(mirrored.cell.array) < 0
    right, left = one(atoms, fmax=0.005), one(mirrored, fmax=0.005)
    assert left.converged
    assert left.final.energy == pytest.approx(right.final.energy, abs=1e-6)
    assert left.final.volume == pytest.approx(right.final.volume, rel=1e-5)


def _raw(atoms: Atoms) -> Crystals:
    lattice = torch.tensor(atoms.cell.array).unsqueeze(0)
    return Crystals(
        lattice, torch.zeros(len(atoms), 3).double(), torch.tensor(atoms.numbers).long(), torch.tensor([len(atoms)])
    )


def _with_nan(atoms: Atoms) -> Crystals:
    crystal = to_crystals(rattled(COPPER))
    return crystal.replace(frac_coords=crystal.frac_coords + torch.nan)


def test_blow_up_keeps_the_last_good_geometry():
    class Bottomless(MorsePotential):
        """Pulls ever harder, and gives up when the crystal has shrunk."""

        def forward(self, atomic_numbers, vectors, neighbors):
            energies = super().forward(atomic_numbers, vectors, neighbors)
            shortest = vectors.square().sum(-1).masked_fill(~neighbors.present, 100.0).min()
            return energies * torch.where(shortest < 6.2, torch.nan, 1.0)

    result = relax(to_crystals(bulk("Cu", a=3.8)), Bottomless(depth=2.0, distance=2.0).requires_grad_(False))[0]
    assert not result.converged
    assert result.blew_up and "at step" in result.reason
    assert np.isfinite(result.final.energy)
    assert result.final.energy < result.start.energy
    assert result.final.volume > 2.4**3 / 2**0.5


def test_out_of_steps_says_so_and_keeps_the_best():
    result = one(rattled(COPPER, 0.1), fmax=1e-6, steps=3)
    assert (result.converged, result.steps) == (False, 3)
    assert "not converged after 3 steps" in result.reason
    assert "that on the cell" in one(COPPER, fmax=1e-6, steps=1).reason  # the forces are zero by symmetry
    assert result.final.energy <= result.start.energy
    assert one(COPPER, steps=0).steps == 0


def test_the_reason_speaks_of_the_geometry_that_is_given_back():
    dense = rattled(bulk("Cu", cubic=True, a=2.9), 0.1)
    for steps in (11, 12, 13):  # uphill: the best geometry is an earlier one
        result = one(dense, fmax=1e-6, steps=steps)
        assert f"the largest force is {result.final.max_force:.3g} eV/Å" in result.reason


def test_symmetry_is_kept():
    atoms = HCP.copy()
    atoms.set_cell(atoms.cell.array * 1.07, scale_atoms=True)
    result = one(atoms, keep_symmetry=True, fmax=1e-3)
    assert result.converged
    assert group_of(result.start, atoms.numbers) == group_of(result.final, atoms.numbers) == "P6_3/mmc (194)"


def nearly_symmetric(seed: int) -> Atoms:
    """Magnesium whose atoms and cell miss their places by a few thousandths of an Å, as in a file with few digits."""
    atoms, rng = HCP.copy(), np.random.default_rng(seed)
    atoms.positions += 2e-3 * rng.uniform(-1, 1, (len(atoms), 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 3e-4 * rng.uniform(-1, 1, (3, 3))), scale_atoms=True)
    return atoms


@pytest.mark.parametrize("cell", ["full", "volume", "none"])
def test_what_nearly_has_a_symmetry_gets_it(cell):
    """What broke the symmetry would stay for ever, as the forces that act on it are projected out."""
    atoms = nearly_symmetric(0)
    result = one(atoms, keep_symmetry=True, cell=cell, fmax=1e-3)
    assert result.converged
    assert result.final.max_force < 1e-3
    assert np.linalg.norm(result.start.positions - atoms.positions, axis=1).max() < 0.01
    if cell == "none":
        assert np.array_equal(result.final.lattice, atoms.cell.array)
    else:
        lattice, positions = result.final.lattice, result.final.positions
        exact = space_group(lattice, positions @ np.linalg.inv(lattice), atoms.numbers, 1e-5)
        assert exact == "P6_3/mmc (194)"
    if cell == "volume":
        assert result.final.volume == pytest.approx(atoms.get_volume())


def test_what_has_a_symmetry_is_not_moved():
    for atoms in (HCP, COPPER):
        found = SymmetryOperations.find(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
        lattice, coords = found.refined(atoms.cell.array, atoms.get_scaled_positions())
        assert np.allclose(lattice, atoms.cell.array, atol=1e-12)
        assert np.allclose(coords, atoms.get_scaled_positions(), atol=1e-12)


def test_symmetrized_forces_follow_the_group():
    operations = SymmetryOperations.find(COPPER.cell.array, COPPER.get_scaled_positions(), COPPER.numbers)
    assert operations.count == 192
    forces = np.random.default_rng(0).normal(size=(4, 3))
    lattice = COPPER.cell.array
    assert np.abs(operations.symmetrize_vectors(forces, lattice)).max() < 1e-12  # every atom sits on a centre
    tensor = operations.symmetrize_tensor(np.diag([1.0, 2.0, 3.0]), lattice)
    assert np.allclose(tensor, 2 * np.eye(3))
    polar = Atoms("TiO", scaled_positions=[[0, 0, 0], [0, 0, 0.45]], cell=np.diag([4.0, 4.0, 4.4]), pbc=True)
    polar_group = SymmetryOperations.find(polar.cell.array, polar.get_scaled_positions(), polar.numbers)
    kept = polar_group.symmetrize_vectors(np.array([[0.3, 0.1, 1.0], [0.0, 0.2, -2.0]]), polar.cell.array)
    assert np.allclose(kept, [[0, 0, 1], [0, 0, -2]])


def test_a_repeated_cell_has_the_symmetry_of_its_crystal():
    """Each of the 48 rotations comes with as many translations as there are primitive cells: they are not multiplied out."""
    repeated = HCP * (3, 3, 2)
    coords, numbers, lattice = repeated.get_scaled_positions(), repeated.numbers, repeated.cell.array
    found = SymmetryOperations.find(lattice, coords, numbers)
    assert (found.count, len(found.rotations), len(found.translated)) == (24 * 18, 24, 18)
    rng = np.random.default_rng(0)
    assert np.abs(found.symmetrize_vectors(rng.normal(size=(36, 3)), lattice)).max() < 1e-12
    missed = rng.uniform(-2e-3, 2e-3, (36, 3)) @ np.linalg.inv(lattice)
    _, mended = found.refined(lattice, coords + missed)
    off = (mended - coords - (mended - coords).mean(0)) @ lattice
    assert np.abs(off).max() < 1e-12
    assert space_group(lattice, mended, numbers, 1e-8) == "P6_3/mmc (194)"


def test_trajectory_is_recorded_and_callers_are_told():
    told = []
    structures = to_crystals(rattled(COPPER), HCP)
    results = relax(structures, MODEL, record=True, steps=4, on_done=lambda index, result: told.append((index, result)))
    assert sorted(index for index, _ in told) == [0, 1]
    assert len(results[0].trajectory) == results[0].steps + 1
    assert results[0].trajectory[0] is results[0].start


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"fmax": 0.0}, "positive"),
        ({"steps": -1}, "negative"),
        ({"cell": "half"}, "none of"),
        ({"cell": "volume", "pressure": 2.0}, "needs a cell whose volume may change"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        one(COPPER, **settings)


def test_no_crystals_give_no_results():
    empty = to_crystals(COPPER)[[]]
    assert relax(empty, MODEL) == []
