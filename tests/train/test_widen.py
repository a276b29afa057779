"""A widened potential is the same function, and its copied channels learn different things."""

import torch

from dao_ase import checkpoint
from dao_ase.derivatives import pairs_of, predict_crystals
from dao_ase.neighbors import Neighbors
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.train.widen import main, widen
from named import NAMED, random_potential, rattled, to_crystals

CRYSTALS = to_crystals(*(rattled(NAMED["salt"], 0.1, seed) for seed in range(3)))


def test_the_function_is_the_same():
    narrow = random_potential()
    for times in (2, 3):
        wide = widen(narrow, times)
        before, after = predict_crystals(narrow, CRYSTALS), predict_crystals(wide, CRYSTALS)
        assert wide.config.width == times * narrow.config.width
        assert torch.allclose(before.energies, after.energies, atol=1e-9)
        assert torch.allclose(before.forces, after.forces, atol=1e-9)


def test_copies_learn_different_things():
    wide = widen(random_potential()).requires_grad_()
    crystal = CRYSTALS[0]
    neighbors = Neighbors.from_pairs(pairs_of(wide, crystal), len(crystal.frac_coords))
    wide(crystal.atomic_numbers, neighbors.vectors(crystal.positions, crystal.lattice), neighbors).sum().backward()
    width = wide.config.width // 2
    gradient = wide.head[1].weight.grad
    assert not torch.allclose(gradient[:width], gradient[width:])


def test_command_line(tmp_path, monkeypatch):
    narrow = random_potential()
    checkpoint.save(tmp_path / "narrow.safetensors", narrow.state_dict(), narrow.header() | {"name": "small"})
    arguments = ["widen", str(tmp_path / "narrow.safetensors"), str(tmp_path / "wide.safetensors")]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    tensors, header = checkpoint.load(tmp_path / "wide.safetensors")
    wide = Potential(PotentialConfig.from_header(header["config"]))
    wide.load_state_dict(tensors)
    assert header["name"] == "small"
    assert torch.allclose(predict_crystals(narrow, CRYSTALS).energy, predict_crystals(wide, CRYSTALS).energy, atol=1e-4)
