"""Training DAO-P: references, batches that resume, a loss that falls, and frames that are kept out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from dao_ase.composition import Composition, reduced_key
from dao_ase.derivatives import predict_crystals
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.train.config import TrainConfig
from dao_ase.train.labelled import LabelledBatches, LabelledCrystals, NeighborCache, fit_references
from dao_ase.train.loop import Trainer
from dao_ase.train.potential_objective import PotentialObjective
from dao_ase.train.potential_task import HELD_OUT_FORMULAS, _often, is_held_out, load_potential_data
from named import NAMED, MorsePotential, random_potential, rattled, to_crystals

SHARED = Path(__file__).parents[3] / "shared" / "data"
TINY = PotentialConfig(width=16, layers=1, heads=2, key_width=4, value_width=8, radial=4, rank=2)


def frames(count: int = 24) -> LabelledCrystals:
    """Rattled metals with the energies, forces and stresses of a Morse potential."""
    cells = [bulk("Cu"), bulk("Al", cubic=True), NAMED["salt"]]
    structures = [rattled(cells[seed % 3], 0.08, seed) for seed in range(count)]
    crystals = to_crystals(*structures)
    predicted = predict_crystals(MorsePotential().requires_grad_(False), crystals)
    return LabelledCrystals(
        crystals.num_atoms.numpy(),
        crystals.atomic_numbers.numpy(),
        crystals.frac_coords.numpy(),
        crystals.lattice.numpy(),
        predicted.energy.numpy(),
        predicted.forces.float().numpy(),
        predicted.stress.float().numpy(),
    )


def batches(data: LabelledCrystals, model: Potential, **settings) -> LabelledBatches:
    return LabelledBatches(data, NeighborCache(data, model), **{"slots": 1500, **settings})


def test_references_are_the_energies_of_the_elements():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, (200, 119)) * (np.arange(119) % 30 == 8)
    truth = np.arange(119) / -10
    fitted = fit_references(counts.astype(float), counts @ truth, ridge=1e-9)
    occurring = counts.sum(0) > 0
    assert np.allclose(fitted[occurring], truth[occurring], atol=1e-4)
    assert (fitted[~occurring] == 0).all()


def test_batches_are_the_frames_with_their_neighbors():
    data = frames()
    model = random_potential().float()
    for batch in batches(data, model).in_order():
        assert batch.neighbors.index.numel() <= 1500 or len(batch) == 1
    single = batches(data, model).batch(np.array([5]))
    crystal = to_crystals(*[rattled(NAMED["salt"], 0.08, 5)])
    expected = predict_crystals(model, crystal)
    energies = model(single.atomic_numbers, single.vectors, single.neighbors)
    assert torch.allclose(energies.double(), expected.energies, atol=1e-4)


def test_every_frame_comes_as_often_as_it_should_and_the_position_is_kept():
    data = frames(9)
    repeats = np.array([1, 2, 1, 3, 1, 1, 1, 1, 1])
    source = batches(data, random_potential(), repeats=repeats)
    seen: list[float] = []
    while source.state_dict()["pass"] == 0:
        state = source.state_dict()
        seen += next(source).energy.tolist() if source.state_dict()["pass"] == 0 else []
        if len(seen) >= repeats.sum():
            break
    assert sorted(seen) == sorted(np.repeat(data.energy, repeats).tolist())
    fresh = batches(data, random_potential(), repeats=repeats)
    fresh.load_state_dict(state)
    source.load_state_dict(state)
    for _ in range(4):
        assert torch.equal(next(source).energy, next(fresh).energy)


def test_processes_share_the_frames_out():
    data, model = frames(9), random_potential()
    shares = [batches(data, model, rank=rank, processes=2) for rank in range(2)]
    together = [next(share).energy.tolist() for _ in range(2) for share in shares]
    alone = batches(data, model)
    assert together == [next(alone).energy.tolist() for _ in range(4)]


def test_training_goes_on_with_more_processes_than_it_began_with():
    data, model = frames(), random_potential().float()
    alone = batches(data, model, slots=600)
    for _ in range(len(alone.in_order())):
        next(alone)
    one_of_two = batches(data, model, slots=600, rank=1, processes=2)
    one_of_two.load_state_dict(alone.state_dict())
    next(one_of_two)
    assert one_of_two.state_dict()["pass"] == alone.state_dict()["pass"] + 1


def test_neighbor_cache_is_kept_and_checked(tmp_path):
    data, model = frames(6), random_potential()
    first = NeighborCache(data, model, tmp_path / "pairs.npz")
    again = NeighborCache(data, model, tmp_path / "pairs.npz")
    assert all((getattr(first, name) == getattr(again, name)).all() for name in ("first", "second", "shift", "degree"))
    with pytest.raises(ValueError, match="6 frames, not of 3"):
        NeighborCache(data.select(np.arange(3)), model, tmp_path / "pairs.npz")
    shorter = Potential(replace(model.config, cutoff_offset=1.5))
    for others in [(replace(data, lattice=1.1 * data.lattice), model), (data, shorter)]:
        with pytest.raises(ValueError, match="of other frames, or within other cutoffs; delete it"):
            NeighborCache(*others, tmp_path / "pairs.npz")
    with np.load(tmp_path / "pairs.npz") as file:
        np.savez(tmp_path / "older.npz", **{name: file[name] for name in file.files if name != "key"})
    assert (NeighborCache(data, model, tmp_path / "older.npz").first == first.first).all()


def test_files_of_labels_are_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of labels .*none\.npz"):
        LabelledCrystals.load(tmp_path / "none.npz")
    np.savez(tmp_path / "bare.npz", n_atoms=np.array([1]), energy=np.zeros(1), numbers=np.array([6]))
    with pytest.raises(ValueError, match=r"bare\.npz' cannot be read as a file of labels: .*frac_coords"):
        LabelledCrystals.load(tmp_path / "bare.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bare.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.npz' cannot be read as a file of labels"):
        LabelledCrystals.load(tmp_path / "cut.npz")


def test_unknown_energies_teach_nothing_about_energies():
    data = frames(6)
    model = random_potential().float().requires_grad_()
    batch = batches(replace(data, energy=np.full(6, np.nan)), model).in_order()[0]
    losses = PotentialObjective().loss(model, batch, torch.Generator())
    assert losses["energy"] == 0
    assert torch.isfinite(losses["loss"])


def test_small_crystals_count_as_much_as_large_ones_where_forces_are_means_of_crystals():
    data, model = frames(6), random_potential().float()
    source = batches(data, model)
    alone = [source.batch(np.array([frame])) for frame in range(6)]

    def force_loss(batch, **settings):
        objective = PotentialObjective(0.0, 1.0, 0.0, **settings)
        return float(objective.loss(model, batch, torch.Generator())["loss"].detach())

    together = source.batch(np.arange(6))
    losses = [force_loss(batch) for batch in alone]
    assert len(set(data.num_atoms)) > 1
    by_crystal, by_atom = np.mean(losses), np.average(losses, weights=data.num_atoms)
    for share in (0.0, 0.5, 1.0):
        expected = share * by_crystal + (1 - share) * by_atom
        assert force_loss(together, per_crystal=share) == pytest.approx(expected, rel=1e-5)


def test_training_lowers_every_error(tmp_path):
    torch.manual_seed(0)
    data, model = frames(), Potential(TINY)
    model.reference.copy_(torch.from_numpy(fit_references(data.counts()[:, : len(model.reference)], data.energy)))
    source = batches(data, model)
    config = TrainConfig(
        task="potential",
        total_steps=60,
        warmup_steps=5,
        learning_rate=5e-3,
        ema_decay=0.9,
        autocast=False,
        compile=False,
    )
    trainer = Trainer(model, PotentialObjective(), source, config, tmp_path, val_batches=source.in_order())
    before = trainer.validate()
    trainer.run(progress=False)
    after = trainer.validate()
    assert after["loss"] < 0.7 * before["loss"]


def test_some_formulas_are_held_out_and_silicon_is_not():
    held_out = [is_held_out(reduced_key([number])) for number in range(1, 90)]
    assert 0.08 < np.mean(held_out) < 0.25
    assert is_held_out(reduced_key([32])) and not is_held_out(reduced_key([14, 14]))


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data sets beside the checkout")
def test_held_out_frames_stay_out():
    data = load_potential_data(SHARED)
    trained = set(data.train.formulas())
    assert not trained & {reduced_key(Composition.parse(formula).atomic_numbers) for formula in HELD_OUT_FORMULAS}
    assert not trained & set(data.val_labels.formulas())
    assert not trained & set(data.val_dft.formulas())
    assert len(data.val_dft) == len(data.val_dft_subset) > 300
    assert len(data.train) + len(data.val_labels) + len(data.val_dft) > 22_000
    assert np.isnan(data.val_dft.energy).all()


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data sets beside the checkout")
def test_strained_solids_are_dft_frames_of_their_own(tmp_path):
    number = np.arange(3, 53)  # a crystal of two kinds of atoms for each element, of which some are held out
    count = len(number)
    np.savez(
        tmp_path / "stiffness.npz",
        n_atoms=np.full(count, 2),
        numbers=np.stack([number, number[::-1]], 1).ravel(),
        frac_coords=np.tile([[0, 0, 0], [0.5, 0.5, 0.5]], (count, 1)),
        lattice=np.tile(4 * np.eye(3), (count, 1, 1)),
        energy_per_atom=np.full(count, np.nan),
        forces=np.zeros((2 * count, 3)),
        stress=np.zeros((count, 3, 3)),
    )
    without, data = load_potential_data(SHARED), load_potential_data(SHARED, more_dft={tmp_path / "stiffness.npz": 10})
    held = (data.val_dft_subset == "stiffness").sum()
    assert 0 < held < count and len(data.val_dft) - len(without.val_dft) == held
    assert len(data.train) - len(without.train) == count - held
    assert (data.repeats[len(without.train) :] == 10).all(), "they come last, so that pairs that were found before stay"


def test_frames_come_as_often_as_is_said_of_what_was_done_to_them(tmp_path):
    path = tmp_path / "stiffness.npz"
    np.savez(path, n_atoms=np.ones(3), strain=np.array(["rest", "shape", "shape"]))
    assert _often(path, 7).tolist() == [7, 7, 7]
    assert _often(path, {"rest": 1, "shape": 30, "moved": 4}).tolist() == [1, 30, 30]
    with pytest.raises(ValueError, match=r"holds frames of \['shape'\], and how often is said of \['rest'\]"):
        _often(path, {"rest": 1})


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data sets beside the checkout")
def test_labels_of_small_cells_can_be_left_out():
    every, larger = load_potential_data(SHARED), load_potential_data(SHARED, min_label_atoms=6)
    assert len(every.train) == len(larger.train), "so that pairs that were found before stay"
    left_out = every.repeats > larger.repeats
    label = np.isfinite(every.train.energy)
    assert (left_out == (label & (every.train.num_atoms < 6))).all() and left_out.any()
    assert (larger.repeats[left_out] == 0).all()


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data sets beside the checkout")
def test_crystals_at_rest_come_as_often_as_asked(monkeypatch):
    labels = LabelledCrystals.load(SHARED / "pes_chgnet_0.npz").select(np.arange(40))
    monkeypatch.setattr("dao_ase.train.potential_task.crystals_at_rest", lambda store, files: labels)
    once = load_potential_data(SHARED, at_rest="store")
    twice = load_potential_data(SHARED, at_rest="store", rest_repeats=2)
    assert len(once.train) == len(twice.train)
    more = twice.repeats - once.repeats
    assert set(more) == {0, 1} and 30 < more.sum() <= 40, "some have held-out formulas"

    stress = np.where(np.arange(40)[:, None, None] < 10, labels.stress, np.nan)
    monkeypatch.setattr(
        "dao_ase.train.potential_task.crystals_at_rest", lambda store, files: replace(labels, stress=stress)
    )
    cells = load_potential_data(SHARED, at_rest="store", cell_repeats=7)
    more = cells.repeats - once.repeats
    assert set(more) == {0, 6} and 5 < (more == 6).sum() <= 10, "those whose stress is known"
