"""Screening compositions end to end: with one worker and with two, what a restart costs, and a hundred SIGKILLs.

The compositions are those of MP-20 validation crystals. With ``--repeats`` one worker and two take turns, each time into a
new folder, and the figures are those of the run of median length; all lengths are recorded. The kills hit a screening whose
work is a stand-in of a few milliseconds (``tests/screening.py``), so that they hit the books and not the networks;
everything else is the real thing.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from record import arguments, record

from dao_ase.composition import Composition, reduced_key
from dao_ase.database import open_screen
from dao_ase.train.potential_task import HELD_OUT_FORMULAS

ROOT = Path(__file__).parent.parent
VAL = ROOT.parent / "shared" / "data" / "mp20_val.npz"


def compositions(count: int, seed: int) -> list[str]:
    """Different cell contents of MP-20 validation crystals, at random."""
    with np.load(VAL) as file:
        starts = np.concatenate([[0], np.cumsum(file["n_atoms"])])
        numbers = file["numbers"]
    never = {reduced_key(Composition.parse(formula).atomic_numbers) for formula in HELD_OUT_FORMULAS}
    found: dict[frozenset, str] = {}
    for frame in np.random.default_rng(seed).permutation(len(starts) - 1):
        cell = numbers[starts[frame] : starts[frame + 1]]
        if reduced_key(cell) not in never and len(found) < count:
            composition = Composition.from_atomic_numbers(cell)
            found.setdefault(frozenset(composition.counts), composition.formula)
    return list(found.values())


def screen(table: Path, run: Path, workers: int, samples: int) -> float:
    """Seconds that ``dao-ase screen`` takes, from the shell to its last line."""
    command = [sys.executable, "-m", "dao_ase.cli", "screen", str(table), "-o", str(run), "-n", str(samples)]
    began = time.perf_counter()
    subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def throughput(folder: Path, count: int, samples: int, workers: int, seed: int, turn: int = 0) -> dict[str, float]:
    """A screening from nothing, and what it costs to start it again when it is done."""
    table, run = folder / "compositions.csv", folder / f"run-{workers}-{turn}"
    table.write_text("\n".join(compositions(count, seed)) + "\n")
    seconds = screen(table, run, workers, samples)
    again = screen(table, run, workers, samples)
    store = open_screen(run)
    firsts = [row for row in store.rows() if row.get("rank", 1) == 1]  # errors have no rank, but seconds
    work = sum(row.data["seconds"] for row in firsts)
    return {
        "seconds": round(seconds, 1),
        "compositions a second": round(count / seconds, 4),
        "seconds in the workers, summed": round(work, 1),
        "structures kept": sum(line.structures for line in store.done()),
        "errors": sum(line.error is not None for line in store.done()),
        "seconds to start again when all is done": round(again, 1),
    }


def in_turns(folder: Path, count: int, samples: int, repeats: int, seed: int) -> dict[str, dict[str, object]]:
    """One worker and two, ``repeats`` times in turns: of each the run of median length, and the seconds of all."""
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for turn in range(repeats):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):  # what the machine does besides changes slowly
            runs[workers].append(throughput(folder, count, samples, workers, seed, turn))
    return {
        f"workers {workers}": {
            **sorted(found, key=lambda one: one["seconds"])[(repeats - 1) // 2],
            "seconds of each run": [one["seconds"] for one in found],
        }
        for workers, found in runs.items()
    }


def books(folder: Path) -> tuple[list[str], int]:
    """What is done, and the number of compositions whose rows are not what their line says."""
    store = open_screen(folder)
    lines = store.done()
    rows = Counter(row.composition for row in store.rows())
    wrong = sum(rows.pop(line.composition, 0) != max(line.structures, 1) for line in lines) + len(rows)
    return [line.composition for line in lines], wrong + len(lines) - len({line.composition for line in lines})


def kills(folder: Path, count: int, times: int, workers: int, seed: int) -> dict[str, float]:
    """Starts a screening and kills it ``times`` times at random moments; then lets it end."""
    tests = str(ROOT / "tests")
    environment = {**os.environ, "PYTHONPATH": tests, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"{tests}/screening.py", str(folder), str(count), str(workers)]
    dice, log, killed, repeated, wrong = random.Random(seed), folder / "worked.txt", 0, 0, 0
    log.touch()
    done: list[str] = []
    while killed < times:
        seen = len(log.read_text().split())
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        early = dice.random() < 0.2  # some kills hit the start, before there is any work
        while not early and process.poll() is None and len(log.read_text().split()) == seen:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 1.0 if early else 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += 1
        repeated += len(set(log.read_text().split()[seen:]) & set(done))
        if (folder / "screen.json").exists():
            done, faults = books(folder)
            wrong += faults
    done_when_killed = len(done)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    done, faults = books(folder)
    return {
        "SIGKILLs": killed,
        "compositions": count,
        "done before the last start": done_when_killed,
        "lost": count - sum(one.startswith("Na") for one in done),
        "done twice": repeated,
        "books that do not agree": wrong + faults,
    }


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--compositions", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="runs with one worker and with two, in turns")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kill-workers", type=int, default=0, help="Parsl workers of the screening that is killed")
    parser.add_argument("--large", action="store_true", help="two workers alone, without kills, recorded by itself")
    options = parser.parse_args()
    if options.quick:
        options.compositions, options.samples, options.kills = 2, 2, 2
    if options.large:
        with tempfile.TemporaryDirectory() as temporary:
            found = throughput(Path(temporary), options.compositions, options.samples, 2, options.seed)
        figures = {"compositions": options.compositions, "samples of each": options.samples, **found}
        record("screen_large", figures, seed=options.seed, packages=("parsl",))
        raise SystemExit
    figures: dict = {"compositions": options.compositions, "samples of each": options.samples}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "killed").mkdir()
        figures["killed"] = kills(
            folder / "killed", 40 * max(options.kills, 5), options.kills, options.kill_workers, options.seed
        )
        figures |= in_turns(folder, options.compositions, options.samples, options.repeats, options.seed)
    figures["two workers, times faster"] = round(figures["workers 1"]["seconds"] / figures["workers 2"]["seconds"], 2)
    record("screen", figures, seed=options.seed, packages=("parsl",))
