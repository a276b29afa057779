"""Energies of MP-20 crystals at their DFT geometry: formation energies against DFT, and energies against CHGNet.

A formation energy is E/N − Σ x_i μ_i. The μ_i of each potential are fitted by least squares to MP-20 training crystals, so
that what is compared is how a potential orders compounds, not how well it knows gases and molecules. Counted are validation
crystals with formulas that no training frame of DAO-P has; the label files and stores that the header of its weights names
must be there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from record import arguments, record

from dao_ase import DAOCalculator, checkpoint
from dao_ase.composition import Composition, reduced_key
from dao_ase.crystals import Crystals
from dao_ase.derivatives import predict_crystals
from dao_ase.train.potential_task import HELD_OUT_FORMULAS, load_potential_data

warnings.filterwarnings("ignore")
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def read(name: str) -> tuple[Crystals, np.ndarray, np.ndarray]:
    """Crystals of a split, their formation energies (eV/atom), and whether their geometry is that of MP-20."""
    with np.load(DATA / name) as file:
        exact = np.isin(file["structure_source"], (0, 3, 4)) if "structure_source" in file else None
        energy = file["formation_energy_per_atom"]
        crystals = Crystals(
            torch.from_numpy(file["lattice"].astype(np.float64)),
            torch.from_numpy(file["frac_coords"].astype(np.float64)),
            torch.from_numpy(file["numbers"].astype(np.int64)),
            torch.from_numpy(file["n_atoms"].astype(np.int64)),
        )
    return crystals, energy, np.isfinite(energy) if exact is None else exact & np.isfinite(energy)


def formulas(crystals: Crystals) -> list[tuple]:
    """The reduced formula of each crystal."""
    parts = np.split(crystals.atomic_numbers.numpy(), np.cumsum(crystals.num_atoms.numpy())[:-1])
    return [reduced_key(part) for part in parts]


def shares(crystals: Crystals) -> np.ndarray:
    """The share of each element (column: atomic number) in each crystal."""
    table = np.zeros((len(crystals), 119))
    np.add.at(table, (crystals.crystal_index.numpy(), crystals.atomic_numbers.numpy()), 1)
    return table / table.sum(1, keepdims=True)


def trained_formulas(header: dict) -> set[tuple]:
    """The reduced formulas of all frames that the weights with this header were trained on."""
    batches = header["training"]["config"]["batches"]
    sources = {name: batches[name] for name in ("more_labels", "at_rest") if name in batches}
    return set(load_potential_data(DATA, **sources).train.formulas())


def energies_of_chgnet(crystals: Crystals) -> np.ndarray:
    """Energies per atom (eV), in batches; NaN for crystals that CHGNet refuses."""
    from chgnet.model import CHGNet

    from dao_ase.convert import to_structures

    model = CHGNet.load(use_device="cpu", verbose=False)
    found = np.full(len(crystals), np.nan)
    graphs = {}
    for place, structure in enumerate(to_structures(crystals)):
        try:
            graphs[place] = model.graph_converter(structure)
        except ValueError:
            continue
    answers = model.predict_graph(list(graphs.values()), task="e", batch_size=32)
    found[list(graphs)] = [float(answer["e"]) for answer in answers]
    return found


def formation_error(fit: tuple, val: tuple) -> dict[str, float]:
    """Mean and median absolute error of formation energies (meV/atom), the μ_i fitted on the first sample."""
    (shares_fit, energy_fit, known_fit), (shares_val, energy_val, known_val) = fit, val
    good = np.isfinite(energy_fit)
    design, target = shares_fit[good], (energy_fit - known_fit)[good]
    ridge = 1e-3 * np.eye(design.shape[1])
    levels = target.mean() + np.linalg.solve(design.T @ design + ridge, design.T @ (target - target.mean()))
    seen = (shares_val[:, ~(design.sum(0) > 0)] == 0).all(1) & np.isfinite(energy_val)
    error = 1e3 * np.abs(energy_val - shares_val @ levels - known_val)[seen]
    return {
        "crystals": int(seen.sum()),
        "mean_meV_atom": round(error.mean(), 1),
        "median_meV_atom": round(float(np.median(error)), 1),
    }


def main(options: argparse.Namespace) -> None:
    """Draws the samples, evaluates, compares, records."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    crystals, known, usable = read("mp20_train.npz")
    chosen = rng.permutation(np.flatnonzero(usable))[: options.fit]
    fit, fit_known = crystals[torch.from_numpy(chosen)], known[chosen]
    crystals, known, usable = read("mp20_val.npz")
    never = {reduced_key(Composition.parse(formula).atomic_numbers) for formula in HELD_OUT_FORMULAS}
    never |= trained_formulas(checkpoint.read_header(options.model or checkpoint.default_weights("dao_p")))
    fresh = usable & np.array([formula not in never for formula in formulas(crystals)])
    chosen = rng.permutation(np.flatnonzero(fresh))[: options.val]
    val, val_known = crystals[torch.from_numpy(chosen)], known[chosen]

    model = DAOCalculator(options.model, device="cpu").model
    began = time.process_time()
    ours = {
        name: predict_crystals(model, part).energy.numpy() / part.num_atoms.numpy()
        for name, part in (("fit", fit), ("val", val))
    }
    figures: dict = {
        "fitted on": len(fit),
        "DAO-P": formation_error((shares(fit), ours["fit"], fit_known), (shares(val), ours["val"], val_known))
        | {"processor_s": round(time.process_time() - began, 1)},
    }
    try:
        began = time.process_time()
        peer = {"fit": energies_of_chgnet(fit), "val": energies_of_chgnet(val)}
        figures["CHGNet 0.3.0"] = formation_error(
            (shares(fit), peer["fit"], fit_known), (shares(val), peer["val"], val_known)
        ) | {"processor_s": round(time.process_time() - began, 1)}
        apart = 1e3 * np.abs(ours["val"] - peer["val"])
        figures["DAO-P against CHGNet"] = {
            "mean_meV_atom": round(float(np.nanmean(apart)), 1), "median_meV_atom": round(float(np.nanmedian(apart)), 1)
        }  # fmt: skip
    except ImportError:
        pass
    record("formation_energy", figures, seed=options.seed, packages=("chgnet",) if "CHGNet 0.3.0" in figures else ())


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--fit", type=int, default=1500)
    parser.add_argument("--val", type=int, default=500)
    parser.add_argument("--model", help="weight file of DAO-P; default: the installed one")
    chosen_options = parser.parse_args()
    if chosen_options.quick:
        chosen_options.fit, chosen_options.val = 200, 40
    main(chosen_options)
