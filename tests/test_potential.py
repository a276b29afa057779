"""The potential is one smooth energy: exact derivatives, no dependence on what is not physics. Random weights suffice."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from scipy.spatial.transform import Rotation

from dao_ase.calculator import DAOCalculator
from dao_ase.derivatives import predict_crystals
from dao_ase.pair_geometry import BLIND
from dao_ase.potential import Potential, zbl
from named import ENERGY_TOLERANCE, FORCE_TOLERANCE, NAMED, random_potential, rattled, skewed, to_crystals

STEP = 1e-5
CRYSTALS = ["silicon", "salt", "caesium", "skewed"]


EVERY_SCALAR = {"aligned": True, "legendre": True, "logarithms": True}


@pytest.fixture(scope="module", params=[{}, EVERY_SCALAR], ids=["powers", "every scalar"])
def model(request) -> Potential:
    return random_potential(**request.param)


def energy_of(model: Potential, atoms: Atoms) -> float:
    return float(predict_crystals(model, to_crystals(atoms)).energy)


@pytest.mark.parametrize("name", CRYSTALS)
def test_forces_are_finite_differences(model, name):
    atoms = NAMED[name]
    forces = predict_crystals(model, to_crystals(atoms)).forces
    for atom, axis in [(0, 0), (len(atoms) - 1, 2)]:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * STEP
            energies.append(energy_of(model, moved))
        numeric = -(energies[0] - energies[1]) / (2 * STEP)
        assert abs(numeric - float(forces[atom, axis])) < FORCE_TOLERANCE["float64"]


@pytest.mark.parametrize("name", CRYSTALS)
def test_stress_is_a_finite_difference(model, name):
    atoms = NAMED[name]
    stress = predict_crystals(model, to_crystals(atoms)).stress[0]
    for row, column in [(0, 0), (1, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * STEP / 2
            strain[column, row] += sign * STEP / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(energy_of(model, strained))
        numeric = (energies[0] - energies[1]) / (2 * STEP) / atoms.get_volume()
        assert abs(numeric - float(stress[row, column])) < FORCE_TOLERANCE["float64"]


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_no_physics_changes_nothing(name, dtype):
    model = random_potential().to({"float32": torch.float32, "float64": torch.float64}[dtype])
    atoms, rng = NAMED[name], np.random.default_rng(1)
    matrix = Rotation.random(random_state=1).as_matrix()
    order = rng.permutation(len(atoms))
    rotated, shifted, left = atoms.copy(), atoms.copy(), atoms.copy()
    rotated.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
    shifted.positions += [0.3, 7.0, -11.0]
    left.set_cell(atoms.cell.array * [[1], [1], [-1]])
    other_cell = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, -3, 1]])
    supercell = atoms * (2, 1, 3)
    batch = to_crystals(atoms, rotated, shifted, left, other_cell, atoms[order], supercell)
    predicted = predict_crystals(model, batch)
    per_atom = predicted.energy / batch.num_atoms
    assert (per_atom - per_atom[0]).abs().max() < ENERGY_TOLERANCE[dtype]
    forces = [part.double().numpy() for part in predicted.forces.split(batch.num_atoms.tolist())]
    for found, expected in [
        (forces[1], forces[0] @ matrix),
        (forces[2], forces[0]),
        (forces[3], forces[0]),
        (forces[5], forces[0][order]),
        (forces[6], np.tile(forces[0], (6, 1))),
    ]:
        assert np.abs(found - expected).max() < FORCE_TOLERANCE[dtype] * max(1, np.abs(expected).max())
    stress = predicted.stress.double().numpy()
    assert np.abs(stress[6] - stress[0]).max() < FORCE_TOLERANCE[dtype] * max(1, np.abs(stress[0]).max())
    assert np.abs(stress[1] - matrix.T @ stress[0] @ matrix).max() < FORCE_TOLERANCE[dtype] * max(
        1, np.abs(stress[0]).max()
    )


def test_batch_equals_one_by_one(model):
    structures = list(NAMED.values())
    batch = predict_crystals(model, to_crystals(*structures))
    small = predict_crystals(model, to_crystals(*structures), slots=1)
    alone = [predict_crystals(model, to_crystals(atoms)) for atoms in structures]
    for name in ("energy", "energies", "forces", "stress"):
        expected = torch.cat([getattr(one, name) for one in alone])
        assert torch.allclose(getattr(batch, name), expected, atol=1e-10)
        assert torch.allclose(getattr(small, name), expected, atol=1e-10)


@pytest.mark.parametrize("others", [[], [[2.2, 0.3, 0.1], [-1.5, 1.9, 0.4]]])
def test_nothing_jumps_where_an_atom_crosses_the_cutoff(model, others):
    """Energy, force and curvature of a pair, alone or beside other atoms, on both sides of its cutoff."""
    cutoff = float(model.pair_cutoff(torch.tensor(14), torch.tensor(8)))

    def at(distance: float) -> tuple[float, float]:
        atoms = Atoms("SiO" + "C" * len(others), positions=[[0, 0, 0], [0, 0, distance], *others])
        atoms.calc = calculator
        return atoms.get_potential_energy(), atoms.get_forces()[1, 2]

    calculator = DAOCalculator(model, dtype="float64")
    for step in (1e-3, 1e-5):
        inside, outside = at(cutoff - step), at(cutoff + step)
        assert abs(inside[0] - outside[0]) < 10 * step**3
        assert abs(inside[1] - outside[1]) < 100 * step**2


def test_far_apart_is_alone(model):
    """A molecule, an atom 30 Å away, and both together."""
    calculator = DAOCalculator(model, dtype="float64")
    water = Atoms("OH2", positions=[[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    atom = Atoms("Cs", positions=[[30, 0, 0]])
    both = water + atom
    energies = []
    for atoms in (water, atom, both):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    assert energies[2] == pytest.approx(energies[0] + energies[1], abs=1e-10)
    assert np.abs(both.get_forces()[3]).max() == 0


def test_nuclei_repel_without_bound(model):
    energies = []
    for distance in (0.6, 0.3, 0.15, 0.06):
        atoms = Atoms("CO", positions=[[0, 0, 0], [0, 0, distance]])
        atoms.calc = DAOCalculator(model, dtype="float64")
        energies.append(atoms.get_potential_energy())
    assert np.all(np.diff(energies) > 0)
    assert energies[-1] > 1000


def test_screened_repulsion():
    """Two silicon nuclei 1 Å apart: x = 1/a with a = 0.4685/(2·14^0.23) Å, e² = 14.3996 eV Å."""
    x = 2 * 14**0.23 / 0.46850
    screening = sum(
        c * np.exp(-d * x) for c, d in [(0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162)]
    )
    number = torch.tensor(14.0, dtype=torch.float64)
    assert float(zbl(torch.ones((), dtype=torch.float64), number, number)) == pytest.approx(14.399645 * 196 * screening)


@pytest.mark.parametrize("part", [0.15, BLIND])
def test_no_two_elements_ever_fuse(part):
    """What is learnt of close pairs cannot outweigh the repulsion of nuclei: it does not see how close they are."""
    trained = DAOCalculator().model
    pairs = [(a, b) for a in trained.elements for b in (1, 8, 9, 14, 55, 79)]
    distances = [part * float(trained.radii[a] + trained.radii[b]) for a, b in pairs]
    dimers = [
        Atoms(pair, positions=[[0, 0, 0], [0, 0, distance]], cell=[15, 15, 15], pbc=True)
        for pair, distance in zip(pairs, distances, strict=True)
    ]
    assert predict_crystals(trained, to_crystals(*dimers)).forces[1::2, 2].min() > 0


def test_default_model_is_small():
    assert sum(weight.numel() for weight in Potential().parameters()) <= 3_000_000


def test_angles_are_seen(model):
    """Equal distances to two neighbours, at 80° and at 100°: other energies, though no pair of neighbours is in reach."""
    energies = []
    for angle in (80, 100, 120):
        radians = np.deg2rad(angle)
        atoms = Atoms("CsH2", positions=[[0, 0, 0], [3.6, 0, 0], [3.6 * np.cos(radians), 3.6 * np.sin(radians), 0]])
        atoms.calc = DAOCalculator(model, dtype="float64")
        energies.append(atoms.get_potential_energies()[0])
    assert abs(energies[0] - energies[1]) > 1e-6
    assert abs(energies[1] - energies[2]) > 1e-6


def test_neighbors_of_large_atoms_reach_further(model):
    assert model.max_cutoff(torch.tensor([8, 55])) > 6 > model.max_cutoff(torch.tensor([8, 6]))
    assert np.abs(predict_crystals(model, to_crystals(skewed())).forces.numpy()).max() > 0


@pytest.mark.parametrize("slots", [1, 300, 100_000])
def test_a_batch_gives_each_crystal_what_it_gets_alone(slots):
    """Crystals are evaluated in the order of their neighbours; their answers come in the order in which they were given."""
    model = random_potential()
    atoms = [
        rattled(NAMED[name], seed=seed) for seed, name in enumerate(["copper", "salt", "caesium", "skewed", "copper"])
    ]
    together = predict_crystals(model, to_crystals(*atoms), slots=slots)
    alone = [predict_crystals(model, to_crystals(one)) for one in atoms]
    for name in ("energy", "energies", "forces", "virial", "volume", "stress"):
        assert torch.allclose(getattr(together, name), torch.cat([getattr(one, name) for one in alone]), atol=1e-9), (
            name
        )
