"""A wider DAO-P that begins where a trained one stands: every channel of the atoms' states twice, the function the same.

    python -m dao_ase.train.widen runs/dao_p_longer/weights.safetensors runs/dao_p_wide.safetensors

A state x becomes [x, x]. What reads it shares its weight between the copies at random, W → [W u, W (1 − u)], so that the sum
is as before and the copies learn different things from the first step on; what writes it writes both.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor, nn

from dao_ase import checkpoint
from dao_ase.potential import Potential, PotentialConfig


def widen(model: Potential, times: int = 2, *, spread: float = 0.3, seed: int = 0) -> Potential:
    """The same function with ``times`` as many channels; ``spread`` is that of the copies' shares around 1 / times."""
    rng = torch.Generator().manual_seed(seed)
    wide = Potential(replace(model.config, width=times * model.config.width)).to(model.reference.dtype)
    linear = {f"{name}.weight" for name, module in wide.named_modules() if isinstance(module, nn.Linear)}
    old, new = model.state_dict(), wide.state_dict()
    with torch.no_grad():
        for name, target in new.items():
            value = old[name]
            for axis in range(value.ndim):
                if target.shape[axis] != value.shape[axis]:
                    reads = name in linear and axis == 1
                    value = _shared(value, times, spread, rng) if reads else torch.cat([value] * times, axis)
            target.copy_(value)
    wide.load_state_dict(new)
    return wide


def _shared(weight: Tensor, times: int, spread: float, rng: torch.Generator) -> Tensor:
    """The columns of a matrix, distributed at random over their copies."""
    shares = torch.randn(times, *weight.shape, generator=rng).to(weight) * spread
    shares = shares - shares.mean(0) + 1 / times
    return torch.cat([weight * share for share in shares], 1)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--times", type=int, default=2)
    options = parser.parse_args()
    tensors, header = checkpoint.load(options.source)
    model = Potential(PotentialConfig.from_header(header["config"]))
    model.load_state_dict(tensors)
    wide = widen(model, options.times)
    checkpoint.save(options.target, wide.state_dict(), header | wide.header())


if __name__ == "__main__":
    main()
