"""The data layer: 27,000 CIFs of a CSV into a store, 120,000 npz crystals into a store, a shuffled batch of 256, statistics.

Beside it pymatgen, which DiffCSP and CDVAE read the same CSV with, on a sample of the same CIFs. Needs the reference data in
``../shared/data`` (or ``DAO_SHARED_DATA``), from whose MP-20 crystals the CSV is written with pymatgen.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from record import arguments, record

from dao_ase.data.batches import BucketedBatches
from dao_ase.data.store import CrystalStore
from dao_ase.data.tables import NpzSource

DATA = Path(os.environ.get("DAO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
DIFFCSP = "11.5 minutes for the 27,136 CIFs of MP-20 train (issue of the project; other hardware)"

BUILD = """
import json, resource, sys, time
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source

if __name__ == "__main__":
    rules = BuildRules(min_atoms=1, max_atoms=100, max_e_hull=None, deduplicate=False)
    started = time.perf_counter()
    store = build([open_source(file) for file in sys.argv[2:]], sys.argv[1], rules, workers=2)
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({
        "crystals": len(store),
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime, 2),
        "memory_MB": {"main": own.ru_maxrss // 1024, "largest_worker": others.ru_maxrss // 1024},
    }))
"""


def measure_build(folder: Path, output: str, files: list[Path]) -> dict:
    """Time and memory of a build in a process of its own, with two workers."""
    script = folder / "build_store.py"
    script.write_text(BUILD)
    command = [sys.executable, str(script), str(folder / output), *map(str, files)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def write_cifs(file: Path, limit: int) -> list[str]:
    """A CSV like the benchmarks' from the crystals of MP-20 train, validation where those do not suffice."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    cifs = []
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["material_id", "formation_energy_per_atom", "cif"])
        for name in ("mp20_train", "mp20_val"):
            source = NpzSource(DATA / f"{name}.npz")
            for row, raw in enumerate(source.rows()):
                if len(cifs) == limit:
                    return cifs
                one = source.record(row, raw)
                structure = Structure(one.lattice, one.atomic_numbers.tolist(), one.frac_coords)
                cifs.append(str(CifWriter(structure)))
                writer.writerow([one.id, one.labels["formation_energy_per_atom"], cifs[-1]])
    return cifs


def measure_pymatgen(cifs: list[str]) -> dict:
    """Processor time of pymatgen for a sample of the CIFs, and what that makes for all of them."""
    from pymatgen.core import Structure

    sample = cifs[:: max(1, len(cifs) // 400)]
    started = time.process_time()
    for cif in sample:
        Structure.from_str(cif, fmt="cif")
    each = (time.process_time() - started) / len(sample)
    return {"milliseconds_each": round(1e3 * each, 2), "processor_seconds_for_all": round(each * len(cifs), 1)}


def measure_batches(store: CrystalStore, seed: int, repeats: int) -> dict:
    """Milliseconds for shuffled batches of up to 256 crystals of equal size, as the trainer draws them."""
    batches = BucketedBatches(store, crystals=256, pairs=10**9, seed=seed)
    full, milliseconds = 0, []
    while full < repeats:
        started = time.perf_counter()
        batch = next(batches)
        if len(batch) == 256:
            milliseconds.append(1e3 * (time.perf_counter() - started))
            full += 1
    median, tail = np.quantile(milliseconds, [0.5, 0.95])
    return {"median_ms": round(float(median), 3), "95_percent_ms": round(float(tail), 3)}


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    if not DATA.is_dir():
        sys.exit(f"the reference data are not in {DATA}; set DAO_SHARED_DATA")
    warnings.simplefilter("ignore")  # pymatgen's remarks on the thirds in a CIF
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cifs = write_cifs(folder / "cifs.csv", 500 if options.quick else 27_136)
        names = ["mp20_val"] if options.quick else ["mp_pool_0", "mp_pool_1", "mp20_train"]
        figures = {
            "csv": measure_build(folder, "csv", [folder / "cifs.csv"]),
            "csv with pymatgen": measure_pymatgen(cifs),
            "csv with DiffCSP": DIFFCSP,
            "npz": measure_build(folder, "npz", [DATA / f"{name}.npz" for name in names]),
            "batch": measure_batches(CrystalStore.open(folder / "npz"), options.seed, 20 if options.quick else 500),
        }
    record("data", figures, seed=options.seed)
