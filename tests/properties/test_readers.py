"""The readers beside the networks, and how they are blended: what is learnt, and that nothing that is left out is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from dao_ase.convert import from_atoms
from dao_ase.properties.blend import blend_weights
from dao_ase.properties.fit import FitSettings, Fold, TrainingSet, fit_fold, fit_readers
from dao_ase.properties.graphs import Graphs
from dao_ase.properties.kernel import _left_out
from dao_ase.properties.model import HeadConfig, HeadEnsemble
from dao_ase.properties.predictor import DAOPredictor
from dao_ase.properties.trees import TreeReader
from named import random_potential

CRYSTALS, STRUCTURE, CONSTANTS = 240, 6, 5
SETTINGS = FitSettings(epochs=20, head=HeadConfig(members=4, width=16))


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(CRYSTALS, STRUCTURE + CONSTANTS, generator=torch.Generator().manual_seed(seed))


def steps_of(x: torch.Tensor) -> torch.Tensor:
    """A law made for trees: two questions and their product."""
    first, second = (x[:, 1] > 0.3).float(), (x[:, STRUCTURE + 2] > -0.5).float()
    return 2 * first + second + 3 * first * second


def training_set(x: torch.Tensor, values: torch.Tensor) -> TrainingSet:
    """Two crystals of each formula; what the trunk would say of them is given."""
    graphs = Graphs(from_atoms([bulk("Cu")]), [])
    return TrainingSet(graphs, x[:, STRUCTURE:], x, values, np.repeat(np.arange(CRYSTALS // 2), 2))


def fitted(x: torch.Tensor, values: torch.Tensor, settings: FitSettings = SETTINGS) -> tuple[HeadEnsemble, dict]:
    head = HeadEnsemble(x.shape[1], settings.head)
    return head, fit_readers(head, training_set(x, values), np.arange(CRYSTALS), settings, 0, lambda text: None)


def test_weights_of_the_best_mean():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    said = truth + rng.normal(size=(3, 200)) * np.array([[0.5], [0.5], [3.0]])
    weights = blend_weights(said, truth)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1) and weights[2] < 0.1
    assert np.abs(weights @ said - truth).mean() < 0.9 * np.abs(said - truth).mean(1).min()


def test_trees_learn_steps_and_what_they_say_of_parts_they_went_without():
    x = features()
    parts = np.arange(CRYSTALS) % 4
    reader = TreeReader(4)
    said = reader.fit(x, steps_of(x), parts, CONSTANTS, seed=0)
    assert np.abs(said - steps_of(x).numpy()).mean() < 0.35 * float((steps_of(x) - steps_of(x).median()).abs().mean())
    forests = reader(x).numpy()
    np.testing.assert_allclose(forests[parts, np.arange(CRYSTALS)], said, atol=1e-4)
    new = features(1)
    assert float((reader(new).mean(0) - steps_of(new)).abs().mean()) < 0.5


def test_noise_of_the_last_digits_changes_no_answer_for_crystals_that_trees_were_trained_on():
    x, parts = features(), np.arange(CRYSTALS) % 2
    reader = TreeReader(2)
    reader.fit(x, steps_of(x), parts, CONSTANTS, seed=0)
    noisy = x + 3e-5 * features(2).clamp(-1, 1)
    known = 1 - parts, np.arange(CRYSTALS)
    torch.testing.assert_close(reader(noisy)[known], reader(x)[known], rtol=0, atol=0)


def test_a_part_left_out_of_the_kernel_is_as_if_it_were_never_there():
    rng = np.random.default_rng(0)
    root = torch.from_numpy(rng.normal(size=(12, 12)))
    matrix, values = root @ root.T + torch.eye(12), torch.from_numpy(rng.normal(size=12))
    parts = np.arange(12) % 3
    errors = _left_out(torch.linalg.inv(matrix), values, parts)
    mine, rest = torch.from_numpy(parts == 1), torch.from_numpy(parts != 1)
    alone = matrix[mine][:, rest] @ torch.linalg.solve(matrix[rest][:, rest], values[rest])
    torch.testing.assert_close(errors[mine], values[mine] - alone)


def test_where_all_numbers_but_one_are_equal_every_reader_says_a_number():
    """A part of the training crystals then has one number only, and no residuals to weigh."""
    values = torch.zeros(CRYSTALS)
    values[0] = 1
    head, notes = fitted(features(), values)
    assert all(np.isfinite(list(notes["their errors left out"].values())))
    with torch.no_grad():
        assert bool(head.values(features(1)).isfinite().all())


def test_the_blend_counts_on_the_reader_that_knows_the_law():
    x = features()
    head, notes = fitted(x, steps_of(x))
    errors, weights = notes["their errors left out"], notes["weights of the readers"]
    assert min(errors, key=lambda name: errors[name]) == "trees" and weights["trees"] > 0.5
    with torch.no_grad():
        found = head.values(features(1)).mean(0)
    assert float((found - steps_of(features(1))).abs().mean()) < 1.2 * errors["trees"]


def test_training_leaves_the_callers_random_numbers_alone():
    x, settings = features(), FitSettings(epochs=1, kernel_up_to=0, head=HeadConfig(members=2, width=4))
    everything, trunk = np.arange(CRYSTALS), random_potential()
    fold = Fold(everything[20:], everything[10:20], everything[:10])
    before = torch.random.get_rng_state()
    one, two = (fit_fold(training_set(x, steps_of(x)), trunk, fold, settings, 3)[0] for _ in range(2))
    torch.testing.assert_close(one.inner, two.inner, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_no_reader_has_seen_what_it_is_judged_by():
    """Of numbers that follow no law nothing can be known: no reader may look better than the constant, and none overfits."""
    values = torch.randn(CRYSTALS // 2, generator=torch.Generator().manual_seed(5)).repeat_interleave(2)
    _, notes = fitted(features(), values)
    constant = float((values - values.median()).abs().mean())
    assert all(0.97 * constant < error < 1.6 * constant for error in notes["their errors left out"].values())


def test_many_crystals_have_no_kernel_reader():
    x = features()
    head, notes = fitted(x, steps_of(x), replace(SETTINGS, kernel_up_to=CRYSTALS - 1))
    assert head.kernel is None and set(notes["weights of the readers"]) == {"networks", "trees"}
    assert float(head.blend.sum()) == pytest.approx(1) and float(head.blend[1]) == 0


def test_one_network_alone_is_refused():
    with pytest.raises(ValueError, match="two are needed"):
        FitSettings(head=HeadConfig(members=1))


def test_models_of_the_first_version_are_read():
    """They hold no trees and no weights: networks alone, or networks and kernel in equal parts."""
    for name, weights in (("gap", [1.0, 0.0, 0.0]), ("tc", [0.5, 0.5, 0.0])):
        model = DAOPredictor(name).model
        if model.header["version"] == 1:
            assert all(head.trees is None and head.blend.tolist() == weights for head in model.heads)
