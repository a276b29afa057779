"""DAO-P beside pw.x of Quantum ESPRESSO on a set of crystals: one geometry, relaxation of the cell, equation of state.

What `dao-ase compare` does, for the whole set. Finished calculations are kept in ``--calculations`` and never repeated, so
the command continues where it was stopped; ``--walltime 0`` begins nothing and reports what is there. Set ESPRESSO_PSEUDO to
a folder of PBE pseudopotentials. Processor time is compared, since the machine may be busy: pw.x prints its own.
"""

from __future__ import annotations

import importlib.util
import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import ase.io
from espresso_crystals import CRYSTALS
from record import arguments, record

from dao_ase.compare.comparison import Settings, compare_all
from dao_ase.compare.tasks import Crystal, Row
from dao_ase.espresso.running import Machine

CSV3SB5 = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"
CHEAP = {"ecutwfc": 60, "ecutrho": 240}
"""For CsV3Sb5, whose 123 electrons are dear at the 90 Ry of the presets. The stress of vanadium is wrong at 60 Ry, so pw.x
relaxes only its atoms.
"""


def crystals(names: list[str]) -> list[Crystal]:
    """The crystals of these names."""
    return [Crystal(name, CRYSTALS[name]()) for name in names]


def flat(row: Row, method: str) -> dict[str, Any] | None:
    """The figures of one method for one crystal, for the documentation; None where it has none."""
    found = row["methods"].get(method, {})
    if "times" not in found:
        return None
    times, against = found["times"], found.get("against pw.x", {})
    figures: dict[str, Any] = {
        "processor_s": times["processor"], "processor_ms": 1e3 * times["processor"], "wall_s": times["wall"],
        "ionic_steps": times["ionic_steps"],
        "scf_iterations": times["scf_iterations"],
        "processor_s_per_ionic_step": times["processor_per_ionic_step"],
        "processor_s_per_scf_iteration": times["processor_per_scf_iteration"],
    }  # fmt: skip
    figures |= {key: found[key] for key in ("pressure", "largest_force", "volume", "bulk_modulus") if key in found}
    if "cell" in found:
        figures |= {"a": found["cell"]["a"], "c": found["cell"]["c"], "volume": found["cell"]["volume"]}
        figures |= {"converged": found["converged"], "end": found["notes"]["end"]}
    if method == "pw.x":
        figures |= {
            key: found["notes"].get(key) for key in ("k_points", "electrons", "attempts") if key in found["notes"]
        }
    for key in ("times_faster_processor", "times_faster_wall", "rmse", "largest_length", "energy_drop", "curve"):
        if key in against:
            figures[key] = against[key]
    if "forces" in against:
        figures |= {"force_error": against["forces"]["mean"], "pressure_error": against["stress"]["pressure"]}
    for key in ("volume", "bulk_modulus"):
        if key in against:  # None: a curve without a minimum
            figures[f"{key}_error_percent"] = None if against[key] is None else 100 * against[key]
    return figures


def summarised(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every report as crystal → method → figures, with medians over the crystals."""
    result: dict[str, Any] = {}
    for name, report in reports.items():
        table: dict[str, Any] = {}
        for row in report["rows"]:
            table[row["name"]] = {method: flat(row, method) for method in row["methods"]}
        result[name] = table | {"over all": overall(table, "DAO-P"), "missing": report["problems"]}
    return result


def overall(table: dict[str, Any], method: str) -> dict[str, Any]:
    """Medians and extremes of what a method reached against pw.x, over the crystals where both have a result."""
    rows = [row[method] for row in table.values() if row.get("pw.x") and row.get(method)]
    if not rows:
        return {"crystals": 0}
    ratios = [row["times_faster_processor"] for row in rows]
    found = {
        "crystals": len(rows),
        "slowest ratio": min(ratios),
        "median ratio": median(ratios),
        "best ratio": max(ratios),
    }
    volumes = [abs(row["volume_error_percent"]) for row in rows if row.get("volume_error_percent") is not None]
    rmses = [row["rmse"] for row in rows if row.get("rmse") is not None]
    if volumes:
        found |= {"largest volume error (%)": max(volumes), "median volume error (%)": median(volumes)}
    if rmses:
        found |= {"largest RMSE": max(rmses), "matched": len(rmses)}
    return found


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--calculations", type=Path, default=Path("runs/espresso/calculations"))
    parser.add_argument("--output", type=Path, default=Path("runs/espresso"), help="folder for the HTML reports")
    parser.add_argument("--walltime", type=float, help="seconds after which pw.x begins nothing more")
    parser.add_argument("--cores", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    all_ = ["Si"] if options.quick else list(CRYSTALS)
    peers = ["chgnet"] if importlib.util.find_spec("chgnet") else []
    base = Settings(
        "scf", options.output / "scf", peers=peers, machine=Machine(options.cores), calculations=options.calculations,
        walltime=options.walltime,
    )  # fmt: skip
    kagome = Crystal("CsV3Sb5", ase.io.read(CSV3SB5))
    jobs: dict[str, tuple[list[Crystal], Settings]] = {
        "scf": (crystals(all_), base),
        "vc-relax": (crystals(all_), replace(base, task="vc-relax")),
        "eos": (crystals(all_), replace(base, task="eos")),
        "scf, standard": (crystals(all_), replace(base, preset="standard")),
    }
    if not options.quick:
        cheap = replace(base, extra=CHEAP, kspacing=0.7)
        jobs |= {
            "CsV3Sb5, scf": ([kagome], cheap),
            "CsV3Sb5, relax": ([kagome], replace(cheap, task="relax")),
        }
    reports = {
        name: compare_all(chosen, replace(settings, folder=options.output / name.replace(", ", "-")))
        for name, (chosen, settings) in jobs.items()
    }
    figures = summarised(reports)
    if not figures["scf"]["over all"]["crystals"]:
        raise SystemExit(
            "no result of pw.x, so there is nothing to record: " + "; ".join(figures["scf"]["missing"][:1])
        )
    figures["pw.x"] = {
        "version": reports["scf"]["versions"]["pw.x"],
        "pseudopotentials": {e: one["file"] for r in reports.values() for e, one in r["pseudopotentials"].items()},
        "processor seconds in all": round(sum(
            found["times"]["processor"]
            for report in reports.values() for row in report["rows"]
            for method, found in row["methods"].items() if method == "pw.x" and "times" in found
        ), 0),
    }  # fmt: skip
    record("espresso", figures, seed=options.seed, packages=("chgnet",) if peers else ())
