"""DAO-G on MP-20 or MPTS-52: how often one sample, and any of twenty, matches the known structure.

A sample is what DAOGenerator makes by default: the best of several candidates by DAO-P's energy, some from noise and some
from known structure types. Beside it stand the network alone (the best of several tries, and a single one) and the structure
type that suits the composition best, as it is.

Needs the test file in the folder that --data names. The sampler's settings are those of the weights, chosen on
validation crystals; test crystals are looked at here and nowhere else. MPTS-52 test shares crystals with MP-20 train: those
are left out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from record import arguments, record

from dao_ase.benchmark import find_benchmark, identifiers, references, run_benchmark
from dao_ase.composition import Composition
from dao_ase.convert import to_structures
from dao_ase.evaluate import compare, summarise
from dao_ase.generator import DAOGenerator

if TYPE_CHECKING:
    from pymatgen.core import Structure

PUBLISHED = {
    "mp_20": {
        "DiffCSP, 2000 evaluations": {"match_rate": 0.5149, "rmse": 0.0631},
        "FlowMM, 50-1000 evaluations": {"match_rate": 0.6139, "rmse": 0.0560},
        "Crysformer + flow matching, pretrained (DAO)": {"match_rate": 0.7417, "rmse": 0.0400},
    },
    "mpts_52": {
        "DiffCSP, 2000 evaluations": {"match_rate": 0.1219, "rmse": 0.1786},
        "FlowMM, 50-1000 evaluations": {"match_rate": 0.1754, "rmse": 0.1726},
        "Crysformer + flow matching, pretrained (DAO)": {"match_rate": 0.4201, "rmse": 0.1083},
    },
}
SEEN = {"mpts_52": "mp20_train.npz"}
"""Training sets that share crystals with the test set of a benchmark."""


def substituted(known: list[Structure]) -> dict[str, Any]:
    """How often the type that suits a composition best matches once its elements are exchanged, and nothing else is done."""
    library = DAOGenerator().sampler.library
    types = [library.suited(Composition.from_atomic_numbers(one.atomic_numbers)) for one in known]
    made = [[to_structures(one[0].crystal)[0]] if len(one) else [] for one in types]
    report = summarise(compare(made, known))
    return {"references": len(known), "match_rate": report.match_rate, "rmse": report.rmse}


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--benchmark", default="mp_20", choices=list(PUBLISHED))
    parser.add_argument("--one", type=int, default=2000, help="references for one sample each")
    parser.add_argument("--twenty", type=int, default=150, help="references for twenty samples each")
    options = parser.parse_args()
    file = find_benchmark(options.benchmark, options.data)
    seen = options.data / SEEN[options.benchmark] if options.benchmark in SEEN else None
    figures = {}
    one, twenty = (16, 16) if options.quick else (options.one, options.twenty)
    for name, samples, limit, how in (
        ("1 samples", 1, one, {}),
        ("20 samples", 20, twenty, {}),
        ("1 samples, network alone", 1, one, {"prototypes": False}),
        ("20 samples, network alone", 20, twenty, {"prototypes": False}),
        ("1 samples, one try", 1, one, {"prototypes": False, "tries": 1}),
    ):
        generator = DAOGenerator(**how)
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = {"evaluations a sample": generator.sampler.evaluations(samples)} | run_benchmark(
                generator, file, Path(folder), samples=samples, limit=limit, seed=options.seed, progress=True, seen=seen
            )
    known = references(file, one, options.seed, identifiers(seen) if seen else frozenset())
    figures["1 samples, structure type alone"] = substituted(known)
    record(f"match_rate_{options.benchmark}", figures | {"published": PUBLISHED[options.benchmark]}, seed=options.seed)
