"""Published crystals as labels: their energies on the teacher's scale, no force, and no stress or one that is not known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from crystals import rock_salt, write_npz
from dao_ase.composition import reduced_key
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.train.at_rest import crystals_at_rest
from dao_ase.train.labelled import LabelledBatches, NeighborCache
from dao_ase.train.potential_objective import PotentialObjective
from named import random_potential

SALTS = {
    f"{first}{second}": rock_salt(first, second, 5.2 + 0.1 * k)
    for k, (first, second) in enumerate((a, b) for a in ("Li", "Na", "K") for b in ("F", "Cl", "Br"))
}
LONELY = {"CsI": Structure(Lattice.cubic(4.5), ["Cs", "I"], [[0, 0, 0], [0.5, 0.5, 0.5]])}
ELEMENT = {"Li": -1.9, "Na": -1.3, "K": -1.1, "F": -1.8, "Cl": -1.6, "Br": -1.2}
"""Energies (eV) of the elements on the scale of the labels."""


def formation(name: str) -> float:
    return -1.0 - 0.01 * len(name)


def store_of(folder, **labels):
    """A store of all crystals with their formation energies and these labels."""
    crystals = SALTS | LONELY
    energies = [formation(name) for name in crystals]
    path = write_npz(folder / "salts.npz", crystals, formation_energy_per_atom=energies, **labels)
    rules = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)
    return build([open_source(path)], folder / "store", rules).path


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path)


@pytest.fixture
def labels(tmp_path):
    """Undistorted frames of the salts, and one that was distorted."""
    frames = [*SALTS.values(), SALTS["LiF"]]
    energy = [formation(name) + np.mean([ELEMENT[site.specie.symbol] for site in one]) for name, one in SALTS.items()]
    np.savez(
        tmp_path / "labels.npz",
        n_atoms=[len(one) for one in frames],
        numbers=np.concatenate([one.atomic_numbers for one in frames]),
        parent_id=[*SALTS, "LiF"],
        kind=[0] * len(SALTS) + [2],
        energy_per_atom=[*energy, 5.0],
    )
    return tmp_path / "labels.npz"


def test_energies_are_those_of_the_labels(store, labels):
    frames = crystals_at_rest(store, [labels])
    assert len(frames) == len(SALTS)  # nothing is known of caesium and iodine
    with np.load(labels) as file:
        expected = dict(zip(map(tuple, frames.formulas()), frames.energy / frames.num_atoms, strict=True))
        assert len(expected) == len(SALTS)
        assert np.allclose(sorted(expected.values()), sorted(file["energy_per_atom"][:-1]), atol=1e-2)
    assert (frames.forces == 0).all() and np.isnan(frames.stress).all()


def test_a_stress_that_is_not_known_is_not_trained_on(store, labels):
    model = random_potential().float().requires_grad_()
    frames = crystals_at_rest(store, [labels])
    batch = LabelledBatches(frames, NeighborCache(frames, model)).in_order()[0]
    losses = PotentialObjective().loss(model, batch, torch.Generator())
    losses["loss"].backward()
    assert losses["stress"] == 0 and torch.isfinite(losses["loss"])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_cells_of_the_same_functional_have_no_stress(labels, tmp_path):
    sources = [0, 1, 2, 3, 4, 0, 1, 0, 1, 0]
    frames = crystals_at_rest(store_of(tmp_path, structure_source=sources), [labels])
    known = dict(zip(frames.formulas(), (frames.stress == 0).all((1, 2)), strict=True))
    expected = {
        reduced_key(one.atomic_numbers): s in (0, 3, 4)
        for one, s in zip((SALTS | LONELY).values(), sources, strict=True)
    }
    assert known == expected and np.isnan(frames.stress).any(), "that of caesium iodide tells its stress alone"


def test_stress_near_rest_weighs_more(store, labels):
    model = random_potential().float()
    frames = crystals_at_rest(store, [labels])
    batch = LabelledBatches(frames, NeighborCache(frames, model)).in_order()[0]

    def stress_loss(stress, **settings):
        objective = PotentialObjective(0.0, 0.0, 1.0, **settings)
        labelled = replace(batch, stress=torch.full_like(batch.stress, stress))
        return float(objective.loss(model, labelled, torch.Generator())["loss"].detach())

    assert stress_loss(0.0, stress_scale=0.1) == pytest.approx(stress_loss(0.0), rel=1e-3)
    assert stress_loss(0.1, stress_scale=0.1) == pytest.approx(stress_loss(0.1) / 4, rel=1e-3)  # ‖σ‖ is 0.3


def test_labels_of_other_crystals_are_refused(store, labels, tmp_path):
    with np.load(labels) as file:
        np.savez(tmp_path / "others.npz", **{**file, "parent_id": [f"x{k}" for k in range(len(file["kind"]))]})
    with pytest.raises(ValueError, match="known formation energy"):
        crystals_at_rest(store, [tmp_path / "others.npz"])


def test_no_crystal_is_an_error(store, labels):
    with pytest.raises(ValueError, match="at most 1 atoms"):
        crystals_at_rest(store, [labels], max_atoms=1)


def test_larger_crystals_tell_their_forces_without_an_energy(labels, tmp_path):
    large = {name: one * (3, 1, 2) for name, one in SALTS.items()}
    crushed = large["LiF"].copy()
    crushed.translate_sites([0], crushed.frac_coords[6] - crushed.frac_coords[0] + [0.02, 0, 0])
    crystals = SALTS | {f"large {name}": one for name, one in large.items()} | {"crushed": crushed}
    energies = [formation(name) if name in SALTS else np.nan for name in crystals]
    path = write_npz(tmp_path / "mixed.npz", crystals, formation_energy_per_atom=energies)
    rules = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False, niggli=False)
    frames = crystals_at_rest(build([open_source(path)], tmp_path / "store", rules).path, [labels])
    assert len(frames) == 2 * len(SALTS)
    assert (np.isfinite(frames.energy) == (frames.num_atoms < 9)).all() and (frames.forces == 0).all()


def test_energies_of_an_older_release_fill_in(labels, tmp_path):
    """They are those of the newer one but for a shift of the halogens: the same energies come out, to the last crystal."""
    shift = {"F": 0.3, "Cl": 0.1, "Br": -0.2, "I": 0.0}
    crystals = SALTS | LONELY
    older = [
        formation(name) + np.mean([shift.get(site.specie.symbol, 0.0) for site in one])
        for name, one in crystals.items()
    ]
    newer = [formation(name) if k % 2 else np.nan for k, name in enumerate(crystals)]
    path = write_npz(tmp_path / "salts.npz", crystals, formation_energy_per_atom=newer, ef_mp_legacy=older)
    rules = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)
    frames = crystals_at_rest(build([open_source(path)], tmp_path / "store", rules).path, [labels])
    expected = [formation(name) + np.mean([ELEMENT[site.specie.symbol] for site in one]) for name, one in SALTS.items()]
    assert np.allclose(sorted(frames.energy / frames.num_atoms), sorted(expected), atol=2e-2)
