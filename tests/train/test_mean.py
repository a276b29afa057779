"""The mean of weights is the mean of numbers; what is counted, not learnt, is the first file's."""

import pytest
import torch

from dao_ase import checkpoint
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.train.grow import extend
from dao_ase.train.mean import main, mean
from named import random_potential


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for seed, path in enumerate(paths):
        model = random_potential(seed)
        model.reference.fill_(seed)
        checkpoint.save(path, model.state_dict(), model.header())
    return paths


def test_command_writes_the_mean(files, tmp_path, monkeypatch):
    target = tmp_path / "mean.safetensors"
    monkeypatch.setattr("sys.argv", ["mean", str(target), f"{files[0]}=0.75", f"{files[1]}=0.25"])
    main()
    tensors, header = checkpoint.load(target)
    first, second = (checkpoint.load(path)[0] for path in files)
    for name in ("head.1.weight", "blocks.0.attention.query.bias"):
        torch.testing.assert_close(tensors[name], 0.75 * first[name] + 0.25 * second[name])
    assert (tensors["reference"] == 0).all() and tensors["trained"].dtype == torch.bool
    assert list(header["mean"].values()) == [0.75, 0.25]
    Potential(PotentialConfig.from_header(header["config"])).load_state_dict(tensors)


def test_what_has_no_mean_is_refused(files, tmp_path):
    with pytest.raises(ValueError, match="sum to one"):
        mean({files[0]: 0.5, files[1]: 0.6})
    other = extend(random_potential(), layers=3)
    checkpoint.save(tmp_path / "other.safetensors", other.state_dict(), other.header())
    with pytest.raises(ValueError, match="another network"):
        mean({files[0]: 0.5, tmp_path / "other.safetensors": 0.5})


def test_command_says_what_comes_first(files, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mean", f"{files[0]}=0.5", f"{files[1]}=0.5", "mean.safetensors"])
    with pytest.raises(SystemExit):
        main()
    assert "the file to write comes first" in capsys.readouterr().err
