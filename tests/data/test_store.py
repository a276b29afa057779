"""A store: batches over many shards equal the crystals one by one; what is unfinished or does not fit is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dao_ase.data.records import Record, pack
from dao_ase.data.shards import ShardError, write_shard
from dao_ase.data.store import FORMAT, VERSION, CrystalStore
from dao_ase.whole_files import write_json


def make_record(number: int) -> Record:
    """A crystal that is all different from the others; every third has an energy, every shard but the last has forces."""
    rng = np.random.default_rng(number)
    atoms = 1 + number % 5
    return Record(
        f"id-{number}",
        rng.normal(size=(3, 3)) + 5 * np.eye(3),
        rng.random((atoms, 3)),
        rng.integers(1, 90, atoms),
        f"file-{number % 2}",
        number,
        labels={"energy": -float(number)} if number % 3 == 0 else {},
        atom_labels={"forces": rng.normal(size=(atoms, 3))} if number < 8 else {},
        texts={"family": "oxide"} if number == 3 else {},
    )


RECORDS = [make_record(number) for number in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    entries = []
    for shard, chosen in enumerate([RECORDS[:4], RECORDS[4:5], RECORDS[5:8], RECORDS[8:]]):
        columns = pack(chosen)
        write_shard(path / f"{shard}.safetensors", columns)
        entries.append(
            {"file": f"{shard}.safetensors", "crystals": len(chosen), "atoms": len(columns["atomic_numbers"])}
        )
    write_json(path / "index.json", {"format": FORMAT, "version": VERSION, "shards": entries})
    return path


@settings(max_examples=50, deadline=None)
@given(indices=st.lists(st.integers(0, 9), max_size=20))
def test_batch_is_the_crystals_in_order(folder, indices):
    store = CrystalStore.open(folder)
    batch = store.batch(np.array(indices, dtype=np.int64))
    assert len(batch) == len(indices)
    assert batch.dtype == torch.float32 and batch.atomic_numbers.dtype == torch.int64
    for crystal, index in zip(batch, indices, strict=True):
        np.testing.assert_allclose(crystal.lattice[0], RECORDS[index].lattice, rtol=1e-6)
        np.testing.assert_allclose(crystal.frac_coords, RECORDS[index].frac_coords, atol=1e-7)
        assert crystal.atomic_numbers.tolist() == RECORDS[index].atomic_numbers.tolist()


def test_labels_ids_texts_and_provenance(folder):
    store = CrystalStore.open(folder)
    assert store.ids.tolist() == [record.id for record in RECORDS]
    assert store.num_atoms.tolist() == [len(record.atomic_numbers) for record in RECORDS]
    assert list(store.labels) == ["energy"] and len(store.labels) == 1
    np.testing.assert_array_equal(store.labels["energy"], [0, *[np.nan] * 2, -3, *[np.nan] * 2, -6, *[np.nan] * 2, -9])
    assert store.texts("family").tolist() == ["", "", "", "oxide", *[""] * 6]
    assert store.provenance(7) == ("file-1", 7)
    forces = store.gather("atom.forces", np.array([9, 2]))
    assert np.isnan(forces[:5]).all()
    np.testing.assert_allclose(forces[5:], RECORDS[2].atom_labels["forces"], rtol=1e-6)
    with pytest.raises(KeyError, match="no label 'gap'"):
        store.labels["gap"]
    with pytest.raises(IndexError):
        store[10]
    assert store[-1].atomic_numbers.tolist() == RECORDS[9].atomic_numbers.tolist()


def test_what_cannot_be_opened(folder, tmp_path):
    with pytest.raises(ShardError, match="does not exist"):
        CrystalStore.open(tmp_path / "nothing")
    with pytest.raises(ShardError, match="data build"):
        CrystalStore.open(tmp_path)
    (tmp_path / ".build-0123").mkdir()
    with pytest.raises(ShardError, match="did not finish"):
        CrystalStore.open(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = (copy / "1.safetensors").read_bytes()
    (copy / "1.safetensors").write_bytes(content[:-1])
    with pytest.raises(ShardError, match="truncated"):
        CrystalStore.open(copy)
    shutil.copy(copy / "0.safetensors", copy / "1.safetensors")
    with pytest.raises(ShardError, match="the index says"):
        CrystalStore.open(copy)
    (copy / "1.safetensors").unlink()
    with pytest.raises(ShardError, match="there is no shard"):
        CrystalStore.open(copy)
    (copy / "index.json").write_text(json.dumps({"format": FORMAT, "version": VERSION + 1, "shards": []}))
    with pytest.raises(ShardError, match="version"):
        CrystalStore.open(copy)
    (copy / "index.json").write_text("{")
    with pytest.raises(ShardError, match="damaged"):
        CrystalStore.open(copy)
