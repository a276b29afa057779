"""``dao-ase train``: start or continue a training run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/NAME of CONFIG.")
@click.option("--minutes", type=float, help="Stop after this time; the same command continues.")
@click.option("--device", default=None, help="cpu or cuda. Default: cuda where there is one.")
@click.option("--threads", type=int, help="CPU threads of torch.")
def train(config: Path, output: Path | None, minutes: float | None, device: str | None, threads: int | None) -> None:
    """Train the model that CONFIG (TOML) describes, or continue where the last call stopped.

    Several GPUs: torchrun --nproc-per-node 4 -m dao_ase.cli train CONFIG
    """
    import torch

    from dao_ase.train.config import TrainConfig
    from dao_ase.train.tasks import build_trainer

    if threads:
        torch.set_num_threads(threads)
    folder = output or Path("runs") / config.stem
    try:
        settings = TrainConfig.load(config)
        trainer = build_trainer(settings, folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(f"{config}: {error}") from error
    if trainer.step:
        click.echo(f"continuing {folder} at step {trainer.step} of {settings.total_steps}", err=True)
    trainer.run(minutes=minutes)
    click.echo(folder / "weights.safetensors")
