"""``dao-ase train``: start or continue training runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dao_ase.train.loop import Trainer


@click.command()
@click.argument("configs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/NAME of CONFIG.")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="Stop after this time; the same command continues."
)
@click.option("--device", default=None, help="cpu or cuda. Default: cuda where there is one.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of torch.")
def train(
    configs: tuple[Path, ...], output: Path | None, minutes: float | None, device: str | None, threads: int | None
) -> None:
    """Train the models that CONFIGS (TOML) describe, one after the other, or continue where the last call stopped.

    Several GPUs, or cores: torchrun --nproc-per-node 4 -m dao_ase.cli train CONFIG --threads 1
    """
    import torch

    if output and len(configs) > 1:
        raise click.UsageError("-o names the folder of one run; name one CONFIG with it")
    if threads:
        torch.set_num_threads(threads)
    began = time.monotonic()
    for config in configs:
        left = None if minutes is None else minutes - (time.monotonic() - began) / 60
        if left is not None and left <= 0:
            break
        folder = output or Path("runs") / config.stem
        trainer = _trainer(config, folder, device)
        total = trainer.config.total_steps
        if trainer.step >= total:
            click.echo(f"{folder} is complete: {trainer.step} steps", err=True)
            continue
        if trainer.step and trainer.rank == 0:
            other = f", with other {', '.join(trainer.changed)} than before" if trainer.changed else ""
            click.echo(f"continuing {folder} at step {trainer.step} of {total}{other}", err=True)
        trainer.run(minutes=left)
        click.echo(folder / "weights.safetensors")
        if trainer.step < total:  # stopped by the user or the time: what comes after it may start from its weights
            break


def _trainer(config: Path, folder: Path, device: str | None) -> Trainer:
    from dao_ase.device import usable_device
    from dao_ase.train.config import TrainConfig
    from dao_ase.train.tasks import build_trainer

    try:
        return build_trainer(TrainConfig.load(config), folder, usable_device(device))
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(f"{config}: {error}") from error
