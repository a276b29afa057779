"""Splits: no formula on both sides, official ids exactly."""

import gzip
import json

import numpy as np
import pytest
from test_build import AS_IS

from crystals import CRYSTALS, rock_salt, write_npz
from dao_ase.data.build import build
from dao_ase.data.sources import open_source
from dao_ase.data.splits import grouped_split, official_split, read_ids


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits")
    metals, others = "Li Na K Rb Cs Cu Ag Au Mg Ca Sr Ba".split(), "F Cl Br I O S Se Te".split()
    structures = {f"{a}{b}-{i}": rock_salt(a, b, 5.0 + i) for a in metals for b in others for i in range(2)}
    return build([open_source(write_npz(folder / "a.npz", structures))], folder / "store", AS_IS)


def test_formulas_stay_together_and_everything_is_used_once(store):
    parts = grouped_split(store)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(store)))
    formulas = {name: {str(one).split("-")[0] for one in store.ids[indices]} for name, indices in parts.items()}
    assert not formulas["train"] & formulas["test"] and not formulas["train"] & formulas["val"]
    assert 0.7 < len(parts["train"]) / len(store) < 0.9
    again = grouped_split(store)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    assert not np.array_equal(parts["train"], grouped_split(store, seed=1)["train"])
    with pytest.raises(ValueError, match="sum to 1"):
        grouped_split(store, {"train": 0.5})


def test_official_split(tmp_path):
    store = build([open_source(write_npz(tmp_path / "a.npz", CRYSTALS))], tmp_path / "store", AS_IS)
    (tmp_path / "ids.json.gz").write_bytes(
        gzip.compress(json.dumps({"train": ["rutile", "salt"], "val": ["quartz"]}).encode())
    )
    parts = official_split(store, read_ids(tmp_path / "ids.json.gz"))
    assert {name: store.ids[indices].tolist() for name, indices in parts.items()} == {
        "train": ["salt", "rutile"],
        "val": ["quartz"],
    }
    with pytest.raises(ValueError, match="1 of 2 ids of 'test'"):
        official_split(store, {"test": ["salt", "gold"]})
