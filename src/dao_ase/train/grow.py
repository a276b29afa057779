"""A larger network that begins where a trained one stands: the function is the same, and there is more to train.

    python -m dao_ase.train.grow runs/dao_p_longer/weights.safetensors runs/dao_p_wide.safetensors --times 2
    python -m dao_ase.train.grow src/dao_ase/weights/dao_p.safetensors runs/dao_p_aligned.safetensors --aligned --layers 3
    python -m dao_ase.train.grow runs/dao_p_stiff/weights.safetensors runs/dao_p_polynomials.safetensors --legendre
    python -m dao_ase.train.grow src/dao_ase/weights/dao_p.safetensors runs/dao_p_logarithms.safetensors --logarithms
    python -m dao_ase.train.grow runs/dao_p_logarithms_last/weights.safetensors runs/dao_p_rank_4.safetensors --rank 4
    python -m dao_ase.train.grow src/dao_ase/weights/dao_g.safetensors runs/dao_g_deep.safetensors --layers 9

DAO-P grows in every way named here, DAO-G by layers.

Wider: a state x becomes [x, x]. What reads it shares its weight between the copies at random, W → [W u, W (1 − u)], so that
the sum is as before and the copies learn different things from the first step on; what writes it writes both.

Deeper, and with more scalars of a neighbourhood: what is new is at random, and read with weight zero. With
Legendre polynomials in place of powers of a cosine: what reads them is converted.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from dao_ase import checkpoint
from dao_ase.denoiser import Denoiser, DenoiserConfig
from dao_ase.invariants import polynomials
from dao_ase.potential import Potential, PotentialConfig

WRITERS = ("attention.out", "feed_forward.2")
"""The maps by which a layer adds to the states; those of a new layer begin as zero."""


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


def extend(
    model: Potential,
    *,
    layers: int | None = None,
    rank: int | None = None,
    aligned: bool | None = None,
    legendre: bool | None = None,
    logarithms: bool | None = None,
    seed: int = 0,
) -> Potential:
    """The same function with more layers, more scalars (higher ``rank``, ``aligned``, ``logarithms``), or ``legendre``."""
    torch.manual_seed(seed)
    old = model.config
    wanted: dict[str, Any] = {
        "layers": layers, "rank": rank, "aligned": aligned, "legendre": legendre, "logarithms": logarithms,
    }  # fmt: skip
    config = replace(old, **{name: value for name, value in wanted.items() if value is not None})
    if any(getattr(config, name) < getattr(old, name) for name in wanted):
        raise ValueError(f"{config} is smaller than {old}")
    larger = Potential(config).to(model.reference.dtype)
    trained, new = model.state_dict(), larger.state_dict()
    with torch.no_grad():
        for name, target in new.items():
            if name in trained:
                value = trained[name]
                target.copy_(_read_anew(value, old, config) if value.shape != target.shape else value)
            elif any(part in name for part in WRITERS):
                target.zero_()
    larger.load_state_dict(new)
    return larger


def deepen(model: Denoiser, layers: int, *, seed: int = 0) -> Denoiser:
    """The same DAO-G with ``layers`` layers: the gates of a new one are zero, so that it changes nothing yet."""
    torch.manual_seed(seed)
    config = replace(model.config, layers=layers)
    if config.block != "adaptive" or layers < model.config.layers:
        raise ValueError(
            f"only more layers of the adaptive kind begin as the identity, {config} asks for something else"
        )
    deeper = Denoiser(config).to(model.code_mean.dtype)
    deeper.load_state_dict(deeper.state_dict() | model.state_dict())
    return deeper


def _read_anew(weight: Tensor, old: PotentialConfig, new: PotentialConfig) -> Tensor:
    """What reads the scalars of a neighbourhood, and then the logarithms of Z, for those that ``new`` has."""
    rank, channels = old.rank, old.value_width
    counts = [1, rank + old.legendre, rank * old.aligned, rank * old.logarithms]
    *read, rest = weight.split([*(count * channels for count in counts), weight.shape[1] - sum(counts) * channels], 1)
    first, squares, aligned, logarithms = (part.unflatten(1, (-1, channels)) for part in read)
    if new.legendre > old.legendre:  # Σ u_n x_n with x = P⁻¹ q, of which x_0 was not read
        squares = torch.einsum("onc,nl->olc", squares, torch.linalg.inv(polynomials(rank).to(weight))[1:])
    wanted = [new.rank + new.legendre, new.rank * new.aligned, new.rank * new.logarithms]
    others = [
        nn.functional.pad(part, (0, 0, 0, count - part.shape[1]))
        for part, count in zip((squares, aligned, logarithms), wanted, strict=True)
    ]
    return torch.cat([*(part.flatten(1) for part in (first, *others)), rest], 1)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--times", type=int, default=1, help="as many channels of the states")
    parser.add_argument("--layers", type=int, help="how many layers it shall have")
    parser.add_argument("--rank", type=int, help="up to which rank directions are seen")
    parser.add_argument("--aligned", action="store_true", default=None, help="with the aligned scalars")
    parser.add_argument("--legendre", action="store_true", default=None, help="with Legendre polynomials of angles")
    parser.add_argument("--logarithms", action="store_true", default=None, help="with logarithms of squares")
    options = parser.parse_args()
    tensors, header = checkpoint.load(options.source)
    wanted = {name: getattr(options, name) for name in ("layers", "rank", "aligned", "legendre", "logarithms")}
    model: Potential | Denoiser
    larger: Potential | Denoiser
    with checkpoint.described_by(options.source):
        if header["model"] == "denoiser":
            model = Denoiser(DenoiserConfig(**header["config"]))
        else:
            model = Potential(PotentialConfig.from_header(header["config"]))
    checkpoint.fill(model, tensors, options.source)
    if isinstance(model, Denoiser):
        if options.times > 1 or any(value is not None for name, value in wanted.items() if name != "layers"):
            parser.error("DAO-G grows by layers only")
        larger = deepen(model, options.layers or model.config.layers)
        header |= {"config": asdict(larger.config)}
    else:
        larger = widen(extend(model, **wanted), options.times)
        header |= larger.header()
    checkpoint.save(options.target, larger.state_dict(), header)


if __name__ == "__main__":
    main()
