"""A screening whose work is a stand-in that takes milliseconds, as a process that can be killed.

    python tests/screening.py FOLDER COUNT WORKERS

It notes in FOLDER/worked.txt what it works on, and prints a line when it begins and when it ends.
"""

import os
import sys
import time
from pathlib import Path

from ase.build import bulk

from dao_ase.cli.stopping import sigterm_as_ctrl_c
from dao_ase.database import Outcome
from dao_ase.screen.run import screen
from dao_ase.screen.work import Shard

DEADLY = "Xe"
"""The worker that gets this composition dies."""
STRUCTURES = 3
"""Rows of a composition."""


def quick(shard: Shard) -> list[Outcome]:
    """Three rows for each composition after a few milliseconds."""
    log = Path(os.environ["WORKED"])
    outcomes = []
    for composition in shard.compositions:
        if composition == DEADLY:
            time.sleep(0.5)  # until the last result is sent: who dies on it holds the lock of the pipe, and all wait
            os._exit(1)
        with open(log, "a") as file:
            file.write(composition + "\n")
        time.sleep(0.004)
        structures = [bulk("NaCl", "rocksalt", a=5.6) for _ in range(STRUCTURES)]
        for rank, atoms in enumerate(structures, 1):
            atoms.info = {"rank": rank, "energy_per_atom": -3.0 + 0.1 * rank}
        outcomes.append(Outcome(composition, structures))
    return outcomes


def compositions(count: int) -> list[str]:
    """Formulas that are all different."""
    return [f"Na{number}Cl" for number in range(2, count + 2)]


if __name__ == "__main__":
    from screening import quick as importable  # a worker finds it by this name, not as __main__'s

    folder, count, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["WORKED"] = str(folder / "worked.txt")
    print("begins", flush=True)
    wanted = compositions(count) + ([DEADLY] if workers else [])
    with sigterm_as_ctrl_c():
        print(screen(wanted, folder, count=workers, shard=4, work=importable), flush=True)
