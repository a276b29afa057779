"""Pair attention with its algebra absorbed equals the paper's form, written out pair by pair."""

import pytest
import torch

from dao_ase.layers import GatedAddition, PairAttention, sinusoid


def naive_attention(layer: PairAttention, atoms: torch.Tensor, pairs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Keys and values of every pair, as in the paper: k_ij = W_k h_j + W_e e_ij, v_ij = W_v h_j + W_e e_ij."""
    crystals, count, width = atoms.shape
    heads = (layer.heads, layer.head_width)
    query, key, value = (part.unflatten(-1, heads) for part in layer.atom(atoms).chunk(3, -1))
    edge = layer.pair(pairs).unflatten(-1, heads)
    keys, values = key[:, None] + edge, value[:, None] + edge
    logits = torch.einsum("bihc,bijhc->bijh", query, keys) / layer.head_width**0.5
    weights = logits.masked_fill(~mask[:, None, :, None], -torch.inf).softmax(2)
    return layer.out(torch.einsum("bijh,bijhc->bihc", weights, values).reshape(crystals, count, width))


@pytest.mark.parametrize("padded", [False, True])
def test_absorbed_attention_equals_the_naive_form(padded):
    torch.manual_seed(0)
    layer = PairAttention(48, 6, 20)
    atoms, pairs = torch.randn(3, 7, 48), torch.randn(3, 7, 7, 20)
    mask = torch.ones(3, 7, dtype=torch.bool)
    if padded:
        mask[1, 4:] = False
    absorbed = layer(atoms, pairs, mask if padded else None)
    torch.testing.assert_close(absorbed[mask], naive_attention(layer, atoms, pairs, mask)[mask], rtol=1e-5, atol=1e-5)


def test_width_must_divide_into_heads():
    with pytest.raises(ValueError, match="not a multiple"):
        PairAttention(50, 8, 4)


def test_gate_mixes_old_and_new():
    gate = GatedAddition(4)
    torch.nn.init.zeros_(gate.gate.weight)
    torch.nn.init.zeros_(gate.gate.bias)
    torch.testing.assert_close(gate(torch.ones(2, 4), torch.zeros(2, 4)), torch.full((2, 4), 0.5))


def test_sinusoid_tells_times_apart():
    features = sinusoid(torch.tensor([0.0, 0.001, 0.5, 1.0]), 64)
    assert features.shape == (4, 64)
    assert torch.pdist(features).min() > 0.1
