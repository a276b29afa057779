"""The mean of the weights of several runs, which mends what one of them forgot.

    python -m dao_ase.train.mean runs/mean.safetensors runs/dao_p_logarithms_last/weights.safetensors=0.5 \\
        runs/dao_p_logarithms.safetensors=0.5

Only runs that began from the same weights have one: their networks number their channels alike. Reference energies and what
was trained on are the first run's.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dao_ase import checkpoint

FIRST = ("reference", "trained")
"""What is no learnt weight: the energies of the elements and which of them occurred."""


def mean(shares: Mapping[str | Path, float]) -> tuple[dict[str, Tensor], dict]:
    """The mean of weight files by their shares, and the header of the first with a line on it."""
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares {list(shares.values())} do not sum to one")
    (first, header), *others = [checkpoint.load(path) for path in shares]
    for path, (tensors, _) in zip(list(shares)[1:], others, strict=True):
        if {name: one.shape for name, one in tensors.items()} != {name: one.shape for name, one in first.items()}:
            raise ValueError(f"{str(path)!r} holds another network than {str(next(iter(shares)))!r}")
    parts = list(zip([first, *(tensors for tensors, _ in others)], shares.values(), strict=True))
    mixed = {
        name: value if name in FIRST else torch.stack([share * tensors[name] for tensors, share in parts]).sum(0)
        for name, value in first.items()
    }
    return mixed, header | {"mean": {str(path): share for path, share in shares.items()}}


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("sources", nargs="+", metavar="FILE=SHARE")
    options = parser.parse_args()
    split = [source.rpartition("=") for source in options.sources]
    try:
        mixed = mean({path: float(share) for path, _, share in split})
    except ValueError as error:
        parser.error(f"{error}; the file to write comes first, then FILE=SHARE of each")
    checkpoint.save(options.target, *mixed)


if __name__ == "__main__":
    main()
