"""DAO-P beside pw.x of Quantum ESPRESSO on a set of crystals: one geometry, relaxation of the cell, equation of state.

What `dao-ase compare` does, for the whole set. Finished calculations are kept in ``--calculations`` and never repeated, so
the command continues where it was stopped; ``--walltime 0`` begins nothing and reports what is there, ``--only Cr6Os2 Si``
takes some crystals. What pw.x printed is kept in references/espresso.tar.xz by ``--pack`` and unpacked first, so that DAO-P
is measured again without pw.x. A crystal of which there is nothing of pw.x keeps the row of the results file, with the
commit that measured it. Set ESPRESSO_PSEUDO to a folder of PBE pseudopotentials; osmium's is from CP2K's list (Debian:
cp2k-data). Processor time is compared, since the machine may be busy: pw.x prints its own, its start included.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import ase.io
from ase import Atoms
from ase.collections import dcdft
from espresso_archive import pack, unpack
from espresso_crystals import CRYSTALS, HOLD_OUT, TRANSFER
from record import RESULTS, arguments, commit, record

from dao_ase.compare.comparison import Settings, compare_all
from dao_ase.compare.tasks import Crystal, Row
from dao_ase.espresso.running import Machine

CSV3SB5 = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"
CHEAP = {"ecutwfc": 60, "ecutrho": 240}
"""For CsV3Sb5, whose 123 electrons are dear at the 90 Ry of the presets. The stress of vanadium is wrong at 60 Ry, so pw.x
relaxes only its atoms.
"""


Table = dict[str, Any]


def crystals(made: dict[str, Callable[[], Atoms]], only: list[str]) -> list[Crystal]:
    """Those of a set that were asked for; all where none was."""
    return [Crystal(name, make()) for name, make in made.items() if not only or name in only]


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
    if "moved" in found.get("notes", {}):
        figures["moved_ms"] = 1e3 * found["notes"]["moved"]["processor"]
    for key in (
        "times_faster_processor",
        "times_faster_wall",
        "times_faster_moved",
        "rmse",
        "largest_length",
        "energy_drop",
        "curve",
    ):
        if key in against:
            figures[key] = against[key]
    if "forces" in against:
        figures |= {"force_error": against["forces"]["mean"], "pressure_error": against["stress"]["pressure"]}
    for key in ("volume", "bulk_modulus"):
        if key in against:  # None: a curve without a minimum
            figures[f"{key}_error_percent"] = None if against[key] is None else 100 * against[key]
    return figures


def summarised(reports: dict[str, Table], earlier: Table) -> Table:
    """Every report as crystal → method → figures, with medians over the crystals; rows of earlier where pw.x has none."""
    before = earlier.get("figures", {})
    none: Table = {"rows": [], "problems": []}
    return {
        name: merged(reports.get(name, none), before.get(name, {}), earlier.get("commit", ""))
        for name in (*before, *(name for name in reports if name not in before))
        if name in reports or "over all" in before[name]
    }


def merged(report: Table, before: Table, its_commit: str) -> Table:
    """One table: each row says by which commit it was measured; an earlier one stays until pw.x has come as far again."""
    table: Table = {}
    for row in report["rows"]:
        table[row["name"]] = {"commit": commit()} | {method: flat(row, method) for method in row["methods"]}
    kept = {
        name: {"commit": its_commit} | row
        for name, row in before.items()
        if name not in ("over all", "missing") and ended(row) and not ended(table.get(name, {}))
    }
    missing = [problem for problem in before.get("missing", []) if problem.partition(",")[0] not in table]
    missing += [
        f"{row['name']}, {method}: {found.get('problem') or found['notes']['end']}"
        for row in report["rows"]
        for method, found in row["methods"].items()
        if row["name"] not in kept and ("problem" in found or found.get("converged") is False)
    ]
    return table | kept | {"over all": overall(table | kept, "DAO-P"), "missing": missing}


def ended(row: Table) -> bool:
    """Whether pw.x came to an end."""
    return bool(row.get("pw.x")) and row["pw.x"].get("converged") is not False


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
    again = [row["times_faster_moved"] for row in rows if "times_faster_moved" in row]
    if again:
        found |= {
            "slowest ratio, moved": min(again),
            "median ratio, moved": median(again),
            "best ratio, moved": max(again),
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
    parser.add_argument("--only", nargs="+", default=[], help="these crystals alone; the others keep their rows")
    parser.add_argument("--tables", nargs="+", default=[], help="these tables alone, for example: scf 'scf, standard'")
    parser.add_argument("--pack", action="store_true", help="keep what pw.x printed in references/espresso.tar.xz")
    options = parser.parse_args()
    unpack(options.calculations)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    only = ["Si"] if options.quick else options.only
    peers = ["chgnet"] if importlib.util.find_spec("chgnet") else []
    base = Settings(
        "scf", options.output / "scf", peers=peers, machine=Machine(options.cores), calculations=options.calculations,
        walltime=options.walltime,
    )  # fmt: skip
    standard, cheap = replace(base, preset="standard"), replace(base, extra=CHEAP, kspacing=0.7)
    kagome = {"CsV3Sb5": lambda: ase.io.read(CSV3SB5)}
    jobs: dict[str, tuple[list[Crystal], Settings]] = {
        "scf": (crystals(CRYSTALS, only), base),
        "vc-relax": (crystals(CRYSTALS, only), replace(base, task="vc-relax")),
        "eos": (crystals(CRYSTALS, only), replace(base, task="eos")),
        "scf, standard": (crystals(CRYSTALS, only), standard),
        "CsV3Sb5, scf": (crystals(kagome, only), cheap),
        "CsV3Sb5, relax": (crystals(kagome, only), replace(cheap, task="relax")),
        "Cr6Os2, scf": (crystals(HOLD_OUT, only), base),
        "Cr6Os2, vc-relax": (crystals(HOLD_OUT, only), replace(base, task="vc-relax")),
        "Os, eos": (crystals(TRANSFER, only), replace(base, task="eos")),
    }
    reports = {
        name: compare_all(chosen, replace(settings, folder=options.output / name.replace(", ", "-")))
        for name, (chosen, settings) in jobs.items()
        if not options.tables or name in options.tables
    }
    file = RESULTS / "espresso.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if not any("times" in row["methods"]["pw.x"] for report in reports.values() for row in report["rows"]):
        problems = [problem for report in reports.values() for problem in report["problems"]]
        raise SystemExit("no result of pw.x, so there is nothing to record: " + "; ".join(problems[:1]))
    figures = summarised(reports, earlier)
    figures["Os, all electrons"] = dict(dcdft.data["Os"])
    before = earlier.get("figures", {}).get("pw.x", {})
    used = {e: one["file"] for r in reports.values() for e, one in r["pseudopotentials"].items()}
    rows = [row for name in jobs for row in figures.get(name, {}).values() if isinstance(row, dict) and row.get("pw.x")]
    figures["pw.x"] = {
        "version": next((r["versions"]["pw.x"] for r in reports.values() if r["versions"]["pw.x"] != "not run"), ""),
        "pseudopotentials": before.get("pseudopotentials", {}) | used,
        "processor seconds in all": round(sum(row["pw.x"]["processor_s"] for row in rows), 0),
        "commits": ", ".join(sorted({row["commit"] for row in rows})),
    }
    record("espresso", figures, seed=options.seed, packages=("chgnet",) if peers else ())
    if options.pack:
        pack(options.calculations)
