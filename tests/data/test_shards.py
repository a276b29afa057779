"""A shard: what is written is read, and what is damaged is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from dao_ase.data.shards import (
    ShardError,
    decode_texts,
    encode_texts,
    gather_atoms,
    open_shard,
    write_shard,
)

COLUMNS = {
    "lattice": np.arange(18, dtype=np.float32).reshape(2, 3, 3),
    "num_atoms": np.array([1, 2], dtype=np.int32),
    "row": np.array([4, 7], dtype=np.int64),
    "label.energy": np.array([-1.5, np.nan]),
    "atomic_numbers": np.array([6, 1, 8], dtype=np.uint8),
    "atom.forces": np.zeros((0, 3), dtype=np.float32),
}


@pytest.fixture
def shard(tmp_path):
    write_shard(tmp_path / "a.safetensors", COLUMNS, {"rows": 2})
    return tmp_path / "a.safetensors"


def test_round_trip(shard):
    columns, notes = open_shard(shard)
    assert notes == {"rows": 2} and set(columns) == set(COLUMNS)
    for name, expected in COLUMNS.items():
        assert columns[name].dtype == expected.dtype
        np.testing.assert_array_equal(columns[name], expected)


def test_safetensors_reads_it(shard):
    np.testing.assert_array_equal(load_file(shard)["lattice"], COLUMNS["lattice"])


@pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
def test_truncated(shard, length):
    content = shard.read_bytes()
    shard.write_bytes(content[:length])
    with pytest.raises(ShardError, match=r"truncated|not a shard"):
        open_shard(shard)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flipped_bit_is_found(tmp_path_factory, data):
    """In the header it may be a change of nothing but a note's spelling; in the data it is always found."""
    path = tmp_path_factory.mktemp("shard") / "a.safetensors"
    write_shard(path, COLUMNS)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(start, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    with pytest.raises(ShardError, match="checksum"):
        open_shard(path)
    open_shard(path, verify=False)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_other_file_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("shard") / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(ShardError):
        open_shard(path)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts(texts):
    assert decode_texts(*encode_texts(texts)) == texts


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_gather_atoms(counts, data):
    counts = np.array(counts)
    first = np.cumsum(counts) - counts
    chosen = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=6)), dtype=np.int64)
    expected = [atom for crystal in chosen for atom in range(first[crystal], first[crystal] + counts[crystal])]
    assert gather_atoms(counts, first, chosen).tolist() == expected
