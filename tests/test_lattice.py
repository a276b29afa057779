"""Six rotation-free numbers describe a lattice."""

import math

import torch

from dao_ase.lattice import from_log_vector, plane_distances, split_volume, symmetric_basis, to_log_vector


def some_lattices(count: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 5 * torch.eye(3, dtype=torch.float64) + torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)


def test_basis_is_orthonormal():
    basis = symmetric_basis()
    torch.testing.assert_close(torch.einsum("kxy,lxy->kl", basis, basis), torch.eye(6, dtype=torch.float64))


def test_round_trip_keeps_the_metric():
    lattice = some_lattices()
    again = from_log_vector(to_log_vector(lattice))
    torch.testing.assert_close(again @ again.mT, lattice @ lattice.mT)


def test_rotations_do_not_change_the_numbers():
    lattice = some_lattices()
    rotation = torch.linalg.qr(torch.randn(20, 3, 3, dtype=torch.float64)).Q
    torch.testing.assert_close(to_log_vector(lattice @ rotation), to_log_vector(lattice))


def test_last_number_is_the_volume():
    lattice, counts = some_lattices(), torch.arange(1, 21)
    vector = split_volume(to_log_vector(lattice), counts, -1)
    torch.testing.assert_close((vector[:, 5] * math.sqrt(3)).exp(), torch.linalg.det(lattice).abs() / counts)
    torch.testing.assert_close(split_volume(vector, counts, +1), to_log_vector(lattice))


def test_plane_distances_of_a_box():
    box = torch.diag(torch.tensor([2.0, 3.0, 5.0]))[None]
    torch.testing.assert_close(plane_distances(box), torch.tensor([[2.0, 3.0, 5.0]]))
