"""Neighbours: the same pairs as ASE finds, whatever the cell; rows that know their opposites."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dao_ase.neighbors import Neighbors, find_pairs, join
from named import NAMED, skewed

CELLS = {
    **NAMED,
    "tiny": Atoms("Al", cell=[[0, 2.0, 2.0], [2.0, 0, 2.0], [2.0, 2.0, 0]], pbc=True),
    "needle": Atoms("CO", positions=[[0, 0, 0], [1.1, 0, 0]], cell=np.diag([2.0, 2.5, 40.0]), pbc=True),
    "left-handed": Atoms("SiC", scaled_positions=[[0, 0, 0], [0.3, 0.2, 0.1]], cell=-3 * np.eye(3), pbc=True),
    "outside the cell": Atoms("SiC", positions=[[-9.0, 0, 0], [17.1, 4, 30]], cell=4 * np.eye(3), pbc=True),
    "huge": Atoms("H5", positions=np.random.default_rng(0).random((5, 3)) * 60, cell=60 * np.eye(3), pbc=True),
    "slab": Atoms(
        "Au2", positions=[[0, 0, 9], [1.5, 1.5, 11]], cell=np.diag([3.0, 3.0, 20.0]), pbc=[True, True, False]
    ),
    "slab without a height": Atoms("Au", cell=[[3, 0, 0], [0, 3, 0], [0, 0, 0]], pbc=[True, True, False]),
    "chain": Atoms("C", cell=[[0, 0, 0], [0, 0, 0], [0, 0.4, 1.4]], pbc=[False, False, True]),
    "molecule": Atoms("OH2", positions=[[0, 0, 0.1], [0, 0.76, -0.5], [0, -0.76, -0.5]]),
    "lone atom": Atoms("He"),
}


def as_set(first, second, shift) -> list[tuple[int, ...]]:
    """Directed pairs as sorted tuples."""
    return sorted(
        (int(i), int(j), *(int(s) for s in shift_)) for i, j, shift_ in zip(first, second, shift, strict=True)
    )


def both_directions(pairs) -> list[tuple[int, ...]]:
    return sorted(as_set(*pairs) + as_set(pairs.second, pairs.first, -pairs.shift))


def search(atoms: Atoms, cutoff: float, backend: str = "vesin"):
    positions, lattice = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    return find_pairs(positions, lattice, cutoff, periodic=atoms.pbc.tolist(), backend=backend)


def brute_force_radius(x, y, r, max_num_neighbors=32, **_):
    """torch_cluster.radius as documented: for each row of y the rows of x within r, silently cut at max_num_neighbors."""
    rows = [np.flatnonzero((x - center).norm(dim=1) <= r)[:max_num_neighbors] for center in y]
    center = np.repeat(np.arange(len(y)), [len(row) for row in rows])
    return torch.tensor(center), torch.tensor(np.concatenate(rows) if rows else [], dtype=torch.int64)


@pytest.fixture
def cluster(monkeypatch):
    """torch-cluster where it is installed, else a stand-in with the same contract."""
    try:
        import torch_cluster  # noqa: F401
    except ImportError:
        monkeypatch.setitem(sys.modules, "torch_cluster", SimpleNamespace(radius=brute_force_radius))


@pytest.mark.parametrize("rotation", [None, 1, 2])
@pytest.mark.parametrize("cutoff", [1.0, 3.1, 6.3])
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("backend", ["vesin", "cluster"])
def test_same_pairs_as_ase(name, cutoff, rotation, backend, cluster):
    atoms = CELLS[name].copy()
    if rotation is not None:
        matrix = Rotation.random(random_state=rotation).as_matrix()
        atoms.set_cell(atoms.cell.array @ matrix)
        atoms.positions = atoms.positions @ matrix
    expected = as_set(*neighbor_list("ijS", atoms, cutoff))
    assert both_directions(search(atoms, cutoff, backend)) == expected


@pytest.mark.parametrize("backend", ["vesin", "cluster"])
def test_a_cell_skewed_a_hundredfold_has_the_same_neighbors(backend, cluster):
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    flat = atoms.copy()
    flat.set_cell(np.array([[1, 0, 0], [100, 1, 0], [37, -60, 1]]) @ atoms.cell.array)
    ends = []
    for crystal in (atoms, flat):
        first, second, shift = search(crystal, 4.3, backend)
        vectors = crystal.positions[second] - crystal.positions[first] + shift.numpy() @ crystal.cell.array
        ends.append(sorted(map(tuple, np.round(np.c_[first, second, np.linalg.norm(vectors, axis=1)], 6))))
    assert ends[0] == ends[1]


def test_no_neighbor_is_cut_in_silence(cluster):
    """A hundred neighbours and more, beyond torch-cluster's default bound and beyond our first guess."""
    atoms = bulk("Cu")
    assert len(search(atoms, 9.0, "cluster").first) == len(search(atoms, 9.0).first) > 100


def test_cluster_backend_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_cluster", None)
    with pytest.raises(ImportError, match=r"dao-ase\[cluster\]"):
        search(bulk("Cu"), 3.0, "cluster")


@pytest.mark.parametrize("periodic", [[True, True, False], [True, False, False]])
def test_an_atom_that_flew_away_from_a_slab_is_left_alone(periodic):
    """Vesin's own search along free axes takes a minute here."""
    slab = Atoms(
        "Au3", positions=[[0, 0, 0], [1.5, 1.5, 2], [0.3, 0.2, 2e4]], cell=np.diag([3.0, 3.0, 9.0]), pbc=periodic
    )
    near = slab[:2]
    assert both_directions(search(slab, 2.9)) == as_set(*neighbor_list("ijS", near, 2.9))
    assert {2} < {int(atom) for atom in search(slab, 3.1).first}  # its own image


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("H2", positions=[[0, 0, 0], [1e7, 0, 0]]),
        Atoms("H3", positions=[[0, 0, 0], [1e4, 0, 0], [0, 1e4, 0]]),
        Atoms("H2", positions=[[0, 0, 0], [0, 0, 1e7]], cell=np.diag([5.0, 5.0, 0.0]), pbc=[True, True, False]),
        Atoms("H", cell=np.diag([1e7, 5.0, 5.0]), pbc=True),
        Atoms("H", cell=np.diag([5.0, 4e3, 4e3]), pbc=True),
    ],
)
def test_atoms_that_flew_apart_do_not_end_the_process(atoms):
    """Vesin divides by zero there, which no Python survives."""
    with pytest.raises(ValueError, match=r"too long or too flat a space .* flown away, or lengths are in other units"):
        search(atoms, 5.0)


@pytest.mark.parametrize("corner", [[4e4, 0, 0], [900, 900, 0], [1800, 1800, 8], [1e6, 1e6, 1e6]])
def test_atoms_that_are_merely_far_apart_have_no_pairs(corner):
    assert not len(search(Atoms("H2", positions=[[0, 0, 0], corner]), 5.0).first)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="finite"):
        find_pairs(torch.tensor([[0.0, 0.0, torch.nan]]), torch.eye(3), 3.0)
    with pytest.raises(ValueError, match="none of vesin, cluster"):
        find_pairs(torch.zeros(1, 3), torch.eye(3), 3.0, backend="kd-tree")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7), st.floats(0.5, 5.0))
def test_rows_hold_every_pair_and_its_opposite(seed, count, cutoff):
    rng = np.random.default_rng(seed)
    positions = torch.tensor(4 * rng.random((count, 3)))
    lattice = torch.tensor(4 * np.eye(3) + rng.normal(size=(3, 3)))
    pairs = find_pairs(positions, lattice, cutoff)
    rows = Neighbors.from_pairs(pairs, count)
    assert int(rows.present.sum()) == 2 * len(pairs.first)
    vectors = rows.vectors(positions, lattice.unsqueeze(0))
    opposite = vectors.flatten(0, 1)[rows.reverse]
    assert torch.equal(vectors[rows.present], -opposite[rows.present]) or torch.allclose(
        vectors[rows.present], -opposite[rows.present], atol=1e-12
    )
    assert (vectors[rows.present].norm(dim=-1) < cutoff).all()
    flat = torch.arange(rows.index.numel()).view(rows.index.shape)
    assert torch.equal(rows.reverse.flatten()[rows.reverse], flat)  # the opposite of the opposite
    assert torch.equal(rows.reverse[~rows.present], flat[~rows.present])


def test_batches_are_joined_without_mixing():
    structures = [NAMED["silicon"], skewed()]
    pairs = [search(atoms, 4.0) for atoms in structures]
    joined = join(pairs, [2, 5])
    assert len(joined.first) == sum(len(one.first) for one in pairs)
    assert ((joined.first < 2) == (joined.second < 2)).all()
