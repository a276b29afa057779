"""The flat torus and the wrapped normal on it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dao_ase.torus import log_wrapped_normal, remove_mean, shortest, wrap, wrapped_normal_score


@given(st.floats(-1e3, 1e3, width=32))
def test_wrapped_coordinates_lie_in_the_cell(value):
    wrapped = wrap(torch.tensor([value]))
    assert 0 <= float(wrapped) < 1


def test_shortest_displacement_leads_to_the_same_point():
    displacement = 3 * torch.randn(100, 3, dtype=torch.float64)
    way = shortest(displacement)
    assert way.abs().max() <= 0.5
    torch.testing.assert_close((way - displacement).round(), way - displacement)


def test_remove_mean_per_crystal():
    index, counts = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 3])
    vectors = remove_mean(torch.randn(5, 3, dtype=torch.float64), index, counts)
    assert vectors[:2].mean(0).abs().max() < 1e-12
    assert vectors[2:].mean(0).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [0.005, 0.05, 0.2, 0.5])
def test_score_is_the_gradient_of_the_log_density(sigma):
    place = (torch.rand(50, dtype=torch.float64) - 0.5).requires_grad_()
    width = torch.full_like(place, sigma)
    (gradient,) = torch.autograd.grad(log_wrapped_normal(place, width).sum(), place)
    torch.testing.assert_close(wrapped_normal_score(place.detach(), width), gradient, rtol=1e-9, atol=1e-9)


def test_density_is_periodic():
    place, width = torch.rand(50, dtype=torch.float64), torch.full((50,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(log_wrapped_normal(place, width), log_wrapped_normal(place + 2, width))
