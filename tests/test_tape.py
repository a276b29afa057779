"""A tape gives to the bit what the function gives, for other inputs, other shapes and every kind of system."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from dao_ase.calculator import DAOCalculator
from dao_ase.derivatives import RECORD_AT
from dao_ase.tape import NotRecordable, Tape
from named import NAMED, random_potential, rattled

MODEL = random_potential()
SYSTEMS = NAMED | {
    "one atom": bulk("Al"),
    "alone": Atoms("Cs", positions=[[0, 0, 0]]),
    "molecule": Atoms("OH2", positions=[[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]),
    "close": Atoms("CO", positions=[[0, 0, 0], [0, 0, 0.7]]),
}


def asked(calculator: DAOCalculator, atoms: Atoms) -> dict:
    calculator.calculate(atoms)
    return calculator.results


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_played_calls_equal_first_calls(name, dtype):
    played = DAOCalculator(MODEL, dtype=dtype)
    for seed in range(RECORD_AT + 3):
        atoms = SYSTEMS[name].copy()
        atoms.positions += 0.02 * np.random.default_rng(seed).normal(size=atoms.positions.shape)
        results = asked(played, atoms)
        fresh = DAOCalculator(MODEL, dtype=dtype)
        fresh._list, fresh._kind = played._list, played._kind  # the same neighbours in the same order
        for quantity, value in asked(fresh, atoms).items():
            assert np.array_equal(results[quantity], value), (seed, quantity)
    assert played._layout._tape is not None


def test_other_neighbours_are_recorded_anew():
    calculator = DAOCalculator(MODEL, dtype="float64")
    atoms = rattled(NAMED["salt"])
    for scale in (1.0, 1.1, 0.95):
        atoms.set_cell(NAMED["salt"].cell.array * scale, scale_atoms=True)
        results = [dict(asked(calculator, atoms)) for _ in range(RECORD_AT + 1)]
        assert calculator._layout._tape is not None
        fresh = asked(DAOCalculator(MODEL, dtype="float64"), atoms)
        assert results[-1]["energy"] == results[0]["energy"] == pytest.approx(fresh["energy"], abs=1e-10)
        assert np.allclose(results[-1]["stress"], fresh["stress"], atol=1e-12)


def test_weights_changed_in_place_are_noticed():
    calculator = DAOCalculator(MODEL, dtype="float64")
    before = [asked(calculator, NAMED["copper"])["energy"] for _ in range(RECORD_AT + 1)][-1]
    with torch.no_grad():
        calculator.model.head[-1].bias += 0.5
    assert asked(calculator, NAMED["copper"])["energy"] == pytest.approx(before + 0.5 * len(NAMED["copper"]))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_calculator_that_plays_can_be_copied(duplicate):
    calculator = DAOCalculator(MODEL, dtype="float64")
    energies = [asked(calculator, NAMED["salt"])["energy"] for _ in range(RECORD_AT + 1)]
    assert [asked(duplicate(calculator), NAMED["salt"])["energy"] for _ in range(2)] == energies[-2:]


def test_what_depends_on_values_is_not_recorded():
    with pytest.raises(NotRecordable, match="values"):
        Tape(lambda x: (x * 2 if bool(x.sum() > 0) else x,), torch.ones(3))


def test_memory_that_is_written_into_is_made_anew():
    def running(x):
        total = torch.zeros(3)
        total.index_add_(0, torch.tensor([0, 2]), x)
        total[1] = x[0] * x[1]
        return total, total + 1

    tape = Tape(running, torch.tensor([1.0, 2.0]))
    for values in ([3.0, 4.0], [5.0, 6.0]):
        for played, expected in zip(tape(torch.tensor(values)), running(torch.tensor(values)), strict=True):
            assert torch.equal(played, expected)


def test_nothing_is_computed_twice_and_constants_not_at_all():
    weight = torch.arange(3.0)
    tape = Tape(lambda x: ((x * weight.exp()).sin() + (x * weight.exp()).sin(),), torch.ones(3))
    assert tape.steps == 3  # the product, its sine, their sum


def test_calls_import_nothing_heavy():
    """Neither a first call nor a recorded one loads what torch keeps for compiling: that takes longer than the calls."""
    code = (
        "import sys\nfrom ase.build import bulk\nfrom dao_ase.calculator import DAOCalculator\n"
        f"calculator = DAOCalculator()\nfor _ in range({RECORD_AT + 1}): calculator.calculate(bulk('Si'))\n"
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
