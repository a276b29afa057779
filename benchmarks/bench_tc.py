"""The installed Tc model: its cross-validation, and what it says of the paper's superconductors, which it has not seen.

From the known structure of each, and from the structure of lowest energy among those that DAO-G generates and DAO-P relaxes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from bench_superconductors import ITS_NAME, known_structures
from record import arguments, record

from dao_ase.generator import DAOGenerator
from dao_ase.properties.predictor import DAOPredictor, PropertyPrediction
from dao_ase.rank import by_likelihood, relax_structures

DATA = Path(os.environ.get("DAO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
MEASURED = {"CsV3Sb5": 2.30, "Zr16Rh8O4": 3.73, "Zr16Pd8O4": 2.73}
"""K, as the paper quotes them."""


def figures_of(found: PropertyPrediction, formula: str) -> dict[str, float]:
    """A prediction and how far it is off."""
    numbers = {"Tc": found.value, "low": found.low, "high": found.high}
    if formula in MEASURED:
        numbers |= {"measured": MEASURED[formula], "error": found.value - MEASURED[formula]}
    return {name: round(value, 3) for name, value in numbers.items()}


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--generated", type=int, default=8, help="structures to generate for each; 0: none")
    options = parser.parse_args()
    torch.set_num_threads(1)
    predictor = DAOPredictor("tc")
    header = predictor.model.header
    figures: dict[str, Any] = {
        "cross-validation": header["cross_validation"],
        "data": header["data"],
        "trunk": header["trunk_fingerprint"],
        "superconductors": {},
    }
    for formula, known in known_structures(DATA).items():
        figures["superconductors"][formula] = {"known": figures_of(predictor.predict([known])[0], formula)}
        if options.generated and not options.quick:
            generator = DAOGenerator()
            drawn = generator.generate(
                formula,
                options.generated,
                seed=options.seed,
                max_atoms=max(len(known), generator.max_atoms),
                rank=False,
            )
            best = by_likelihood(relax_structures(drawn, fmax=0.02, steps=200))[0]
            figures["superconductors"][formula]["generated"] = figures_of(predictor.predict([best])[0], formula)
    missing = sorted(set(ITS_NAME) - set(figures["superconductors"]))
    assert not missing, f"no known structure of {missing} in {DATA}"
    if options.quick:
        print(json.dumps(figures, indent=1))
    else:
        record("tc", figures, seed=options.seed)
