"""How long a user waits before anything happens: ``import dao_ase`` and ``dao-ase --help``, each in a new process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from record import arguments, record

COMMANDS = {
    "python (nothing imported)": ["-c", "pass"],
    "import dao_ase": ["-c", "import dao_ase"],
    "dao-ase --help": ["-c", "from dao_ase.cli import main; main(['--help'])"],
    "import torch": ["-c", "import torch"],
    "import pymatgen.core": ["-c", "import pymatgen.core"],
}


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a command; the first run, which fills the disk's cache, does not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return round(statistics.median(times[1:]), 3)


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    record("start", {name: seconds(command, 1 if options.quick else 7) for name, command in COMMANDS.items()})
