"""The paper's case against pw.x alone: DAO-G proposes, DAO-P relaxes and ranks, pw.x refines the best that differ.

pw.x alone starts from random cells and gets the same processor time. What `dao-ase compare --task search` does, for AlN and
for CsV3Sb5, which no training saw; ``--only`` takes one of them, and the other keeps its entry in the results file.
What DAO proposes is kept with pw.x's calculations, so the command continues where it was stopped; other weights of DAO-G or
DAO-P propose anew, and pw.x has to compute that. Set ESPRESSO_PSEUDO to a folder of PBE pseudopotentials.
"""

from __future__ import annotations

import json
import logging
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.build import bulk
from espresso_archive import pack, unpack
from record import RESULTS, arguments, commit, record

from dao_ase.compare.comparison import Settings, compare_all
from dao_ase.compare.figures import cell_of
from dao_ase.compare.search import SearchSettings
from dao_ase.compare.tasks import Crystal, Row
from dao_ase.convert import structure_from_atoms
from dao_ase.generator import DAOGenerator

EXAMPLE = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"
KNOWN = {
    "Al2N2": lambda: bulk("AlN", "wurtzite", a=3.112, c=4.982, u=0.382),
    "CsV3Sb5": lambda: ase.io.read(EXAMPLE),
}
"""The experimental structures at room temperature, lengths in Å."""
DEAR = {"CsV3Sb5": {"refine": 1, "kspacing": 0.75}}
"""123 electrons: one candidate, and 2 × 2 × 1 k-points in the cells of DAO-P and of experiment alike."""


def flat(row: Row) -> dict[str, Any]:
    """The figures for the documentation."""
    candidates = row["DAO"]["candidates"]
    refined = row["refined"]
    ranks = [one["rank"] for one in candidates if one["rmse"] is not None]
    return {
        "budget (processor s)": row["budget"],
        "DAO, processor s": row["DAO"]["times"]["processor"],
        "DAO, drawing, processor s": row["DAO"]["sampling"]["processor"],
        "drawn": row["DAO"]["drawn"],
        "candidates that match": len(ranks),
        "rank of the first match": min(ranks, default=None),
        "best RMSE of the candidates": min((one["rmse"] for one in candidates if one["rmse"] is not None), default=None),
        "refined by": row["refined by"],
        "refined": [
            {"rank": one["rank"], "space group": candidates[one["rank"] - 1]["space_group"],
             "rmse before": candidates[one["rank"] - 1]["rmse"]} | _end(one) for one in refined
        ],
        "random": [_end(one) for one in row["random"]],
        "ways": row["best"],
        "known": _end(row["pw.x on the known structure"]),
        "missing": row["problems"],
    }  # fmt: skip


def _end(one: Row) -> dict[str, Any]:
    """How a calculation of pw.x ended; None for what it did not come to."""
    times = one.get("times") or {}
    energies = one.get("energies")
    start = cell_of(np.array(one["start"]["lattice"]))
    return {
        "from": {key: start[key] for key in ("a", "c", "volume")},
        "energy_per_atom": one.get("energy_per_atom"),
        "energy won (meV/atom)": None if energies is None else -1000 * energies[-1],
        "rmse": one.get("rmse"),
        **{key: one["cell"][key] if "cell" in one else None for key in ("a", "c", "volume")},
        "converged": one.get("converged", False),
        "end": one["problem"] if "problem" in one else one["notes"]["end"],
        "times": {key: times.get(key) for key in ("wall", "processor", "ionic_steps", "scf_iterations")},
    }  # fmt: skip


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--calculations", type=Path, default=Path("runs/espresso/calculations"))
    parser.add_argument("--output", type=Path, default=Path("runs/espresso/search"), help="folder for the HTML report")
    parser.add_argument("--walltime", type=float, help="seconds after which pw.x begins nothing more")
    parser.add_argument("--only", nargs="+", default=[], choices=list(KNOWN), help="these formulas alone")
    parser.add_argument("--pack", action="store_true", help="keep what pw.x printed in references/espresso.tar.xz")
    options = parser.parse_args()
    unpack(options.calculations)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    file = RESULTS / "espresso_search.json"
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"] if file.exists() else {}
    for formula in ["Al2N2"] if options.quick else options.only or KNOWN:
        dear = DEAR.get(formula, {})
        search = SearchSettings(refine=dear.get("refine", 3), seed=options.seed)
        if options.quick:
            search = SearchSettings(number=2, refine=1, budget=10.0, seed=options.seed)
        settings = Settings(
            "search", options.output / formula, walltime=options.walltime, calculations=options.calculations,
            kspacing=dear.get("kspacing"), search=search,
        )  # fmt: skip
        known = KNOWN[formula]()
        report = compare_all([Crystal(formula, known)], settings, {formula: structure_from_atoms(known)})
        row = report["rows"][0]
        if not any("energy_per_atom" in one for one in row.get("refined", [])):
            raise SystemExit("no result of pw.x, so there is nothing to record: " + "; ".join(report["problems"]))
        figures[formula] = flat(row) | {
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
            "pw.x": report["versions"]["pw.x"],
            "k-spacing": report["settings"]["k-spacing (1/Å)"],
            "weights of DAO-G": DAOGenerator().sampler.fingerprint,
            "weights of DAO-P": report["versions"]["DAO-P's weights"],
            "pseudopotentials": {element: one["file"] for element, one in report["pseudopotentials"].items()},
        }
    record("espresso_search", figures, seed=options.seed)
    if options.pack:
        pack(options.calculations)
