"""Weights on disk: what is read is what was written, or a clear error."""

import pytest
import torch
from safetensors import SafetensorError

from dao_ase.checkpoint import CheckpointError, default_weights, described_by, fill, load, read_header, save


def test_round_trip_is_bit_equal(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(2).bfloat16(), "d": torch.tensor(1.5)}
    save(tmp_path / "w.safetensors", tensors, {"model": "test", "size": [1, 2]})
    again, header = load(tmp_path / "w.safetensors")
    assert header == {"model": "test", "size": [1, 2]} == read_header(tmp_path / "w.safetensors")
    assert all(
        torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_nothing_half_written_stays(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {"bad": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "one bit"])
def test_damaged_file_is_a_clear_error(tmp_path, damage):
    file = tmp_path / "w.safetensors"
    save(file, {"a": torch.randn(100)}, {"model": "test"})
    content = file.read_bytes()
    flipped = content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]
    damaged = {"truncate": content[: len(content) // 2], "garbage": b"\x00" * 100, "empty": b"", "one bit": flipped}
    file.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load(file)


def test_weights_that_cannot_be_written_are_an_error_of_the_system(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("dao_ase.checkpoint.save_file", full)
    with pytest.raises(OSError, match=r"a\.safetensors' cannot be written: No space left"):
        save(tmp_path / "a.safetensors", {"numbers": torch.ones(1)}, {})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no weight file"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="no weights named 'nothing'"):
        default_weights("nothing")


def test_weights_of_another_model_are_refused_with_what_does_not_fit():
    model = torch.nn.Linear(3, 4)
    fill(model, {"weight": torch.ones(4, 3), "bias": torch.ones(4)}, "w.safetensors")
    assert (model.weight == 1).all()
    other = {"weight": torch.zeros(4, 2), "scale": torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        fill(model, other, "w.safetensors")
    assert str(caught.value) == (
        "'w.safetensors' holds weights of another model than the one described; tensors: "
        "1 missing, like bias; 1 not known, like scale; 1 of another shape, like weight [4, 2] for [4, 3]"
    )


def test_a_header_that_describes_no_model_is_refused_with_its_file():
    reason = r"'w\.safetensors' has a header .*: it says nothing of 'config'"
    with pytest.raises(CheckpointError, match=reason), described_by("w.safetensors"):
        raise KeyError("config")
