"""What every benchmark writes: its figures, and by which code on which machine they were measured.

    from record import record
    record("gallery", {"seconds_to_open": 1.2}, seed=0)     # → benchmarks/results/gallery.json

docs/results.md takes its figures from these files alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("dao-ase", "torch", "numpy", "ase", "pymatgen")


def record(name: str, figures: dict[str, Any], *, seed: int | None = None, packages: tuple[str, ...] = ()) -> Path:
    """Writes ``benchmarks/results/NAME.json`` and prints it; name the peers that were measured beside in ``packages``.

    With ``--quick`` it is only printed: a small run does not replace what was measured.
    """
    result = {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {package: metadata.version(package) for package in (*PACKAGES, *packages)},
        "seed": seed,
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if "--quick" not in sys.argv:
        path.write_text(text, encoding="utf-8")
    print(text, end="")
    return path


def commit() -> str:
    """The commit that was measured, marked when the working tree differs from it in the package's sources."""
    here = Path(__file__).parent
    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    if head.returncode:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "../src"], cwd=here, check=False).returncode
    return head.stdout.strip() + ("+changes" if changed else "")


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, load when the benchmark ended, and the GPU if there is one."""
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": gpu,
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that has the two options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a small run that only shows that the benchmark works")
    return parser
