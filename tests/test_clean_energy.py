"""DAO-P's potential as guidance: its slopes, what it refuses, and how far it may move a crystal."""

import pytest
import torch

from dao_ase.calculator import load_potential
from dao_ase.clean_energy import CleanEnergy
from dao_ase.crystals import Crystals
from dao_ase.denoiser import Denoiser
from dao_ase.derivatives import predict_crystals
from dao_ase.guidance import Guidance, GuidanceSettings
from dao_ase.processes import Diffusion, Flow, Geometry, centre
from dao_ase.stability import StabilityModel
from generation import TINY

NUMBERS = torch.tensor([[11, 17, 0], [22, 8, 8]])
COUNTS = torch.tensor([2, 3])
MASK = torch.tensor([[True, True, False], [True, True, True]])
SPREAD = 0.15


@pytest.fixture(scope="module")
def energy() -> CleanEnergy:
    return CleanEnergy(load_potential(dtype="float64"), Denoiser(TINY).double(), SPREAD)


def crystals_of(energy: CleanEnergy, geometry: Geometry) -> Crystals:
    return Crystals(energy.lattice(geometry.code, COUNTS), geometry.coords[MASK], NUMBERS[MASK], COUNTS)


@pytest.fixture
def geometry(energy: CleanEnergy) -> Geometry:
    rng = torch.Generator().manual_seed(0)
    coords = torch.tensor([[[0.0] * 3, [0.45, 0.5, 0.55], [0.0] * 3], [[0.0] * 3, [0.3, 0.3, 0.1], [0.7, 0.72, 0.5]]])
    lattice = torch.eye(3) * torch.tensor([3.4, 3.9]).view(2, 1, 1) + 0.1 * torch.randn(2, 3, 3, generator=rng)
    code = energy.denoiser.encode_lattice(lattice.double(), COUNTS)
    return Geometry(coords.double() * MASK.unsqueeze(-1), code)


def test_slopes_are_finite_differences_of_the_energy_per_atom(energy, geometry):
    slopes = energy.gradient(geometry, NUMBERS, COUNTS, MASK)
    step = 1e-4

    def difference(coords: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        high, low = (
            predict_crystals(
                energy.potential,
                crystals_of(energy, Geometry(geometry.coords + sign * coords, geometry.code + sign * code)),
            ).energy
            for sign in (step, -step)
        )
        return (high - low) / (2 * step * COUNTS * SPREAD)

    none, nowhere = torch.zeros_like(geometry.code), torch.zeros_like(geometry.coords)
    for atom, axis in ((0, 0), (1, 2)):
        coords = nowhere.clone()
        coords[:, atom, axis] = 1
        torch.testing.assert_close(difference(coords, none), slopes.coords[:, atom, axis], atol=1e-5, rtol=1e-5)
    for number in range(6):
        code = none.clone()
        code[:, number] = 1
        torch.testing.assert_close(difference(nowhere, code), slopes.code[:, number], atol=1e-5, rtol=1e-5)
    assert (slopes.coords[~MASK] == 0).all()


def test_what_is_too_dense_is_left_alone_and_the_others_are_not(energy, geometry):
    dense = Geometry(geometry.coords, geometry.code - torch.tensor([[0.0], [2.0]]))
    slopes, alone = (energy.gradient(one, NUMBERS, COUNTS, MASK) for one in (dense, geometry))
    assert (slopes.coords[1] == 0).all() and (slopes.code[1] == 0).all()
    torch.testing.assert_close(slopes.coords[0], alone.coords[0])


@pytest.mark.parametrize(("process", "time"), [(Flow(), 0.9), (Diffusion(), 0.1)])
def test_a_target_points_at_the_clean_crystal(process, time, geometry):
    rng = torch.Generator().manual_seed(1)
    noisy, target = process.corrupt(geometry, torch.full((2,), time).double(), MASK, rng)
    clean = process.clean(noisy, target, time)
    torch.testing.assert_close(clean.code, geometry.code, atol=1e-5, rtol=1e-5)
    if isinstance(process, Flow):  # up to a shift of the origin, which is no motion
        away = clean.coords - geometry.coords
        away = centre(away - (away - away[:, :1]).round(), MASK)
        torch.testing.assert_close(away, torch.zeros_like(away), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("process", [Flow(), Diffusion()])
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_predicted_crystal_goes_downhill_and_no_further_than_allowed(energy, geometry, process, scale):
    time = 0.9 if process.CLEAN == 1 else 0.1
    still = Geometry(torch.zeros_like(geometry.coords), geometry.code if process.CLEAN == 1 else geometry.code * 0)
    settings = GuidanceSettings(scale=scale, start=0.0, stop=0.0)
    guidance = Guidance(StabilityModel(TINY), settings, energy)
    steered = guidance.steer(lambda *_: still, process, NUMBERS, COUNTS, MASK)(geometry, time)
    before, after = (process.clean(geometry, one, time) for one in (still, steered))
    slopes = energy.gradient(before, NUMBERS, COUNTS, MASK)
    assert ((after.coords - before.coords) * slopes.coords).sum() < 0 and (
        (after.code - before.code) * slopes.code
    ).sum() < 0
    moved = ((after.coords - before.coords) @ energy.lattice(before.code, COUNTS)).norm(dim=-1).max()
    turned = (after.code - before.code).norm(dim=-1).max()
    if scale > 1:
        assert float(moved) == pytest.approx(settings.furthest) and float(turned) == pytest.approx(
            settings.furthest_code
        )
    else:
        assert moved < settings.furthest and turned < settings.furthest_code
