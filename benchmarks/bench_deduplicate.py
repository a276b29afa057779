"""De-duplication of 100,000 crystals of the Materials Project, and how much of it the shortcuts save.

Beside it pymatgen's `StructureMatcher` alone on a sample of the same pairs: its time for each pair, and how many of the
pairs that it takes for equal are found. Takes minutes on two free cores. Needs the reference data in ``../shared/data``.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from record import arguments, record

from dao_ase.composition import reduced_key
from dao_ase.data.fingerprint import distance_shifts, fingerprint
from dao_ase.data.matching import MAX_SHIFT, Cell, Tolerances, duplicates_by_group, group_by_formula
from dao_ase.data.tables import NpzSource
from dao_ase.niggli import niggli_reduce

DATA = Path(os.environ.get("DAO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def read_cells(limit: int) -> list[Cell]:
    """The crystals of the pool, Niggli-reduced, as a build has them at this point."""
    cells: list[Cell] = []
    for name in ("mp_pool_0", "mp_pool_1"):
        source = NpzSource(DATA / f"{name}.npz")
        for row, raw in enumerate(source.rows()):
            if len(cells) == limit:
                return cells
            one = source.record(row, raw)
            cells.append(Cell(*niggli_reduce(one.lattice, one.frac_coords), one.atomic_numbers))
    return cells


def measure_matcher(cells: list[Cell], keys: list, pairs: int, seed: int) -> dict:
    """`StructureMatcher` as it comes on random pairs of one formula: time, and how many of its matches are near enough."""
    from pymatgen.core import Structure

    rng, matcher = np.random.default_rng(seed), Tolerances().matcher()
    groups = [group.members for group in group_by_formula(keys) if len(group.members) > 1]
    seconds, matches, found = 0.0, 0, 0
    for place in rng.integers(len(groups), size=pairs):
        one, other = (cells[i] for i in rng.choice(groups[place], 2, replace=False))
        structures = [Structure(c.lattice, c.atomic_numbers.tolist(), c.frac_coords) for c in (one, other)]
        started = time.process_time()
        match = matcher.fit(*structures)
        seconds += time.process_time() - started
        if match:
            prints = [fingerprint(c.lattice, c.frac_coords, c.atomic_numbers) for c in (one, other)]
            matches += 1
            found += int(distance_shifts(prints[0], prints[1][None])[0] <= MAX_SHIFT)
    return {"pairs": pairs, "milliseconds_a_pair": round(1e3 * seconds / pairs, 1), "matches": matches, "found": found}


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    if not DATA.is_dir():
        sys.exit(f"the reference data are not in {DATA}; set DAO_SHARED_DATA")
    warnings.simplefilter("ignore")
    cells = read_cells(3_000 if options.quick else 100_000)
    keys = [reduced_key(cell.atomic_numbers.tolist()) for cell in cells]
    sizes = [len(group.members) for group in group_by_formula(keys)]
    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        repeats = duplicates_by_group(cells, keys, Path(temporary), workers=2)
        wall = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "crystals": len(cells),
        "pairs of one formula": sum(size * (size - 1) // 2 for size in sizes),
        "duplicates": len(repeats),
        "seconds": round(wall, 1),
        "processor_seconds": round(children.ru_utime + children.ru_stime, 1),
        "StructureMatcher alone": measure_matcher(cells, keys, 50 if options.quick else 2_000, options.seed),
    }
    record("deduplicate", figures, seed=options.seed)
