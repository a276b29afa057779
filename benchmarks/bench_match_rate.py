"""DAO-G on MP-20 or MPTS-52: how often one sample, and any of twenty, matches the known structure.

A sample is what DAOGenerator makes by default, the best of several tries by DAO-P's energy; beside it stands a single try.

Needs the test file in the folder that --data names. The sampler's settings are those of the weights, chosen on
validation crystals; test crystals are looked at here and nowhere else. MPTS-52 test shares crystals with MP-20 train: those
are left out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from record import arguments, record

from dao_ase.benchmark import find_benchmark, run_benchmark
from dao_ase.generator import DAOGenerator

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
    for name, samples, limit, tries in (
        ("1 samples", 1, options.one, None),
        ("20 samples", 20, options.twenty, None),
        ("1 samples, one try", 1, options.one, 1),
    ):
        generator = DAOGenerator(tries=tries)
        with tempfile.TemporaryDirectory() as folder:
            limit = 16 if options.quick else limit
            figures[name] = {
                "evaluations a sample": generator.tries_of(samples) * generator.settings.steps
            } | run_benchmark(
                generator, file, Path(folder), samples=samples, limit=limit, seed=options.seed, progress=True, seen=seen
            )
    record(f"match_rate_{options.benchmark}", figures | {"published": PUBLISHED[options.benchmark]}, seed=options.seed)
