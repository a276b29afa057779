"""What guidance does to what DAO-G draws: the same compositions and seeds at several strengths.

Crystals with the atoms of references are drawn from noise, one try each, without structure types, unrelaxed and unranked.
Each gets an energy above the hull: how far it lies above its reference, for DAO-P (which judged what the stability model
learnt from) and for CHGNet 0.3.0 (which did not), plus what is published of the reference. Differences to the unguided
crystals are of pairs with the same seed, with the standard error over compositions.

    python benchmarks/bench_guidance.py --set val --strengths 1 3 10 30 --no-chgnet     # what the strength is chosen by
    python benchmarks/bench_guidance.py                                                 # what is reported
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from judge import STABLE, CHGNetEnergies
from pymatgen.core import Structure
from record import arguments, record

from dao_ase.benchmark import predict, references
from dao_ase.data.sources import open_source, read
from dao_ase.evaluate import match
from dao_ase.gates import refusal
from dao_ase.generator import DAOGenerator
from dao_ase.rank import distinct, installed_potential, with_energies

FILES = {"val": "mp20_val.npz", "test": "mp20_test_a.npz"}
PART = 64
"""References that are drawn together."""


class Judges:
    """Energies per atom (eV) by DAO-P and CHGNet; NaN for what the gates refuse."""

    def __init__(self, chgnet: bool) -> None:
        self.names = ("DAO-P", "CHGNet") if chgnet else ("DAO-P",)
        self._potential, self._chgnet = installed_potential(), CHGNetEnergies()

    def energies(self, structures: list[Structure]) -> np.ndarray:
        """One row for each judge."""
        with_energies([one for one in structures if refusal(one) is None], self._potential)
        rows = [[one.properties.get("energy_per_atom") for one in structures]]
        if "CHGNet" in self.names:
            rows.append(self._chgnet(structures))
        return np.array(rows, dtype=float)


def measured(options: Any) -> dict[str, Any]:
    """Every strength, the unguided crystals first."""
    file = options.data / FILES[options.set]
    known = references(file, options.limit, options.seed)
    above = published(file, known)
    judges, generator = (
        Judges(options.chgnet),
        DAOGenerator(options.weights, tries=1, prototypes=False, stability=options.stability),
    )
    hull = judges.energies(known) - above
    rows: dict[float, dict[str, Any]] = {}
    for strength in (0.0, *options.strengths):
        began, made = time.process_time(), []
        for first in range(0, len(known), PART):
            made += predict(generator, known[first : first + PART], options.samples, first * options.samples, strength)
        seconds = time.process_time() - began
        energies = np.stack([judges.energies(row) for row in made], 1) - hull[:, :, None]  # judges, references, samples
        matched = [[match(one, reference) for one in row] for row, reference in zip(made, known, strict=True)]
        rows[strength] = {
            "stable": np.nan_to_num(energies, nan=np.inf) < STABLE,
            "energies": energies,
            "matched": np.array([[one is not None for one in row] for row in matched]),
            "rmse": float(np.mean([one for row in matched for one in row if one is not None])),
            "unique": sum(len(distinct(row)) for row in made) / (len(made) * options.samples),
            "seconds": seconds,
        }
        print(strength, described(rows[strength], rows[0.0], judges.names), flush=True)
    return {
        "set": options.set,
        "references": len(known),
        "samples of each": options.samples,
        "model": generator.sampler.fingerprint,
        "strengths": {f"{strength:g}": described(row, rows[0.0], judges.names) for strength, row in rows.items()},
    }


def published(file: Path, known: list[Structure]) -> np.ndarray:
    """The published energies above the hull (eV/atom) of the references, found by their cells."""
    labels = {np.round(one.lattice, 3).tobytes(): float(one.labels["e_above_hull"]) for one in read(open_source(file))}
    return np.array([labels[np.round(one.lattice.matrix, 3).tobytes()] for one in known])


def described(row: dict[str, Any], plain: dict[str, Any], judges: tuple[str, ...]) -> dict[str, Any]:
    """The figures of a strength, beside those of the unguided crystals."""
    found: dict[str, Any] = {
        "matched, %": round(100 * float(row["matched"].mean()), 2),
        "matched, points more": paired(row["matched"], plain["matched"]),
        "RMSE": round(row["rmse"], 4),
        "unique, %": round(100 * row["unique"], 1),
        "processor seconds": round(row["seconds"], 1),
        "times as long": round(row["seconds"] / plain["seconds"], 2),
    }
    for judge, stable, before, energies in zip(judges, row["stable"], plain["stable"], row["energies"], strict=True):
        found[judge] = {
            "stable, %": round(100 * float(stable.mean()), 2),
            "stable, points more": paired(stable, before),
            "median above the hull, eV/atom": round(float(np.nanmedian(energies)), 4),
        }
    return found


def paired(after: np.ndarray, before: np.ndarray) -> list[float]:
    """The mean difference, in points of a hundred, and its standard error over compositions."""
    differences = 100 * (after.astype(float) - before.astype(float)).mean(-1)
    return [round(float(differences.mean()), 2), round(float(differences.std(ddof=1) / len(differences) ** 0.5), 2)]


def main() -> None:
    """Measures and writes benchmarks/results/guidance_SET.json."""
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--set", choices=tuple(FILES), default="test")
    parser.add_argument("--limit", type=int, default=500, help="references")
    parser.add_argument("--samples", type=int, default=2, help="of each")
    parser.add_argument("--strengths", type=float, nargs="+", default=[5.0, 20.0])
    parser.add_argument("--weights", help="of another DAO-G")
    parser.add_argument("--stability", help="weights of another stability model")
    parser.add_argument("--no-chgnet", dest="chgnet", action="store_false", help="judge by DAO-P alone")
    options = parser.parse_args()
    if options.quick:
        options.limit, options.strengths = 4, options.strengths[:1]
    figures = measured(options)
    record(f"guidance_{options.set}", figures, seed=options.seed, packages=("chgnet",) if options.chgnet else ())


if __name__ == "__main__":
    main()
