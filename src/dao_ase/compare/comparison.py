"""A whole comparison: which methods, which crystals, and the report as JSON and HTML."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from dao_ase.compare.espresso_method import Espresso
from dao_ase.compare.methods import REPEATS, DaoPotential, Method, peer, potential_digest
from dao_ase.compare.report import write_page
from dao_ase.compare.search import SearchSettings, search
from dao_ase.compare.tasks import TASKS, Crystal, Row, compare, polymorphs
from dao_ase.espresso.calculation import check_keywords
from dao_ase.espresso.presets import Preset, load_preset
from dao_ase.espresso.pseudopotentials import directories
from dao_ase.espresso.running import Machine, blas
from dao_ase.whole_files import write_json

if TYPE_CHECKING:
    from pymatgen.core import Structure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What is compared and how. ``folder`` is for the report; ``calculations`` for pw.x, by default inside it.

    ``extra`` are keywords of pw.x that replace the preset's, ``kspacing`` (1/Å, with 2π) its k-points; ``walltime`` (s) is
    for everything, ``machine.timeout`` for each calculation.
    """

    task: str
    folder: Path
    preset: str = "fast"
    pseudo_dirs: Sequence[Path] = ()
    peers: Sequence[str] = ()
    machine: Machine = field(default_factory=Machine)
    extra: Mapping[str, Any] = field(default_factory=dict)
    kspacing: float | None = None
    fmax: float = 0.01
    walltime: float | None = None
    calculations: Path | None = None
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task {self.task!r} is none of {', '.join(TASKS)}")
        if self.walltime is not None and not self.walltime >= 0:  # nor is nan
            raise ValueError(f"walltime is {self.walltime} s; it must not be negative")
        check_keywords(self.extra)
        for cutoff in {"ecutwfc", "ecutrho"} & set(self.extra):
            if not (isinstance(self.extra[cutoff], int | float) and self.extra[cutoff] > 0):
                raise ValueError(f"{cutoff} is {self.extra[cutoff]!r}; it must be a positive number of Ry")
        self.settled()

    def settled(self) -> Preset:
        """The preset with the k-spacing that was chosen."""
        preset = load_preset(self.preset)
        return preset if self.kspacing is None else replace(preset, kspacing=self.kspacing)


def compare_all(
    crystals: Sequence[Crystal],
    settings: Settings,
    known: Mapping[str, Structure] | None = None,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Compares every crystal, or searches for every composition (with the structure ``known`` for it), and writes
    ``report.json`` and ``report.html`` into the folder, anew after each crystal. ``left_out`` says what is missing from the
    beginning, and why.
    """
    import torch

    settings.folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=settings.folder):  # finds out now whether there can be a report in the end
        pass
    torch.set_num_threads(settings.machine.cores)  # the same cores for everyone
    pw = _espresso(settings)
    methods: list[Method] = [pw, DaoPotential(settings.fmax), *(peer(name, settings.fmax) for name in settings.peers)]
    rows: list[Row] = []
    report = _report(rows, settings, pw, left_out)
    for crystal in crystals:
        if settings.task == "search":
            rows.append(_searched(crystal.name, (known or {}).get(crystal.name), pw, settings.search))
        else:
            rows.append(compare(crystal, settings.task, methods))
        report = _report(rows, settings, pw, left_out)
        write(report, settings.folder)
    return report


def _searched(formula: str, known: Structure | None, pw: Espresso, settings: SearchSettings) -> Row:
    """A search, or why there is none."""
    try:
        return search(formula, known, pw, settings)
    except (ValueError, RuntimeError, OSError) as error:
        return {"name": formula, "formula": formula, "task": "search", "problems": [f"{formula}: {error}"]}


def write(report: Mapping[str, Any], folder: Path) -> None:
    """Writes the report as JSON and as a page."""
    write_json(folder / "report.json", report)
    write_page(report, folder / "report.html")


def _espresso(settings: Settings) -> Espresso:
    return Espresso(
        settings.settled(),
        settings.calculations or settings.folder / "calculations",
        settings.machine,
        directories(settings.pseudo_dirs),
        dict(settings.extra),
        None if settings.walltime is None else time.monotonic() + settings.walltime,
    )


def _report(rows: Sequence[Row], settings: Settings, pw: Espresso, left_out: Sequence[str]) -> dict[str, Any]:
    names = ", ".join(row["name"] for row in rows)
    return {
        "title": f"dao-ase compare: {settings.task}",
        "summary": f"{names} · preset {settings.preset} · {settings.machine.cores} core"
        + ("s" if settings.machine.cores > 1 else ""),
        "rows": list(rows),
        "polymorphs": polymorphs([row for row in rows if row["task"] != "search"]),
        "problems": [*left_out, *_problems(rows)],
        "settings": {
            "task": settings.task, "preset": settings.preset, "k-spacing (1/Å)": pw.preset.kspacing,
            "smearing": f"{pw.preset.smearing}, {pw.preset.degauss} Ry", "spin": pw.preset.spin,
            "keywords of pw.x that replace the preset's": ", ".join(f"{k}={v}" for k, v in settings.extra.items()) or "none",
            "command of pw.x": settings.machine.words, "cores": settings.machine.cores,
            "time-out of a calculation (s)": settings.machine.timeout,
            "force below which DAO-P and peers are relaxed (eV/Å)": settings.fmax,
            "Δ": "the method minus pw.x; RMSE is StructureMatcher's, in units of (V/N)^⅓",
            "times of pw.x": "its own clocks, of all ranks and attempts, start included",
            "times of DAO-P and peers": "without loading, after a first call; those of DAO-P, and of single calls, "
            f"are medians of up to {REPEATS}, neighbour lists included; but not where atoms moved since the last call",
        } | _of_search(settings),
        "versions": _versions(settings, pw),
        "machine": {
            "processor": _processor(), "BLAS of pw.x": blas() or "unknown",
            "load when the report was written": round(os.getloadavg()[0], 1),
        },
        "pseudopotentials": {
            element: {"file": one.name, "kind": one.kind, "functional": one.functional, "digest": one.digest}
            for element, one in sorted(pw.used.items())
        },
        "remarks": list(pw.remarks),
        "inputs": dict(pw.inputs),
    }  # fmt: skip


def _of_search(settings: Settings) -> dict[str, Any]:
    """What was chosen for a search; what the other way took is the budget where none was given."""
    chosen = settings.search
    budget = "as the other way" if chosen.budget is None else chosen.budget
    if settings.task != "search":
        return {}
    return {
        "structures drawn by DAO-G": chosen.number, "seed": chosen.seed, "refined by pw.x, at most": chosen.refine,
        "candidates symmetrized": chosen.symmetrize, "budget of pw.x alone (processor s)": budget,
    }  # fmt: skip


def _problems(rows: Sequence[Row]) -> list[str]:
    """What went wrong, each thing once, behind all that it befell.

    A relaxation that did not end is a problem, too, and so is an equation of state without a minimum.
    """
    befell: dict[str, list[str]] = {}
    for row in rows:
        for problem in row.get("problems", []):
            befell.setdefault(problem, [])
        for name, one in row.get("methods", {}).items():
            if "problem" in one:
                befell.setdefault(one["problem"], []).append(f"{row['name']}, {name}")
            elif "end" in one["notes"] and not one.get("converged"):
                befell.setdefault(one["notes"]["end"], []).append(f"{row['name']}, {name}")
    return [f"{'; '.join(where)}: {problem}" if where else problem for problem, where in befell.items()]


def _versions(settings: Settings, pw: Espresso) -> dict[str, str]:
    found = {"pw.x": ", ".join(sorted(pw.versions)) or "not run", "DAO-P's weights": f"sha256 {potential_digest()}…"}
    for package in ("dao-ase", "torch", "ase", "pymatgen", *settings.peers):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # a calculator by its import name
            continue
    return found


def _processor() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
