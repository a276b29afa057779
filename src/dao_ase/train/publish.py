"""From the weights of a run to the weight file that the package carries: small, and with its figures in the header.

    python -m dao_ase.train.publish runs/dao_g_mp20_decay/weights.safetensors src/dao_ase/weights/dao_g.safetensors \\
        --name dao-g-small --steps 20 --anti-annealing 5 --report runs/val/report.json
    python -m dao_ase.train.publish runs/stability/weights.safetensors src/dao_ase/weights/dao_p_stability.safetensors \\
        --name dao-p-stability --header runs/val/stability.json
    python -m dao_ase.train.publish runs/dao_p_decay/weights.safetensors src/dao_ase/weights/dao_p.safetensors \\
        --name DAO-P --header runs/val/potential.json --config '{"logit_bound": 7}'
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from dao_ase import checkpoint

MAX_BYTES = 20_000_000
"""What one model may add to the wheel."""


def publish(source: str | Path, target: str | Path, additions: dict[str, Any]) -> None:
    """Writes the weights and the completed header; matrices in bfloat16, the type in which they are multiplied, but for a
    potential, whose energies are differences of large numbers.

    ``additions`` to the header are the ``name``, settings that validation found best (``sampler`` for DAO-G, ``guidance``
    for the stability model) and the validation figures, ``val``.
    """
    tensors, header = checkpoint.load(source)
    rounded = (
        tensors if header.get("model") == "potential" else {key: _round(tensor) for key, tensor in tensors.items()}
    )
    size = sum(tensor.nbytes for tensor in rounded.values())
    if size > MAX_BYTES:
        raise ValueError(f"{str(source)!r} would take {size / 1e6:.1f} MB; a model in the wheel has at most 20")
    checkpoint.save(target, rounded, header | additions)


def _round(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.ndim >= 2 and tensor.is_floating_point() else tensor


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--name", required=True)
    parser.add_argument("--steps", type=int, help="DAO-G: evaluations a sample")
    parser.add_argument("--anti-annealing", type=float, help="DAO-G: speed-up of the last steps")
    parser.add_argument("--lattice-noise", type=float, default=1.0, help="DAO-G: spread of the first cells")
    parser.add_argument("--tries", type=int, default=1, help="DAO-G: attempts at each structure")
    parser.add_argument("--report", type=Path, help="DAO-G: report.json of dao-ase evaluate on the validation crystals")
    parser.add_argument(
        "--config", type=json.loads, default={}, help="DAO-P: what of its configuration is not as in training, as JSON"
    )
    parser.add_argument("--header", type=Path, help="other models: a JSON file with what the header should say besides")
    options = parser.parse_args()
    if (options.report is None) == (options.header is None):
        parser.error("give --report with --steps and --anti-annealing (DAO-G), or --header")
    additions = json.loads(options.header.read_text()) if options.header else _of_generator(options)
    if options.config:
        additions["config"] = checkpoint.read_header(options.source)["config"] | options.config
    publish(options.source, options.target, {"name": options.name, **additions})


def _of_generator(options: argparse.Namespace) -> dict[str, Any]:
    report = json.loads(options.report.read_text())
    kept = ("references", "samples", "match_rate", "rmse", "match_rate_filtered", "rmse_filtered")
    val = {"file": report["settings"]["file"], **{key: report[key] for key in kept}}
    sampler = {name: getattr(options, name) for name in ("steps", "anti_annealing", "lattice_noise")}
    return {"sampler": sampler, "tries": options.tries, "val": val}


if __name__ == "__main__":
    main()
