"""Seconds from the shell to twenty structures of CsV3Sb5 in a new process, and samples a second in a running one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import arguments, record

from dao_ase.composition import Composition
from dao_ase.generator import DAOGenerator

ONE_CALL = "from dao_ase import DAOGenerator; assert len(DAOGenerator().generate('CsV3Sb5', n=20, rank=False)) == 20"


def seconds(command: list[str]) -> float:
    """Wall time of the second run: the first one fills the disk's cache."""
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        spent = time.perf_counter() - started
    return round(spent, 2)


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).parent / "dao-ase"), "generate", "CsV3Sb5", "-n", "20", "-o", folder]
        figures = {
            "generate('CsV3Sb5', n=20), new process, s": seconds([sys.executable, "-c", ONE_CALL]),
            "dao-ase generate CsV3Sb5 -n 20, ranked, s": seconds(command),
        }
    generator = DAOGenerator()
    cells = [Composition.parse("CsV3Sb5")] * (64 if options.quick else 512)
    started = time.perf_counter()
    generator.sampler.sample_cells(cells, range(len(cells)), count=20)
    figures["samples of 9 atoms a second"] = round(len(cells) / (time.perf_counter() - started), 1)
    figures["evaluations a sample"] = generator.sampler.evaluations(20)
    record("generate", figures, seed=options.seed)
