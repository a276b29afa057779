"""What the Tc model is trained on, and the one that is installed."""

import gzip
import json

import numpy as np
import pytest
from ase.build import bulk

from dao_ase.composition import SYMBOLS, Composition
from dao_ase.properties.installed import installed_models
from dao_ase.properties.predictor import DAOPredictor
from dao_ase.properties.superconductors import POLYMORPHS, read_superconductors
from dao_ase.properties.table import too_close
from named import random_potential


def shares(formula: dict[str, float]) -> np.ndarray:
    found = np.zeros(len(SYMBOLS))
    for symbol, amount in formula.items():
        found[SYMBOLS.index(symbol)] = amount / sum(formula.values())
    return found


@pytest.mark.parametrize(
    ("formula", "held_out", "close"),
    [
        ({"Cs": 1, "V": 3, "Sb": 5}, "CsV3Sb5", True),
        ({"Cs": 1, "V": 2.6, "Nb": 0.4, "Sb": 5}, "CsV3Sb5", True),  # doped, with all of its elements
        ({"Cs": 1, "V": 3, "Sb": 4.3, "Sn": 0.7}, "CsV3Sb5", True),
        ({"Cr": 0.8, "Os": 0.2}, "Cr3Os", True),
        ({"Zr": 4, "Rh": 2, "O": 0.7}, "Zr4Rh2O", True),
        ({"K": 1, "V": 3, "Sb": 5}, "CsV3Sb5", False),  # another compound of the same structure
        ({"Cr": 1}, "Cr3Os", False),
        ({"Zr": 2, "Rh": 1}, "Zr4Rh2O", False),
        ({"Cr": 1, "Os": 3}, "Cr3Os", False),
    ],
)
def test_what_is_close_to_a_held_out_compound(formula, held_out, close):
    assert too_close(shares(formula), shares(dict(Composition.parse(held_out).counts))) == close


def test_what_is_left_out(tmp_path):
    def line(identifier: str, symbol: str, tc: float, repeats: int = 1) -> str:
        sites = [[[[symbol, 1.0]], [k / repeats, 0, 0]] for k in range(repeats)]
        lattice = [[3.0 * repeats, 0, 0], [0, 3.0, 0], [0, 0, 3.0]]
        return json.dumps({"id": identifier, "tc_by_formula": tc, "lattice": lattice, "sites": sites}) + "\n"

    with gzip.open(tmp_path / "3dsc_mp.jsonl.gz", "wt") as file:
        file.writelines(line(f"Sn-{n}", "Sn", 3.7, n) for n in range(1, POLYMORPHS + 3))
        file.writelines([line("Pb", "Pb", 7.2), line("Cu", "Cu", 0.0), line("W", "W", 0.015)])
    np.savez(
        tmp_path / "jarvis_supercon3d.npz",
        n_atoms=np.array([1, 1, 4]),
        numbers=np.array([13, 41, 24, 24, 24, 76]),
        frac_coords=np.linspace(0, 0.8, 18).reshape(6, 3),
        lattice=np.tile(5 * np.eye(3), (3, 1, 1)),
        id=np.array(["Al", "Nb", "Cr3Os"]),
        tc=np.array([1.2, 9.2, 4.0]),
        split=np.array(["train", "test", "train"]),
    )
    table = read_superconductors(tmp_path, random_potential())
    assert sorted(table.ids) == ["Al", "Pb", *(f"Sn-{n}" for n in range(1, POLYMORPHS + 1))]
    assert table.counts == {
        "polymorph": 2, "not positive": 1, "below the least value": 1, "test split": 1, "held out": 1
    }  # fmt: skip
    assert table.families[table.ids.index("Al")] == "computed (JARVIS)"


def test_the_installed_model():
    assert "tc" in installed_models()
    predictor = DAOPredictor("tc")
    assert predictor.target.log and predictor.target.unit == "K"
    assert predictor.cross_validation["MAE of the natural logarithm"] < 0.9
    assert predictor.model.header["excluded"] == ["CsV3Sb5", "Zr4Rh2O", "Zr4Pd2O", "Cr3Os"]
    niobium, gold = predictor.predict([bulk("Nb"), bulk("Au")])
    assert 2 < niobium.value < 20 and niobium.low < niobium.value < niobium.high
    assert gold.value < niobium.value
