"""Forward and backward of one attention layer: pair algebra absorbed into the atoms, against the same layer edge by edge.

Edge by edge, every projection acts on every ordered pair (i, j), as in code that works on lists of edges. Between the two
stands the form in which atoms are projected once and only the pair feature is projected for every pair.
"""

from __future__ import annotations

import statistics
import time

import torch
from record import arguments, record

from dao_ase.layers import PairAttention

WIDTH, HEADS, PAIR_WIDTH = 384, 8, 777  # the paper's
SIZES = (8, 20, 50)
CRYSTALS = 4


def edge_by_edge(layer: PairAttention, atoms: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Query, key and value of every edge from the states of its two atoms and its feature."""
    first, second = atoms.unsqueeze(2).expand(*pairs.shape[:3], -1), atoms.unsqueeze(1).expand(*pairs.shape[:3], -1)
    weights, biases = layer.atom.weight.chunk(3), layer.atom.bias.chunk(3)
    query, key, value = (
        torch.nn.functional.linear(end, weight, bias)
        for end, weight, bias in zip((first, second, second), weights, biases, strict=True)
    )
    return _attend(layer, query, key, value, pairs)


def pair_by_pair(layer: PairAttention, atoms: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Atoms are projected once; keys and values of every pair are made by adding its projected feature."""
    query, key, value = layer.atom(atoms).chunk(3, -1)
    return _attend(layer, query.unsqueeze(2), key.unsqueeze(1), value.unsqueeze(1), pairs)


def _attend(layer: PairAttention, query, key, value, pairs: torch.Tensor) -> torch.Tensor:
    heads, edge = (layer.heads, layer.head_width), layer.pair(pairs)
    logits = (query * (key + edge)).unflatten(-1, heads).sum(-1) / layer.head_width**0.5
    mixed = (logits.softmax(2).unsqueeze(-1) * (value + edge).unflatten(-1, heads)).sum(2)
    return layer.out(mixed.flatten(2))


def seconds(call, layer: PairAttention, atoms: torch.Tensor, pairs: torch.Tensor, repeats: int) -> float:
    """Median time of a forward and a backward pass."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call(layer, atoms, pairs).square().sum().backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    layer = PairAttention(WIDTH, HEADS, PAIR_WIDTH)
    figures = {}
    for size in SIZES:
        atoms = torch.randn(CRYSTALS, size, WIDTH, requires_grad=True)
        pairs = torch.randn(CRYSTALS, size, size, PAIR_WIDTH)  # as in the network: nothing is learnt below them
        repeats = 1 if options.quick else 15
        forms = (edge_by_edge, pair_by_pair, PairAttention.__call__)
        outputs = [call(layer, atoms, pairs) for call in forms]
        assert all(torch.allclose(one, outputs[0], atol=1e-4) for one in outputs)
        slow, middle, fast = (seconds(call, layer, atoms, pairs, repeats) for call in forms)
        figures[f"{size} atoms"] = {
            "edge by edge, ms": round(1e3 * slow, 2),
            "pair by pair, ms": round(1e3 * middle, 2),
            "absorbed, ms": round(1e3 * fast, 2),
            "times faster": round(slow / fast, 1),
        }
    record("attention", figures, seed=options.seed)
