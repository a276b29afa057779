"""What does not fit into memory is refused before it is begun, in seconds and with the numbers."""

import os

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from dao_ase import memory
from dao_ase.calculator import DAOCalculator
from dao_ase.convert import from_atoms
from dao_ase.derivatives import predict_crystals
from dao_ase.memory import GIB, TooLargeError, bound_compiled_operations, free_memory, refuse_too_large
from dao_ase.relax import relax
from named import random_potential, rattled, to_crystals

MODEL = random_potential()


@pytest.fixture
def little(monkeypatch):
    """A machine on which 64 MiB are free."""
    monkeypatch.setattr(memory, "_of_the_machine", lambda: 64 * 1024**2)


def test_this_machine_has_some():
    free = free_memory()
    assert free is None or 0.01 * GIB < free < 1e5 * GIB


def test_a_container_may_have_less(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("1000000\n")
    (tmp_path / "current").write_text("400000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    monkeypatch.setattr(memory, "_of_the_machine", lambda: GIB)
    assert free_memory() == 600_000
    (tmp_path / "max").write_text("max\n")
    assert free_memory() == GIB
    with pytest.raises(TooLargeError, match=r"3 atoms need about 2\.0 GiB of memory, and .* GiB are free on cpu"):
        (tmp_path / "max").write_text("500000\n")
        refuse_too_large(2 * GIB, "3 atoms")


def test_a_million_atoms_are_refused_before_the_search():
    """The mean density tells; the search itself would take gigabytes."""
    atoms = Atoms(numbers=np.full(10**6, 14), positions=np.zeros((10**6, 3)), cell=np.eye(3) * 60, pbc=True)
    atoms.calc = DAOCalculator(MODEL)
    with pytest.raises(TooLargeError, match="1000000 atoms with about"):
        atoms.get_potential_energy()


def test_large_cells_are_refused_everywhere(little):
    atoms = bulk("Cu", cubic=True) * (7, 7, 7)
    atoms.calc = DAOCalculator(MODEL)
    with pytest.raises(ValueError, match="1372 atoms with about"):
        atoms.get_potential_energy()
    small = bulk("Cu", cubic=True)
    small.calc = atoms.calc
    assert np.isfinite(small.get_potential_energy())
    with pytest.raises(TooLargeError, match="crystal 1: 1372 atoms"):
        predict_crystals(MODEL, to_crystals(small, atoms), slots=1000)
    first, second = relax(to_crystals(atoms, rattled(small)), MODEL, steps=1)
    assert "1372 atoms" in first.reason
    assert second.steps == 1


@pytest.mark.skipif(free_memory() is None, reason="this system does not tell how much memory is free")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_estimate_is_what_autograd_keeps(dtype):
    """At least the tensors that are saved for the backward pass, and not several times as much."""
    from dao_ase.derivatives import pairs_of
    from dao_ase.neighbors import Neighbors

    model = random_potential().to(dtype)
    crystal = from_atoms([rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 2, 2))])
    neighbors = Neighbors.from_pairs(pairs_of(model, crystal), 64)
    vectors = neighbors.vectors(crystal.positions, crystal.lattice).to(dtype).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(crystal.atomic_numbers, vectors, neighbors)
    estimate = model.bytes_needed(64, neighbors.index.numel())
    assert sum(kept.values()) < estimate < 4 * sum(kept.values())


def test_compiled_operations_are_bounded_unless_a_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    bound_compiled_operations()
    assert (os.environ["LRU_CACHE_CAPACITY"], os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) == ("7", "64")
