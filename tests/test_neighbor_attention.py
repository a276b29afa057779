"""The pieces of neighbour attention: envelope, moments of the direction, a gather whose transpose gathers."""

import json
from dataclasses import asdict

import pytest
import torch
from numpy.polynomial.legendre import legval

from dao_ase.derivatives import pairs_of
from dao_ase.invariants import SMALL, SYMMETRIC, Invariants
from dao_ase.neighbor_attention import NeighborAttention, PairFeatures, _BoundedSoftmax, collect, gather
from dao_ase.neighbors import Neighbors, Pairs
from dao_ase.pair_geometry import DirectionMoments, envelope, waves
from dao_ase.potential import PotentialConfig
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


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_scalars_are_sums_of_legendre_polynomials(rank):
    moments = DirectionMoments(rank)
    invariants = Invariants(5, moments, legendre=True).double()
    directions = torch.nn.functional.normalize(torch.randn(3, 7, 3, dtype=torch.float64), dim=-1)
    values = torch.randn(3, 7, 5, dtype=torch.float64)
    found = invariants(moments.double()(directions.flatten(0, 1)).unflatten(0, (3, 7)), values).unflatten(1, (-1, 5))
    assert torch.allclose(found[:, 0], values.sum(1))
    mixed, cosine = invariants.mix(values), directions @ directions.transpose(1, 2)
    for n in range(rank + 1):
        by_angle = torch.from_numpy(legval(cosine.detach().numpy(), [0] * n + [1]))
        wanted = torch.einsum("ajc,ajk,akc->ac", mixed, by_angle, mixed) * (SMALL if n > 1 else 1)
        assert torch.allclose(found[:, n + 1], wanted, atol=1e-5)


def test_only_a_strain_makes_the_second_polynomial_of_a_tetrahedron():
    moments, invariants = DirectionMoments(2).double(), Invariants(1, DirectionMoments(2), legendre=True).double()
    bonds = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)

    def second(strain: float) -> torch.Tensor:
        stretched = torch.nn.functional.normalize(bonds * torch.tensor([1, 1, 1 + strain]), dim=-1)
        return invariants(moments(stretched)[None], torch.ones(1, 4, 1, dtype=torch.float64))[0, -1]

    assert second(0.0).abs() < 1e-6
    assert (second(0.02) / second(0.01)).item() == pytest.approx(4, rel=0.05)


def test_logarithms_are_of_the_squares_that_vanish_at_symmetric_sites():
    moments = DirectionMoments(3)
    invariants = Invariants(5, moments, legendre=True, logarithms=True)
    directions = torch.nn.functional.normalize(torch.randn(2, 7, 3), dim=-1)
    found = invariants(moments(directions.flatten(0, 1)).unflatten(0, (2, 7)), torch.randn(2, 7, 5))
    squares, logarithms = found.unflatten(1, (-1, 5))[:, 2:5], found.unflatten(1, (-1, 5))[:, 5:]
    assert torch.allclose(logarithms, torch.log1p(squares / SYMMETRIC), atol=1e-4)
    with pytest.raises(ValueError, match="legendre"):
        Invariants(5, moments, logarithms=True)


def test_each_rank_may_have_its_own_scale_of_the_logarithms():
    moments = DirectionMoments(3)
    alike, third = (
        Invariants(5, moments, legendre=True, logarithms=True, log_scales=q) for q in ((), (0.02, 0.02, 0.08))
    )
    third.load_state_dict(alike.state_dict())
    directions = moments(torch.nn.functional.normalize(torch.randn(14, 3), dim=-1)).unflatten(0, (2, 7))
    values = torch.randn(2, 7, 5)
    before, after = (one(directions, values).unflatten(1, (-1, 5)) for one in (alike, third))
    assert torch.equal(after[:, :-1], before[:, :-1])
    assert torch.allclose(after[:, -1], torch.log1p(before[:, 4] / 0.08), atol=1e-4)
    for wrong in ((0.02, 0.02), (0.02, 0.02, 0.0)):
        with pytest.raises(ValueError, match="3 positive numbers"):
            Invariants(5, moments, legendre=True, logarithms=True, log_scales=wrong)
    with pytest.raises(ValueError, match="need logarithms = true"):
        Invariants(5, moments, legendre=True, log_scales=(0.02, 0.02, 0.08))


def test_scales_come_back_from_a_header():
    config = PotentialConfig(rank=2, legendre=True, logarithms=True, log_scales=(0.02, 0.08))
    assert PotentialConfig.from_header(json.loads(json.dumps(asdict(config)))) == config


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
    attention = NeighborAttention(8, 2, 4, 3, Invariants(4, DirectionMoments(1)), bound=60.0)
    rows = Neighbors.from_pairs(Pairs(torch.tensor([0]), torch.tensor([1]), torch.zeros(1, 3, dtype=torch.long)), 2)
    shape = rows.index.shape
    pairs = PairFeatures(torch.full((*shape, 3), 1e4), torch.zeros(shape), torch.zeros(*shape, 4))
    query, pair_query, keys, _ = attention.project(torch.randn(2, 8))
    weights, log_sum = attention.attend(query, pair_query, gather(keys, rows), pairs)
    assert (weights == 0).all() and torch.allclose(log_sum, torch.zeros_like(log_sum))


def test_a_last_neighbour_is_let_go_gently():
    """However large a logit, its weight is bounded, so that it fades over a wide range of distances with the envelope."""
    logits = torch.full((1, 1, 1), 14.0, dtype=torch.float64)
    for bound, share in ((60.0, 0.9), (4.0, 0.01)):
        weights, _ = _BoundedSoftmax.apply(logits, torch.full((1, 1), 1e-4, dtype=torch.float64), bound)
        assert (weights.item() > share) == (bound == 60.0)
    below = torch.linspace(-40, 2, 50, dtype=torch.float64)[None, None]
    weights, _ = _BoundedSoftmax.apply(below, torch.ones(1, 50, dtype=torch.float64), 60.0)
    softmax = torch.nn.functional.pad(below, (1, 0)).softmax(-1)[..., 1:]
    assert torch.allclose(weights, softmax, rtol=1e-12), "a bound out of reach is none"
