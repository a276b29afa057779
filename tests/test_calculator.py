"""DAOCalculator: the model's numbers in ASE's clothes, and clear words for what has no energy."""

import copy
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, get_calculator_class
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from ase.optimize import LBFGS

from dao_ase import checkpoint
from dao_ase.calculator import DAOCalculator, load_potential, save_potential
from dao_ase.checkpoint import CheckpointError
from dao_ase.derivatives import predict_crystals
from named import FORCE_TOLERANCE, NAMED, STATES_OF_TORCH, MorsePotential, random_potential, rattled, to_crystals

MODEL = random_potential()


def calculator(**settings) -> DAOCalculator:
    return DAOCalculator(MODEL, **{"dtype": "float64", **settings})


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_potential(path, MODEL.float(), {"note": "random"})
    MODEL.double()
    return path


@pytest.mark.parametrize("name", NAMED)
def test_calculator_equals_model(name):
    atoms = NAMED[name].copy()
    atoms.calc = calculator()
    predicted = predict_crystals(MODEL, to_crystals(atoms))
    assert atoms.get_potential_energy() == pytest.approx(float(predicted.energy), abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert np.allclose(atoms.get_forces(), predicted.forces, atol=1e-10)
    assert np.allclose(atoms.get_stress(voigt=False), predicted.stress[0], atol=1e-10)
    assert atoms.get_potential_energies().sum() == pytest.approx(float(predicted.energy))


def test_derivatives_by_ases_own_finite_differences():
    atoms = NAMED["skewed"].copy()
    atoms.calc = calculator()
    numeric = calculate_numerical_forces(atoms, eps=1e-5, iatoms=[0, 3])
    assert np.abs(numeric - atoms.get_forces()[[0, 3]]).max() < FORCE_TOLERANCE["float64"]
    assert np.abs(calculate_numerical_stress(atoms, eps=1e-5) - atoms.get_stress()).max() < FORCE_TOLERANCE["float64"]


def test_float32_is_the_default_and_close_to_float64():
    default = DAOCalculator(MODEL)
    assert {weight.dtype for weight in default.model.parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32
    assert next(MODEL.parameters()).dtype == torch.float64  # the caller's model stays as it is
    single, double = NAMED["salt"].copy(), NAMED["salt"].copy()
    single.calc, double.calc = default, calculator()
    assert np.abs(single.get_forces() - double.get_forces()).max() < 1e-3
    assert single.get_potential_energy() == pytest.approx(double.get_potential_energy(), abs=1e-3)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_are_independent_and_equal(duplicate):
    first, second = NAMED["salt"].copy(), NAMED["salt"].copy()
    first.calc = calculator()
    energy = first.get_potential_energy()
    second.calc = duplicate(first.calc)
    assert second.calc.model is not first.calc.model
    second.rattle(0.1)
    assert second.get_potential_energy() != energy
    assert first.get_potential_energy() == energy
    for atoms in second, first:
        atoms.positions[:], atoms.cell[:] = NAMED["salt"].positions * 0.7, NAMED["salt"].cell * 0.7
    assert second.get_potential_energy() == pytest.approx(first.get_potential_energy(), abs=1e-10)


def test_parameters_are_json(weights):
    calc = DAOCalculator(weights, dtype="float64")
    stored = json.loads(json.dumps(calc.parameters))
    assert DAOCalculator(**stored).parameters == calc.parameters
    assert json.loads(json.dumps(calc.todict()))["dtype"] == "float64"


def test_weights_survive_the_disk_to_the_bit(weights):
    loaded = load_potential(weights)
    for name, tensor in MODEL.float().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    MODEL.double()
    atoms, again = NAMED["skewed"].copy(), NAMED["skewed"].copy()
    atoms.calc, again.calc = DAOCalculator(MODEL), DAOCalculator.from_checkpoint(weights)
    assert atoms.get_potential_energy() == again.get_potential_energy()
    assert (atoms.get_forces() == again.get_forces()).all()


def test_weights_of_something_else_are_refused(tmp_path):

    checkpoint.save(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"model": "denoiser"})
    with pytest.raises(CheckpointError, match="not a potential"):
        DAOCalculator(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no weight file"):
        DAOCalculator(tmp_path / "missing.safetensors")


def test_weights_that_do_not_fit_are_named(tmp_path):
    tensors = MODEL.float().state_dict()
    MODEL.double()
    tensors.pop("head.1.weight")
    checkpoint.save(tmp_path / "cut.safetensors", tensors, MODEL.header())
    with pytest.raises(
        CheckpointError, match=r"cut\.safetensors' holds weights of another.* 1 missing, like head\.1\.weight"
    ):
        DAOCalculator(tmp_path / "cut.safetensors")
    checkpoint.save(tmp_path / "vague.safetensors", tensors, {"model": "potential"})
    with pytest.raises(CheckpointError, match=r"vague\.safetensors' has a header .* says nothing of 'config'"):
        DAOCalculator(tmp_path / "vague.safetensors")


WRONG_TYPES = """
from dao_ase import DAOCalculator
for settings in {"skin": None}, {"skin": "0.5"}, {"dtype": ["float32"]}, {"device": ["cpu"]}, {"model": 5}:
    try:
        DAOCalculator(**settings)
    except ValueError as error:
        print(error)
"""


def test_settings_of_another_type_are_refused():
    """In a process of its own, for here the types of all arguments are checked before the functions see them."""
    done = subprocess.run([sys.executable, "-c", WRONG_TYPES], capture_output=True, text=True, check=True)
    assert [line.split(";")[0] for line in done.stdout.splitlines()] == [
        "skin is None",
        "skin is '0.5'",
        "['float32'] is no precision of DAO-P",
        "device ['cpu'] is none that torch knows",
        "model is 5",
    ]


def bad(atoms: Atoms, **changes) -> Atoms:
    for name, value in changes.items():
        setattr(atoms, name, value)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (Atoms(), "no atoms"),
        (Atoms("Si", positions=[[np.nan, 0, 0]], cell=np.eye(3) * 5, pbc=True), r"positions of atoms \[0\]"),
        (Atoms("Si2", positions=[[0, 0, 0], [0, 0, 0]], cell=np.eye(3) * 5, pbc=True), "atoms 0 and 1 are 0 Å apart"),
        (Atoms("Si2", positions=[[0, 0, 0], [5, 0, 0]], cell=np.eye(3) * 5, pbc=True), "atoms 0 and 1 are"),
        (Atoms("Si", pbc=True), "zero or linearly dependent"),
        (Atoms("Si", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True), "zero or linearly dependent"),
        (Atoms("Si", cell=[np.inf, 3, 3], pbc=True), "the cell .* is not made of finite numbers"),
        (Atoms("Si", cell=np.eye(3) * 0.01, pbc=True), "neighbours each need about"),
        (Atoms("H2", positions=[[0, 0, 0], [1e9, 0, 0]]), "farther than 1e\\+08 Å"),
        (Atoms("X"), r"contains X \(ghost atoms\), which is outside"),
        (Atoms(numbers=[118]), "Og, which is outside"),
    ],
)
def test_what_has_no_energy_is_refused_with_the_reason(atoms, reason):
    atoms.calc = calculator()
    with pytest.raises(ValueError, match=reason):
        atoms.get_potential_energy()


def test_a_calculator_without_atoms_asks_for_them():
    with pytest.raises(ValueError, match=r"no atoms yet; give them, as in get_potential_energy\(atoms\)"):
        calculator().get_potential_energy()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dtype": "float16"}, "'float16' is no precision of DAO-P; give one of 'float32', 'float64'"),
        ({"skin": -1.0}, "negative"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"skin": float("nan")}, "negative"),
        ({"device": "abacus"}, "device 'abacus' is none that torch knows"),
        ({"device": "mps"}, "device 'mps' is none that dao-ase computes on"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        DAOCalculator(MODEL, **settings)
    with pytest.raises(ValueError, match=reason):
        DAOCalculator(MODEL).set(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    for make in (DAOCalculator, load_potential):
        with pytest.raises(ValueError, match="device 'cuda' cannot be used: torch sees no GPU here"):
            make(device="cuda")


def test_devices_of_torch_are_devices():
    calculator = DAOCalculator(MODEL, device=torch.device("cpu"))
    calculator.set(device=torch.device("cpu"))
    assert calculator.parameters["device"] == "cpu"  # and not an object that JSON cannot hold
    assert load_potential(device=torch.device("cpu")).reference.device.type == "cpu"


def test_settings_that_are_changed_count():
    atoms = NAMED["salt"].copy()
    atoms.calc = DAOCalculator(dtype="float32", device="cpu")
    rough = atoms.get_potential_energy()
    assert atoms.calc.set(dtype="float64", skin=0.8) == {"dtype": "float64", "skin": 0.8}
    exact = atoms.get_potential_energy()
    assert exact != rough
    assert exact == pytest.approx(rough, abs=1e-4)
    assert exact == DAOCalculator(dtype="float64", device="cpu").get_potential_energy(atoms)
    with pytest.raises(ValueError, match="model cannot be set on a DAOCalculator; make another one"):
        atoms.calc.set(model="other.safetensors")


def test_older_weight_files_are_read(tmp_path):
    """They say of their layers that they are not gated; gated ones can not be computed any more."""
    model = random_potential().float()
    for gated in (False, True):
        header = model.header()
        header["config"]["gated"] = gated
        checkpoint.save(tmp_path / f"{gated}.safetensors", model.state_dict(), header)
    assert load_potential(tmp_path / "False.safetensors").config == model.config
    with pytest.raises(CheckpointError, match="gated additions, which DAO-P no longer has"):
        load_potential(tmp_path / "True.safetensors")


def test_untrained_element_is_named():
    model = random_potential()
    model.trained[94] = False
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.symbols[0] = "Pu"
    atoms.calc = DAOCalculator(model)
    assert "Pu" not in atoms.calc.elements
    with pytest.raises(ValueError, match=r"contains Pu, which is outside the 95 trained elements; see DAOCalculator"):
        atoms.get_potential_energy()


def test_molecules_slabs_and_left_handed_cells_have_an_answer():
    water = molecule("H2O")
    water.calc = calculator()
    forces = water.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="their cell has no volume"):
        water.get_stress()
    boxed = molecule("H2O", vacuum=20)
    boxed.calc = calculator()
    boxed.pbc = True
    assert np.allclose(boxed.get_forces(), forces, atol=1e-10)
    boxed.pbc = [True, False, True]
    assert np.allclose(boxed.get_forces(), forces, atol=1e-10)
    assert boxed.get_stress().shape == (6,)
    left = NAMED["skewed"].copy()
    left.set_cell(left.cell.array * [[1], [1], [-1]])
    right = NAMED["skewed"].copy()
    left.calc = right.calc = calculator()
    assert np.allclose(left.get_stress(), right.get_stress(), atol=1e-10)


def test_atoms_that_come_to_coincide_have_no_energy():
    """The list of neighbours still holds there, so that nothing is searched anew."""
    atoms = Atoms("Si2", positions=[[0, 0, 0], [0.2, 0, 0]], cell=np.eye(3) * 8, pbc=True)
    atoms.calc = calculator()
    assert atoms.get_potential_energy() > 100
    atoms.positions[:] = 0.1
    with pytest.raises(ValueError, match="not a finite number; atoms are far too close"):
        atoms.get_potential_energy()


def test_a_failed_calculation_leaves_no_results_of_other_atoms():
    calc, bad = calculator(), Atoms("Si2", positions=np.zeros((2, 3)), cell=np.eye(3) * 5, pbc=True)
    calc.calculate(bulk("Si"))
    bad.calc = calc
    for ask in (lambda: calc.calculate(bad), bad.get_potential_energy):
        with pytest.raises(ValueError, match="0 Å apart"):
            ask()


def test_an_interrupted_calculation_leaves_no_neighbours_of_other_atoms(monkeypatch):
    """As by Ctrl-C in a notebook, between the search for neighbours and their use."""

    def interrupted(*_):
        raise KeyboardInterrupt

    calc, dense = calculator(), bulk("Si", a=3.9)
    calc.calculate(bulk("Si"))
    with monkeypatch.context() as patch:
        patch.setattr("dao_ase.calculator.Layout", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calc.calculate(dense)
    fresh = calculator()
    for one in (calc, fresh):
        one.calculate(dense)
    assert calc.results["energy"] == fresh.results["energy"]


def test_charges_and_spins_change_nothing():
    atoms = NAMED["salt"].copy()
    atoms.calc = calculator()
    energy = atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments([2.0] * len(atoms))
    atoms.set_initial_charges([1.0, -1.0] * (len(atoms) // 2))
    assert atoms.get_potential_energy() == energy


def test_steps_reuse_the_neighbor_list_and_change_nothing():
    atoms = rattled(bulk("NaCl", "rocksalt", a=5.6) * 2)
    atoms.calc = calculator()
    atoms.get_potential_energy()
    for seed in range(4):
        atoms.rattle(0.02, seed=seed)
        fresh = atoms.copy()
        fresh.calc = calculator(skin=0.0)
        assert np.allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-10)
    assert atoms.calc._list.builds == 1
    atoms.symbols[0] = "K"
    fresh = atoms.copy()
    fresh.calc = calculator()
    assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), abs=1e-10)


@pytest.mark.parametrize("state", STATES_OF_TORCH)
def test_what_torch_is_told_changes_nothing(state):
    calculators = [DAOCalculator(MODEL), DAOCalculator(MODEL)]
    with STATES_OF_TORCH[state]():
        calculators += [DAOCalculator(MODEL), DAOCalculator()]
    for step in range(6):  # some of them from a tape
        atoms = rattled(NAMED["salt"], 0.01, seed=step)
        calculators[0].calculate(atoms)
        with STATES_OF_TORCH[state]():
            for one in calculators[1:]:
                one.calculate(atoms)
        for one in calculators[1:3]:
            assert one.results["energy"] == pytest.approx(calculators[0].results["energy"], abs=1e-5)
            np.testing.assert_allclose(one.results["forces"], calculators[0].results["forces"], atol=1e-5)
    for one in calculators[2:]:
        one.calculate(NAMED["silicon"])  # made in this state, used outside


def test_threads_may_share_a_calculator():
    shared, crystals = calculator(), [NAMED["salt"], NAMED["silicon"]]
    expected = [DAOCalculator(MODEL, dtype="float64").get_potential_energy(atoms) for atoms in crystals]

    def energies(atoms):
        atoms = atoms.copy()
        atoms.calc = shared
        return [atoms.get_potential_energy(force_consistent=True) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(energies, crystals * 4))
    np.testing.assert_allclose(found, np.repeat(expected * 4, 20).reshape(8, 20), atol=1e-10)


def test_arrays_in_single_precision_are_read():
    atoms, single = NAMED["salt"].copy(), NAMED["salt"].copy()
    single.arrays["positions"] = atoms.positions.astype(np.float32)[::-1][::-1]
    atoms.calc, single.calc = calculator(), calculator()
    assert single.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


def test_energy_is_conserved_in_dynamics():
    atoms = bulk("Ar", "fcc", a=4.0) * 2
    atoms.calc = DAOCalculator(MorsePotential(depth=0.05, distance=2.9), dtype="float64")
    atoms.set_momenta(np.random.default_rng(0).normal(size=(8, 3)))
    total = []
    dynamics = VelocityVerlet(atoms, 1 * units.fs)
    for _ in range(60):
        dynamics.run(5)
        total.append(atoms.get_total_energy())
    assert np.ptp(total) / len(atoms) < 1e-3


def test_ase_optimizer_and_pymatgen_relax_with_it(weights):
    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = rattled(bulk("Cu", cubic=True), 0.1)
    atoms.calc = DAOCalculator(MODEL)
    before = atoms.get_potential_energy()
    LBFGS(atoms, logfile=None).run(fmax=0.5, steps=3)
    assert atoms.get_potential_energy() < before
    structure = AseAtomsAdaptor.get_structure(rattled(bulk("Cu", cubic=True), 0.1))
    relaxed = structure.relax(calculator=DAOCalculator(weights, stress_weight=1 / 160.21766208), steps=2)
    assert isinstance(relaxed, Structure)


def test_ase_knows_it_by_name(weights):
    import ase.io  # noqa: F401 (loads the entry points)

    atoms = bulk("Si")
    atoms.calc = get_calculator_class("dao")(model=str(weights))
    assert np.isfinite(atoms.get_potential_energy())


def test_to_make_one_draws_nothing_from_the_callers_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    DAOCalculator()
    assert torch.equal(torch.rand(2), expected)
