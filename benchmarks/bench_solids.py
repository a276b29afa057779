"""Solids by matcalc, its calculations unmodified: lattice constant, bulk modulus, elastic constants and phonons.

DAO-P and CHGNet go through the same calls; errors are against experiment (references/solids.json). Elements with one atom
in the cell have no vibration at Γ: their frequencies at X are compared instead. Phonons of CsV3Sb5 are told apart by
their motion: in A1g and E2g the antimony atoms of the honeycomb layers move alone.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from matcalc import ElasticityCalc, EOSCalc, PhononCalc, RelaxCalc
from record import arguments, record

from dao_ase import DAOCalculator

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent
REFERENCES = json.loads((HERE / "references" / "solids.json").read_text("utf-8"))["crystals"]
LEVELS = {"lattice": 3.0, "bulk_modulus": 20.0, "elastic": 30.0, "phonons": 15.0}
"""Percent by which each may miss the measured value."""
STRAINS = (-0.01, -0.005, 0.005, 0.01)


def primitive(name: str) -> Atoms:
    """The crystal in its primitive cell, near its measured size."""
    if name == "CsV3Sb5":
        return ase.io.read(HERE.parent / "examples" / "data" / "CsV3Sb5.cif")
    a = REFERENCES[name]["lattice"]["a"]
    return bulk(name, {"Si": "diamond", "MgO": "rocksalt", "NaCl": "rocksalt"}.get(name, "fcc"), a=a)


def measure(name: str, calculator: Calculator) -> dict[str, dict[str, float]]:
    """Every property of one crystal that has a measured value."""
    relaxed = RelaxCalc(calculator, fmax=0.002, max_steps=1000, fix_symmetry=True).calc(primitive(name))
    structure = relaxed["final_structure"]
    cubic = name != "CsV3Sb5"
    a = (
        float(np.cbrt(structure.volume / len(structure) * (8 if name == "Si" else len(structure) * 4)))
        if cubic
        else 0.0
    )
    found: dict[str, dict[str, float]] = {
        "lattice": {"a": a} if cubic else {"a": structure.lattice.a, "c": structure.lattice.c}
    }
    if cubic:
        curve = EOSCalc(calculator, relax_structure=False, max_abs_strain=0.02, n_points=9, fmax=0.005)
        found["bulk_modulus"] = {"B": float(curve.calc(structure)["bulk_modulus_bm"])}
        found["elastic"] = elastic_constants(name, a, calculator)
    found["phonons"] = frequencies(name, structure, calculator)
    return found


def elastic_constants(name: str, a: float, calculator: Calculator) -> dict[str, float]:
    """Of the conventional cell, whose axes are those of the constants; atoms relax in the strained cells."""
    kind = {"Si": "diamond", "MgO": "rocksalt", "NaCl": "rocksalt"}.get(name, "fcc")
    calculation = ElasticityCalc(
        calculator, norm_strains=STRAINS, shear_strains=STRAINS, fmax=0.005, relax_structure=False,
        relax_deformed_structures=True, units_GPa=True,
    )  # fmt: skip
    tensor = np.asarray(calculation.calc(bulk(name, kind, a=a, cubic=True))["elastic_tensor"].voigt)
    blocks = {
        "C11": tensor[[0, 1, 2], [0, 1, 2]],
        "C12": tensor[[0, 0, 1], [1, 2, 2]],
        "C44": tensor[[3, 4, 5], [3, 4, 5]],
    }
    return {label: float(values.mean()) for label, values in blocks.items()}


def frequencies(name: str, structure: Any, calculator: Calculator) -> dict[str, float]:
    """The measured modes (THz); Γ needs no more than one cell, X a supercell."""
    size = {"matrix": np.eye(3)} if name == "CsV3Sb5" else {}
    calculation = PhononCalc(
        calculator,
        relax_structure=False,
        min_length=12.0,
        supercell_matrix=size.get("matrix"),
        symprec=1e-3,
        write_phonon=False,
    )
    phonon = calculation.calc(structure)["phonon"]
    phonon.run_qpoints([[0, 0, 0], [0.5, 0.5, 0]], with_eigenvectors=True)
    gamma, x = phonon.qpoints.frequencies[0], np.sort(phonon.qpoints.frequencies[1])
    if name == "CsV3Sb5":
        return kagome_modes(phonon, gamma)
    wanted = REFERENCES[name]["phonons"]
    values = {
        "Γ": gamma.max(),
        "Γ T": np.sort(gamma)[3:5].mean() if len(gamma) > 3 else 0.0,
        "X T": x[:2].mean(),
        "X L": x[2],
    }
    return {label: float(values[label]) for label in wanted}


def kagome_modes(phonon: Any, gamma: np.ndarray) -> dict[str, float]:
    """Frequencies of the modes that look like A1g and E2g of the antimony honeycombs."""
    z = phonon.primitive.scaled_positions[:, 2] % 1
    layer = np.where((z > 0.1) & (z < 0.45), 1, np.where((z > 0.55) & (z < 0.9), -1, 0))
    x = phonon.primitive.scaled_positions[:, 0] % 1
    side = np.where(layer == 0, 0, np.where(np.abs(x - 1 / 3) < 0.1, 1, -1))
    patterns = {"Γ E2g": np.outer(side, [1, 0, 0]), "Γ A1g": np.outer(layer, [0, 0, 1])}
    vectors = phonon.qpoints.eigenvectors[0]
    return {
        label: float(gamma @ np.abs(pattern.ravel() / np.linalg.norm(pattern) @ vectors) ** 2)
        for label, pattern in patterns.items()
    }


def against(found: dict[str, dict[str, float]], known: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each value with its error in percent, and whether all of a kind are within the level."""
    table: dict[str, dict[str, Any]] = {}
    for kind, values in found.items():
        measured = {"B": known["bulk_modulus"]} if kind == "bulk_modulus" else known[kind]
        table[kind] = {
            label: {"value": round(value, 3), "error_percent": round(100 * (value / measured[label] - 1), 1)}
            for label, value in values.items()
        }
        table[kind]["within"] = all(abs(table[kind][label]["error_percent"]) <= LEVELS[kind] for label in values)
    return table


def summary(table: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Mean absolute errors in percent by kind, and how many crystals are within the level."""
    rows: dict[str, Any] = {}
    for label in labels:
        rows[label] = {}
        for kind in LEVELS:
            cells = [row[label][kind] for row in table.values() if kind in row.get(label, {})]
            errors = [
                abs(value["error_percent"]) for cell in cells for value in cell.values() if isinstance(value, dict)
            ]
            rows[label][kind] = {
                "mean_error_percent": round(float(np.mean(errors)), 1) if errors else None,
                "within": sum(cell["within"] for cell in cells),
                "of": len(cells),
            }
    return rows


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--model", help="weight file of DAO-P; default: the installed one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    calculators: dict[str, Calculator] = {"DAO-P": DAOCalculator(options.model, dtype="float64")}
    try:
        from chgnet.model.dynamics import CHGNetCalculator

        calculators["CHGNet 0.4.2"] = CHGNetCalculator(use_device="cpu", verbose=False)
    except ImportError:
        pass
    table: dict[str, Any] = {}
    for name in ["Si"] if options.quick else list(REFERENCES):
        table[name] = {"measured": {kind: REFERENCES[name].get(kind) for kind in LEVELS}}
        for label, calculator in calculators.items():
            began = time.process_time()
            table[name][label] = against(measure(name, calculator), REFERENCES[name])
            table[name][label]["processor_s"] = round(time.process_time() - began, 1)
    figures = {"levels_percent": LEVELS, "summary": summary(table, list(calculators)), "crystals": table}
    record("solids", figures, packages=("matcalc", "phonopy", *(("chgnet",) if len(calculators) == 2 else ())))
