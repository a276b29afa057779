"""Cells from weights and seeds: tries, of which DAO-P chooses, and what a weight file says about sampling."""

import numpy as np
import pytest

from dao_ase import checkpoint
from dao_ase.cell_sampler import TRY_STRIDE, CellSampler
from dao_ase.composition import Composition
from dao_ase.gates import refusal
from dao_ase.rank import by_energy
from generation import write_random_generator

CELL = Composition.parse("NaCl")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(write_random_generator(tmp_path_factory.mktemp("weights") / "dao_g.safetensors"))


def test_of_several_tries_the_one_of_lowest_energy_is_kept(weights):
    chosen = CellSampler(weights, tries=4, prototypes=False).sample_cells([CELL, CELL], [3, 8])
    for seed, structure in zip((3, 8), chosen, strict=True):
        single = CellSampler(weights, tries=1, prototypes=False)
        tries = single.sample_cells([CELL] * 4, [seed + TRY_STRIDE * attempt for attempt in range(4)])
        best = by_energy([one for one in tries if refusal(one) is None] or tries)[0]
        np.testing.assert_allclose(structure.frac_coords, best.frac_coords, atol=1e-5)
        assert structure.properties["seed"] == seed


def test_a_single_try_asks_no_potential(weights):
    made = CellSampler(weights, prototypes=False).sample_cells([CELL], [0])
    assert "energy_per_atom" not in made[0].properties


def test_the_seed_alone_decides(weights):
    sampler = CellSampler(weights, tries=3, prototypes=False)
    alone = sampler.sample_cells([CELL], [5])[0]
    among = sampler.sample_cells([Composition.parse("Cs2O"), CELL], [1, 5])[1]
    np.testing.assert_allclose(alone.frac_coords, among.frac_coords, atol=2e-2)  # bfloat16, another batch


def test_settings_of_the_file_can_be_replaced(weights):
    assert CellSampler(weights).settings.steps == 3
    changed = CellSampler(weights, steps=5, lattice_noise=0.5, anti_annealing=None).settings
    assert (changed.steps, changed.lattice_noise, changed.anti_annealing) == (5, 0.5, 5.0)


def test_of_many_structures_each_gets_fewer_tries(weights, tmp_path):
    tensors, header = checkpoint.load(weights)
    checkpoint.save(tmp_path / "four.safetensors", tensors, header | {"tries": 4})
    sampler = CellSampler(str(tmp_path / "four.safetensors"))
    assert [sampler.tries_of(count) for count in (1, 20, 21, 40, 41, 1000)] == [4, 4, 3, 2, 1, 1]
    assert CellSampler(weights, tries=3).tries_of(1000) == 3


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"lattice_noise": -1.0}, {"anti_annealing": -1.0}, {"steps": 0}])
def test_settings_that_make_no_sense_are_named(weights, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CellSampler(weights, **wrong)
