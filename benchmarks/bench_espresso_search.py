"""The paper's case against pw.x alone: DAO-G proposes, DAO-P relaxes and ranks, pw.x refines the best three that differ.

pw.x alone starts from random cells and gets the same processor time. What `dao-ase compare --task search` does, for AlN.
What DAO proposes is kept with pw.x's calculations, so the command continues where it was stopped; other weights of DAO-G or
DAO-P propose anew, and pw.x has to compute that. Set ESPRESSO_PSEUDO to a folder of PBE pseudopotentials.
"""

from __future__ import annotations

import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path
from typing import Any

from ase.build import bulk
from record import arguments, record

from dao_ase.compare.comparison import Settings, compare_all
from dao_ase.compare.search import SearchSettings
from dao_ase.compare.tasks import Crystal, Row
from dao_ase.convert import structure_from_atoms
from dao_ase.generator import DAOGenerator

FORMULA = "Al2N2"
KNOWN = bulk("AlN", "wurtzite", a=3.112, c=4.982, u=0.382)
"""The experimental structure at room temperature, lengths in Å."""


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
            {"rank": one["rank"], "space group": candidates[one["rank"] - 1]["space_group"]} | _end(one) for one in refined
        ],
        "random": [_end(one) for one in row["random"]],
        "ways": row["best"],
        "missing": row["problems"],
    }  # fmt: skip


def _end(one: Row) -> dict[str, Any]:
    """How a calculation of pw.x ended."""
    if "energy_per_atom" not in one:
        return {"problem": one["kind"], "times": one.get("times")}
    return {
        "energy_per_atom": one["energy_per_atom"],
        "rmse": one["rmse"],
        "volume": one["cell"]["volume"],
        "converged": one["converged"],
        "times": one["times"],
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--calculations", type=Path, default=Path("runs/espresso/calculations"))
    parser.add_argument("--output", type=Path, default=Path("runs/espresso/search"), help="folder for the HTML report")
    parser.add_argument("--walltime", type=float, help="seconds after which pw.x begins nothing more")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    search = SearchSettings(seed=options.seed)
    if options.quick:
        search = SearchSettings(number=2, refine=1, budget=10.0, seed=options.seed)
    settings = Settings(
        "search", options.output, walltime=options.walltime, calculations=options.calculations, search=search
    )
    report = compare_all([Crystal(FORMULA, KNOWN)], settings, {FORMULA: structure_from_atoms(KNOWN)})
    row = report["rows"][0]
    if not any("energy_per_atom" in one for one in row.get("refined", [])):
        raise SystemExit("no result of pw.x, so there is nothing to record: " + "; ".join(report["problems"]))
    figures = {
        FORMULA: flat(row),
        "pw.x": report["versions"]["pw.x"],
        "weights of DAO-G": DAOGenerator().fingerprint,
        "weights of DAO-P": report["versions"]["DAO-P's weights"],
        "pseudopotentials": {element: one["file"] for element, one in report["pseudopotentials"].items()},
    }
    record("espresso_search", figures, seed=options.seed)
