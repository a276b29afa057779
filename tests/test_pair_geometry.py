"""The geometry of a pair: every closed derivative is the one that finite differences give, at both orders."""

import pytest
import torch

from dao_ase.invariants import _Moments, _Squares
from dao_ase.neighbor_attention import _BoundedSoftmax, _Logits
from dao_ase.pair_geometry import BLIND, BLURRED, DirectionMoments, blind_core, envelope, envelope_slope, polar, waves
from dao_ase.potential import _Repulsion

RNG = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=RNG).requires_grad_()


def between(low: float, high: float, *shape: int) -> torch.Tensor:
    return (low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=RNG)).requires_grad_()


PRESENT = torch.tensor([[True, True, False], [True, False, False]])
CUTOFF = torch.full((2, 3), 5.0, dtype=torch.float64)
NUCLEI = between(1.5, 3, 3, 6).detach()
RANK_OF = torch.eye(2, dtype=torch.float64).repeat_interleave(torch.tensor([3, 6]), 1)
CASES = {
    "polar": (lambda r: polar(r * PRESENT.unsqueeze(-1), PRESENT, CUTOFF), (random(2, 3, 3),)),
    "envelope": (envelope, (between(0.2, 1.4, 9),)),
    "core": (lambda x: blind_core(x, torch.full_like(x, 0.8)), (between(0.1, 0.8, 9),)),
    "waves": (lambda x: waves(x, 4), (between(0.2, 1.4, 9),)),
    "moments of a direction": (DirectionMoments(3).double(), (random(5, 3),)),
    "logits": (_Logits.apply, (random(2, 3, 4), random(2, 5, 4), random(2, 3, 6), random(2, 5, 6))),
    "softmax": (lambda logits, u: _BoundedSoftmax.apply(logits, u, 1.5), (random(2, 3, 5), between(0.1, 1, 2, 5))),
    "moments of values": (_Moments.apply, (random(2, 5, 4), random(2, 5, 3))),
    "squares": (lambda x: _Squares.apply(x, RANK_OF), (random(2, 9, 3),)),
    "repulsion": (lambda r: _Repulsion.apply(r, *NUCLEI), (between(0.3, 3, 6),)),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_finite_differences_at_both_orders(name):
    function, inputs = CASES[name]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_the_slope_of_the_envelope_ends_at_the_cutoff():
    x = torch.tensor([0.0, 1.0, 1.3], dtype=torch.float64)
    assert (envelope_slope(x) == 0).all()


def test_within_the_core_distances_are_all_alike_and_beyond_it_as_they_are():
    x = torch.linspace(0.01, 1, 1000, dtype=torch.float64)
    seen = blind_core(x, torch.ones_like(x))
    assert (seen[x >= BLURRED] == x[x >= BLURRED]).all() and len(seen[x <= BLIND].unique()) == 1
    slope = seen.diff() / x.diff()
    assert slope.min() >= 0 and slope.max() <= 1 + 1e-9 and slope.diff().abs().max() < 0.01, "and nothing jumps between"
