"""Errors of DAO-P against DFT and against held-out labels, with CHGNet beside it on the same frames.

Held out: 15 % of the formulas of the MatterSim DFT frames and 4 % of those of the labels (`dao_ase.train.potential_task`).
Crystals: lattice constant (low-temperature experiment, without zero-point motion) and bulk modulus from a fitted curve.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.eos import EquationOfState
from ase.units import GPa
from record import arguments, record

from dao_ase import DAOCalculator
from dao_ase.crystals import Crystals
from dao_ase.derivatives import predict_crystals
from dao_ase.train.labelled import LabelledCrystals
from dao_ase.train.potential_task import load_potential_data

warnings.filterwarnings("ignore")
DATA = Path(__file__).parent.parent.parent / "shared" / "data"
CSV3SB5 = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"
REFERENCES = {
    "Si": (bulk("Si", cubic=True), 5.422, 100.8),
    "MgO": (bulk("MgO", "rocksalt", a=4.2, cubic=True), 4.189, 169.8),
    "NaCl": (bulk("NaCl", "rocksalt", a=5.6, cubic=True), 5.569, 27.6),
    "Al": (bulk("Al", cubic=True), 4.019, 82.0),
    "Cu": (bulk("Cu", cubic=True), 3.595, 144.3),
}
"""Crystal, lattice constant (Å) and bulk modulus (GPa): experiment less zero-point effects, as tabulated by Zhang, Reilly,
Tkatchenko, Scheffler, New J. Phys. 20, 063020 (2018)."""


def as_crystals(frames: LabelledCrystals) -> Crystals:
    """The frames without their labels."""
    return Crystals(
        torch.from_numpy(frames.lattice),
        torch.from_numpy(frames.frac_coords),
        torch.from_numpy(frames.atomic_numbers),
        torch.from_numpy(frames.num_atoms),
    )


def predictions_of_dao(frames: LabelledCrystals) -> dict[str, np.ndarray]:
    """Energies (eV), forces and stresses of DAO-P."""
    found = predict_crystals(DAOCalculator(device="cpu").model, as_crystals(frames))
    return {"energy": found.energy.numpy(), "forces": found.forces.numpy(), "stress": found.stress.numpy()}


def predictions_of_chgnet(frames: LabelledCrystals) -> dict[str, np.ndarray]:
    """The same of CHGNet; NaN where it refuses a crystal (isolated atoms)."""
    from chgnet.model import CHGNet
    from pymatgen.core import Structure

    model = CHGNet.load(use_device="cpu", verbose=False)
    starts = frames.starts
    found = {"energy": np.full(len(frames), np.nan), "forces": np.full((starts[-1], 3), np.nan)}
    found["stress"] = np.full((len(frames), 3, 3), np.nan)
    for frame in range(len(frames)):
        atoms = slice(starts[frame], starts[frame + 1])
        structure = Structure(frames.lattice[frame], frames.atomic_numbers[atoms], frames.frac_coords[atoms])
        try:
            answer = model.predict_structure(structure)
        except ValueError:
            continue
        found["energy"][frame] = answer["e"] * len(structure)
        found["forces"][atoms], found["stress"][frame] = answer["f"], answer["s"] / 160.21766208
    return found


def errors(frames: LabelledCrystals, found: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, float]:
    """Mean absolute errors over the chosen frames: meV/atom, eV/Å, GPa."""
    of_chosen = np.repeat(chosen, frames.num_atoms)
    energy = np.abs(found["energy"] - frames.energy)[chosen] / frames.num_atoms[chosen]
    values = {
        "forces_eV_A": np.nanmean(np.abs(found["forces"] - frames.forces)[of_chosen]),
        "stress_GPa": np.nanmean(np.abs(found["stress"] - frames.stress)[chosen]) / GPa,
    }
    if np.isfinite(energy).any():
        values["energy_meV_atom"] = 1e3 * np.nanmean(energy)
    return {name: round(float(value), 4) for name, value in values.items()}


def on_dft(frames: LabelledCrystals, subsets: np.ndarray, chgnet: bool) -> dict:
    """Errors against DFT by subset."""
    found = {"DAO-P": predictions_of_dao(frames)}
    if chgnet:
        found["CHGNet"] = predictions_of_chgnet(frames)
    table = {}
    for subset in sorted(set(subsets)):
        chosen = subsets == subset
        row: dict = {name: errors(frames, values, chosen) for name, values in found.items()}
        row["frames"] = int(chosen.sum())
        if chgnet:
            row["force_ratio"] = round(row["DAO-P"]["forces_eV_A"] / row["CHGNet"]["forces_eV_A"], 2)
        table[str(subset)] = row
    return table


def crystal_row(calculator: Calculator, name: str) -> dict[str, float]:
    """Lattice constant and bulk modulus from energies at ±6 % volume."""
    atoms, constant, modulus = REFERENCES[name]
    volumes, energies = [], []
    for scale in np.linspace(0.98, 1.02, 9):
        strained = atoms.copy()
        strained.set_cell(np.eye(3) * constant * scale, scale_atoms=True)
        strained.calc = calculator
        volumes.append(strained.get_volume())
        energies.append(strained.get_potential_energy())
    volume, _, bulk_modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit()
    found = float(np.cbrt(volume))
    return {
        "a_A": round(found, 4),
        "a_error_percent": round(100 * (found / constant - 1), 2),
        "B_GPa": round(float(bulk_modulus / GPa), 1),
        "B_error_percent": round(100 * (float(bulk_modulus / GPa) / modulus - 1), 1),
    }


def crystals(calculators: dict[str, Calculator]) -> dict:
    """Each reference crystal with each calculator, and CsV3Sb5 relaxed."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    table: dict = {}
    for name in REFERENCES:
        table[name] = {}
        for label, calculator in calculators.items():
            try:
                table[name][label] = crystal_row(calculator, name)
            except (ValueError, RuntimeError) as error:  # a curve without a minimum in reach
                table[name][label] = {"failed": str(error)}
    known = ase.io.read(CSV3SB5)
    table["CsV3Sb5"] = {
        "experiment": {"a_A": round(known.cell.lengths()[0], 4), "c_A": round(known.cell.lengths()[2], 4)}
    }
    for label, calculator in calculators.items():
        atoms = known.copy()
        atoms.calc = calculator
        FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=200)
        a, _, c = atoms.cell.lengths()
        table["CsV3Sb5"][label] = {"a_A": round(a, 4), "c_A": round(c, 4)}
    return table


def main(options: argparse.Namespace) -> None:
    """Runs what the options ask for and writes the record."""
    torch.set_num_threads(1)
    try:
        from chgnet.model.dynamics import CHGNetCalculator

        peer: dict[str, Calculator] = {"CHGNet": CHGNetCalculator(use_device="cpu", verbose=False)}
    except ImportError:
        peer = {}
    figures: dict = {"crystals": crystals({"DAO-P": DAOCalculator(dtype="float64")} | peer)}
    if DATA.exists():
        data = load_potential_data(DATA)
        count = 20 if options.quick else len(data.val_dft)
        figures["held-out DFT frames"] = on_dft(
            data.val_dft.select(np.arange(count)), data.val_dft_subset[:count], bool(peer)
        )
        labels = data.val_labels.select(np.arange(20)) if options.quick else data.val_labels
        everything = np.ones(len(labels), dtype=bool)
        figures["held-out labels of CHGNet 0.3.0"] = {
            "frames": len(labels), "DAO-P": errors(labels, predictions_of_dao(labels), everything)
        }  # fmt: skip
        figures["left out of training"] = data.excluded
    record("potential_accuracy", figures, packages=("chgnet",) if peer else ())


if __name__ == "__main__":
    main(arguments(__doc__).parse_args())
