"""The pieces of neighbour attention: envelope, moments of the direction, a gather whose transpose gathers."""

import pytest
import torch

from dao_ase.derivatives import pairs_of
from dao_ase.neighbor_attention import NeighborAttention, PairFeatures, collect, gather
from dao_ase.neighbors import Neighbors, Pairs
from dao_ase.pair_geometry import DirectionMoments, envelope, waves
from named import random_potential, skewed, to_crystals


def test_envelope_ends_with_two_derivatives():
    x = torch.tensor([0.0, 1.0 - 1e-9, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert value[0] == 1
    for derivative in (value, slope, curvature):
        assert derivative[1:].abs().max() < 1e-6


def test_bessel_waves_end_at_the_cutoff():
    assert waves(torch.ones(1, dtype=torch.float64), 8)[0].abs().max() < 1e-12


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_inner_products_of_moments_are_powers_of_the_cosine(rank):
    moments = DirectionMoments(rank).double()
    first, second = torch.nn.functional.normalize(torch.randn(2, 50, 3, dtype=torch.float64), dim=-1)
    cosine = (first * second).sum(-1)
    products = (moments(first) * moments(second)).split(moments.sizes, -1)
    for power, product in enumerate(products):
        assert torch.allclose(product.sum(-1), cosine**power, atol=1e-6)


def test_gather_and_collect_are_transposes_at_every_order():
    crystal = to_crystals(skewed())
    some = Pairs(*(part[:6] for part in pairs_of(random_potential(), crystal)))
    rows = Neighbors.from_pairs(some, 5)
    atoms = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    slots = torch.randn(*rows.index.shape, 3, dtype=torch.float64) * rows.present.unsqueeze(-1)
    assert torch.allclose((gather(atoms, rows) * slots).sum(), (atoms * collect(slots, rows)).sum())
    mask = rows.present.unsqueeze(-1)
    assert torch.autograd.gradgradcheck(lambda x: (gather(x, rows) * mask).square(), (atoms,))


def test_a_loud_neighbour_beyond_the_cutoff_is_not_heard():
    """Where the envelope is zero, no logit sets the scale of the softmax or overflows in it."""
    attention = NeighborAttention(8, 2, 4, 4, 3, DirectionMoments(1))
    rows = Neighbors.from_pairs(Pairs(torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 3, dtype=torch.long)), 2)
    shape = rows.index.shape
    pairs = PairFeatures(torch.full((*shape, 3), 1e4), torch.zeros(shape), torch.zeros(*shape, 4))
    query, pair_query, keys, _ = attention.project(torch.randn(2, 8))
    weights, log_sum = attention.attend(query, pair_query, gather(keys, rows), pairs)
    assert (weights == 0).all() and torch.allclose(log_sum, torch.zeros_like(log_sum))
