"""A larger potential is the same function, and what is new in it learns."""

from dataclasses import asdict

import pytest
import torch

from dao_ase import checkpoint
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.derivatives import pairs_of, predict_crystals
from dao_ase.neighbors import Neighbors
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.train.grow import deepen, extend, main, widen
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
    wide = widen(random_potential())
    width, by_weight = wide.config.width // 2, gradient(wide)["head.1.weight"]
    assert not torch.allclose(by_weight[:width], by_weight[width:])


def gradient(model: Potential) -> dict[str, torch.Tensor]:
    """The derivative of the energy of one crystal by each weight."""
    crystal = CRYSTALS[0]
    neighbors = Neighbors.from_pairs(pairs_of(model, crystal), len(crystal.frac_coords))
    model.requires_grad_()
    model(crystal.atomic_numbers, neighbors.vectors(crystal.positions, crystal.lattice), neighbors).sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 4},
        {"aligned": True},
        {"rank": 3},
        {"layers": 3, "rank": 4, "aligned": True, "legendre": True, "logarithms": True},
    ],
)
def test_more_layers_and_scalars_are_the_same_function(settings):
    small = random_potential()
    large = extend(small, **settings)
    before, after = predict_crystals(small, CRYSTALS), predict_crystals(large, CRYSTALS)
    assert torch.allclose(before.energies, after.energies, atol=1e-9)
    assert torch.allclose(before.forces, after.forces, atol=1e-9)
    assert gradient(large)["blocks.1.attention.out.weight"].abs().sum(0).min() > 0  # the new columns learn, too


def noisy_crystals() -> tuple[torch.Tensor, ...]:
    """What DAO-G's network reads: elements, coordinates, the cell's code and matrix, a time."""
    torch.manual_seed(0)
    return (
        torch.randint(1, 90, (2, 5)),
        torch.rand(2, 5, 3),
        torch.randn(2, 6),
        4 * torch.eye(3).expand(2, 3, 3),
        torch.rand(2),
    )


def test_more_layers_of_dao_g_are_the_same_function_and_learn():
    small = Denoiser(DenoiserConfig(width=16, layers=2, heads=2, pair_width=8))
    for block in small.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    large = deepen(small, 3)
    crystals = noisy_crystals()
    before, after = small(*crystals), large(*crystals)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    sum(part.square().sum() for part in after).backward()
    assert large.blocks[2].modulation.weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="adaptive"):
        deepen(small, 1)


def test_the_command_deepens_dao_g(tmp_path, monkeypatch):
    small = Denoiser(DenoiserConfig(width=16, layers=2, heads=2, pair_width=8))
    header = {"model": "denoiser", "config": asdict(small.config), "process": "flow"}
    checkpoint.save(tmp_path / "small.safetensors", small.state_dict(), header)
    command = ["grow", str(tmp_path / "small.safetensors"), str(tmp_path / "large.safetensors"), "--layers", "4"]
    monkeypatch.setattr("sys.argv", command)
    main()
    tensors, header = checkpoint.load(tmp_path / "large.safetensors")
    checkpoint.fill(Denoiser(DenoiserConfig(**header["config"])), tensors, tmp_path)
    assert header["config"]["layers"] == 4 and header["process"] == "flow"
    monkeypatch.setattr("sys.argv", [*command, "--rank", "4"])
    with pytest.raises(SystemExit):
        main()


def test_polynomials_are_the_same_function():
    powers = extend(random_potential(), aligned=True)
    legendre = extend(extend(powers, legendre=True), logarithms=True)
    before, after = predict_crystals(powers, CRYSTALS), predict_crystals(legendre, CRYSTALS)
    assert torch.allclose(before.energies, after.energies, atol=1e-9)
    assert torch.allclose(before.forces, after.forces, atol=1e-9)


def test_it_only_grows():
    with pytest.raises(ValueError, match="smaller"):
        extend(random_potential(), layers=1)


def test_weights_that_do_not_fit_are_named(tmp_path, monkeypatch):
    narrow = random_potential()
    checkpoint.save(tmp_path / "cut.safetensors", {"x": narrow.reference}, narrow.header())
    monkeypatch.setattr("sys.argv", ["grow", str(tmp_path / "cut.safetensors"), str(tmp_path / "wide.safetensors")])
    with pytest.raises(
        checkpoint.CheckpointError, match=r"cut\.safetensors' holds weights of another model.*1 not known"
    ):
        main()


def test_command_line(tmp_path, monkeypatch):
    narrow = random_potential()
    checkpoint.save(tmp_path / "narrow.safetensors", narrow.state_dict(), narrow.header() | {"name": "small"})
    arguments = ["grow", str(tmp_path / "narrow.safetensors"), str(tmp_path / "wide.safetensors")]
    arguments += ["--times", "2", "--layers", "3", "--aligned"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    tensors, header = checkpoint.load(tmp_path / "wide.safetensors")
    wide = Potential(PotentialConfig.from_header(header["config"]))
    wide.load_state_dict(tensors)
    assert header["name"] == "small"
    assert torch.allclose(predict_crystals(narrow, CRYSTALS).energy, predict_crystals(wide, CRYSTALS).energy, atol=1e-4)
