"""From the weights of a run to the weight file that the package carries: small, and with its figures in the header.

    python -m dao_ase.train.publish runs/dao_g_mp20_decay/weights.safetensors src/dao_ase/weights/dao_g.safetensors \\
        --name dao-g-small --steps 20 --anti-annealing 5 --report runs/val/report.json
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


def publish(source: str | Path, target: str | Path, name: str, sampler: dict[str, Any], val: dict[str, Any]) -> None:
    """Writes the weights with matrices in bfloat16 (the type in which they are multiplied) and the header completed.

    ``sampler`` holds the settings that validation found best, ``val`` the validation figures.
    """
    tensors, header = checkpoint.load(source)
    rounded = {key: _round(tensor) for key, tensor in tensors.items()}
    size = sum(tensor.nbytes for tensor in rounded.values())
    if size > MAX_BYTES:
        raise ValueError(f"{str(source)!r} would take {size / 1e6:.1f} MB; a model in the wheel has at most 20")
    checkpoint.save(target, rounded, header | {"name": name, "sampler": sampler, "val": val})


def _round(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.ndim >= 2 and tensor.is_floating_point() else tensor


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--name", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--anti-annealing", type=float, required=True)
    parser.add_argument("--report", required=True, help="report.json of dao-ase evaluate on the validation crystals")
    options = parser.parse_args()
    report = json.loads(Path(options.report).read_text())
    kept = ("references", "samples", "match_rate", "rmse", "match_rate_filtered", "rmse_filtered")
    val = {"file": report["settings"]["file"], **{key: report[key] for key in kept}}
    sampler = {"steps": options.steps, "anti_annealing": options.anti_annealing}
    publish(options.source, options.target, options.name, sampler, val)


if __name__ == "__main__":
    main()
