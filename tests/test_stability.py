"""DAO-P's stability model: symmetries, gradients, weights on the disk."""

import pytest
import torch

from dao_ase import checkpoint
from dao_ase.crystals import Crystals
from dao_ase.denoiser import DenoiserConfig
from dao_ase.processes import Geometry
from dao_ase.stability import StabilityModel, energies_above_hull, load_stability

CONFIG = DenoiserConfig(width=32, layers=2, heads=4, pair_width=16, frequencies=4, radial=6)
NUMBERS = torch.tensor([[11, 17, 8, 8, 26], [14, 14, 6, 6, 6]])
COUNTS = torch.tensor([5, 5])


@pytest.fixture(scope="module")
def model() -> StabilityModel:
    torch.manual_seed(0)
    network = StabilityModel(CONFIG).double()
    for parameter in network.parameters():  # the energy head and AdaLN start at zero: move away from it
        parameter.data += 0.1 * torch.randn_like(parameter)
    network.fit_energies(torch.rand(50, dtype=torch.float64))
    return network.eval().requires_grad_(False)


@pytest.fixture
def geometry() -> Geometry:
    rng = torch.Generator().manual_seed(1)
    like = {"generator": rng, "dtype": torch.float64}
    return Geometry(torch.rand(2, 5, 3, **like), torch.randn(2, 6, **like))


def energy(model, coords, code, numbers=NUMBERS, mask=None):
    counts = COUNTS if mask is None else mask.sum(1)
    time = torch.tensor([0.3, 0.8], dtype=torch.float64)
    return model(numbers, coords, code, model.denoiser.decode_lattice(code, counts), time, mask)[2]


def test_origin_and_order_of_atoms_change_nothing(model, geometry):
    expected = energy(model, geometry.coords, geometry.code)
    torch.testing.assert_close(energy(model, (geometry.coords + 0.37) % 1, geometry.code), expected)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(energy(model, geometry.coords[:, order], geometry.code, NUMBERS[:, order]), expected)


def test_padding_changes_nothing(model, geometry):
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[:, 5:] = False
    coords = torch.nn.functional.pad(geometry.coords, (0, 0, 0, 2), value=0.3)
    padded = energy(model, coords, geometry.code, torch.nn.functional.pad(NUMBERS, (0, 2)), mask)
    torch.testing.assert_close(padded, energy(model, geometry.coords, geometry.code))


def test_the_denoising_heads_are_those_of_the_denoiser(model, geometry):
    lattice = model.denoiser.decode_lattice(geometry.code, COUNTS)
    arguments = (NUMBERS, geometry.coords, geometry.code, lattice, torch.tensor([0.3, 0.8], dtype=torch.float64))
    for own, expected in zip(model(*arguments)[:2], model.denoiser(*arguments), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=0)


def test_gradient_is_that_of_the_energy(model, geometry):
    """Against finite differences in float32's best place: bfloat16 products leave about one per cent."""
    single = StabilityModel(CONFIG)
    single.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    coords, code = geometry.coords, geometry.code
    found = single.eval().gradient(Geometry(coords.float(), code.float()), NUMBERS, COUNTS, 0.6)

    def at(coords, code):
        time = torch.full((2,), 0.6, dtype=torch.float64)
        return model(NUMBERS, coords, code, model.denoiser.decode_lattice(code, COUNTS), time)[2]

    step, rng = 1e-4, torch.Generator().manual_seed(2)
    for part in ("coords", "code"):
        direction = torch.randn(getattr(geometry, part).shape, generator=rng, dtype=torch.float64)
        moves = [
            (coords + sign * step * direction, code) if part == "coords" else (coords, code + sign * step * direction)
            for sign in (1, -1)
        ]
        expected = (at(*moves[0]) - at(*moves[1])) / (2 * step)
        along = (getattr(found, part).double() * direction).flatten(1).sum(1)
        torch.testing.assert_close(along, expected, rtol=0.05, atol=0.02)
    assert found.coords.sum(1).abs().max() < 0.05  # a shift of the origin costs nothing


def test_energies_above_hull_do_not_see_rotation_or_batch(model):
    single = StabilityModel(CONFIG)
    single.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()})
    rng = torch.Generator().manual_seed(3)
    crystals = Crystals(
        5 * torch.eye(3) + torch.rand(3, 3, 3, generator=rng),
        torch.rand(11, 3, generator=rng),
        torch.randint(1, 90, (11,), generator=rng),
        torch.tensor([5, 2, 4]),
    )
    together = energies_above_hull(single.eval(), crystals)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=rng)).Q
    for index, crystal in enumerate(crystals):
        turned = crystal.replace(lattice=crystal.lattice @ rotation)
        torch.testing.assert_close(energies_above_hull(single, turned)[0], together[index], rtol=0.02, atol=0.01)


def test_save_and_load(model, tmp_path):
    checkpoint.save(tmp_path / "weights.safetensors", model.state_dict(), model.header("flow"))
    loaded, header = load_stability(tmp_path / "weights.safetensors")
    assert header["process"] == "flow" and header["model"] == "stability"
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(model.state_dict()[name].float())


def test_other_weights_are_refused(tmp_path):
    checkpoint.save(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"model": "denoiser"})
    with pytest.raises(checkpoint.CheckpointError, match="no stability model"):
        load_stability(tmp_path / "other.safetensors")
