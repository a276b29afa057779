"""Forward and backward of one attention layer: pair algebra absorbed into the atoms, against the same layer pair by pair."""

from __future__ import annotations

import statistics
import time

import torch
from record import arguments, record

from dao_ase.layers import PairAttention

WIDTH, HEADS, PAIR_WIDTH = 384, 8, 777  # the paper's
SIZES = (8, 20, 50)
CRYSTALS = 4


def naive(layer: PairAttention, atoms: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Keys and values of every pair, as the paper writes them."""
    heads = (layer.heads, layer.head_width)
    query, key, value = (part.unflatten(-1, heads) for part in layer.atom(atoms).chunk(3, -1))
    edge = layer.pair(pairs).unflatten(-1, heads)
    logits = torch.einsum("bihc,bijhc->bijh", query, key[:, None] + edge) / layer.head_width**0.5
    mixed = torch.einsum("bijh,bijhc->bihc", logits.softmax(2), value[:, None] + edge)
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
        slow, fast = (seconds(call, layer, atoms, pairs, repeats) for call in (naive, PairAttention.__call__))
        figures[f"{size} atoms"] = {
            "pair by pair, ms": round(1e3 * slow, 2),
            "absorbed, ms": round(1e3 * fast, 2),
            "times faster": round(slow / fast, 1),
        }
    record("attention", figures, seed=options.seed)
