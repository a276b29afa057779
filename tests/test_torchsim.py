"""DAO-P in TorchSim gives what the calculator gives, for every system of a batch."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from dao_ase import DAOCalculator
from named import NAMED

ts = pytest.importorskip("torch_sim", reason='no TorchSim: pip install "dao-ase[torchsim]"')
SYSTEMS = ["silicon", "salt", "copper", "caesium"]


@pytest.fixture(scope="module")
def model():
    from dao_ase.torchsim import DAOModel

    return DAOModel(device="cpu", precision="float64")


def state_of(*structures):
    return ts.io.atoms_to_state(list(structures), torch.device("cpu"), torch.float64)


def test_equals_the_calculator(model):
    structures = [NAMED[name].copy() for name in SYSTEMS]
    found = model(state_of(*structures))
    calculator = DAOCalculator(device="cpu", dtype="float64")
    start = 0
    for system, atoms in enumerate(structures):
        atoms.calc = calculator
        end = start + len(atoms)
        assert found["energy"][system].item() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        np.testing.assert_allclose(found["forces"][start:end], atoms.get_forces(), atol=1e-8)
        np.testing.assert_allclose(found["stress"][system], atoms.get_stress(voigt=False), atol=1e-8)
        start = end


def test_a_dictionary_is_a_state(model):
    state = state_of(NAMED["salt"], NAMED["copper"])
    names = ("positions", "cell", "atomic_numbers", "system_idx", "pbc")
    found = model({name: getattr(state, name) for name in names})
    for name, expected in model(state).items():
        torch.testing.assert_close(found[name], expected)


def test_systems_may_come_move_and_go(model):
    """An autobatcher takes systems out and puts others in their place."""
    first, second = NAMED["salt"].copy(), NAMED["copper"].copy()
    both = model(state_of(first, second))["energy"]
    alone = model(state_of(second))["energy"]
    assert alone[0] == pytest.approx(both[1].item(), abs=1e-9)
    first.positions += np.random.default_rng(0).normal(0, 0.5, first.positions.shape)
    moved = model(state_of(second, first, second))["energy"]
    first.calc = DAOCalculator(device="cpu", dtype="float64")
    assert moved[1].item() == pytest.approx(first.get_potential_energy(), abs=1e-8)
    for place in (0, 2):
        assert moved[place].item() == pytest.approx(both[1].item(), abs=1e-9)


def test_inference_mode_changes_nothing(model):
    from dao_ase.torchsim import DAOModel

    expected = model(state_of(NAMED["salt"], NAMED["copper"]))
    with torch.inference_mode():
        again = DAOModel(device="cpu", precision="float64")
        found = [one(state_of(NAMED["salt"], NAMED["copper"])) for one in (model, again)]
    for results in [*found, again(state_of(NAMED["salt"], NAMED["copper"]))]:
        torch.testing.assert_close(results["forces"], expected["forces"])


def test_a_potential_that_is_given_stays_as_it_is():
    from dao_ase.calculator import load_potential
    from dao_ase.torchsim import DAOModel

    potential = load_potential().requires_grad_(True)
    DAOModel(potential, device="cpu", precision="float64")(state_of(NAMED["copper"]))
    assert potential.reference.dtype == torch.float32 and all(one.requires_grad for one in potential.parameters())


def test_a_molecule_has_no_stress(model):
    water, salt = molecule("H2O"), NAMED["salt"].copy()
    water.pbc = False
    found = model(state_of(water))
    water.calc = DAOCalculator(device="cpu", dtype="float64")
    np.testing.assert_allclose(found["forces"], water.get_forces(), atol=1e-8)
    assert (found["stress"] == 0).all()
    assert (model(state_of(salt))["stress"] != 0).any()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"precision": "bfloat16"}, "'bfloat16' is no precision of DAO-P"),
        ({"skin": -1}, "skin is -1; it must be a finite number"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    from dao_ase.calculator import load_potential
    from dao_ase.torchsim import DAOModel

    with pytest.raises(ValueError, match=reason):
        DAOModel(**{"model": load_potential(), "device": "cpu", **settings})


def test_untrained_elements_are_refused(model):
    with pytest.raises(ValueError, match="contains Po, which is outside"):
        model(state_of(NAMED["salt"], bulk("Po", "sc", a=3.3)))


def test_torchsim_accepts_the_model(model):
    from torch_sim.models import interface

    validate = getattr(interface, "validate_model_outputs", None)
    if validate is None:
        pytest.skip("this TorchSim has no validate_model_outputs")
    validate(model, torch.device("cpu"), torch.float64)


def test_autobatched_relaxation(model):
    structures = [bulk("Cu", cubic=True, a=3.5), bulk("NaCl", "rocksalt", a=5.9, cubic=True)]
    optimizer = ts.frechet_cell_fire if hasattr(ts, "frechet_cell_fire") else ts.Optimizer.fire
    extra = {} if hasattr(ts, "frechet_cell_fire") else {"init_kwargs": {"cell_filter": ts.CellFilter.frechet}}
    done = ts.optimize(
        system=structures, model=model, optimizer=optimizer, max_steps=60, autobatcher=False,
        convergence_fn=ts.generate_force_convergence_fn(force_tol=0.02), **extra,
    )  # fmt: skip
    before = model(state_of(*structures))["energy"]
    assert (done.energy < before).all()
