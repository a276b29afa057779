"""``dao-ase evaluate``: how often DAO-G finds the known structure."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("benchmark")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DAO_DATA",
              help="Folder of the benchmark files. Default: $DAO_DATA, or here.")  # fmt: skip
@click.option("--samples", type=click.IntRange(1), default=1, show_default=True, help="Structures for each reference.")
@click.option("--limit", type=click.IntRange(1), help="Evaluate this many references, drawn at random.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--steps", type=int, help="Network evaluations for a sample.")
@click.option("--anti-annealing", type=float, help="Speed-up of the coordinates' last steps.")
@click.option("--lattice-noise", type=float, help="Spread of the cells that sampling starts from.")
@click.option("--tries", type=int, help="Attempts from noise at each sample; DAO-P chooses by its energy.")
@click.option("--prototypes/--no-prototypes", default=True, show_default=True,
              help="Also adapt known structure types, with other elements in them.")  # fmt: skip
@click.option("--guidance", type=float, default=0.0, show_default=True, help="Steer towards stable crystals.")
@click.option("--weights", type=click.Path(dir_okay=False), help="Weights of another DAO-G.")
@click.option("--unseen-by", "seen", type=click.Path(exists=True, path_type=Path), metavar="FILE",
              help="Leave out references whose identifier is in this training set.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Processes that match structures. Default: one for each core.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Default: evaluation/BENCHMARK.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    benchmark: str,
    data: Path | None,
    samples: int,
    limit: int | None,
    seed: int,
    steps: int | None,
    anti_annealing: float | None,
    lattice_noise: float | None,
    tries: int | None,
    prototypes: bool,
    guidance: float,
    weights: str | None,
    seen: Path | None,
    workers: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Generate structures for each composition of BENCHMARK and compare them with the known ones.

    BENCHMARK is mp_20, mpts_52, perov_5 or carbon_24 (whose files are looked for in --data), or any file of crystals. A
    run that was interrupted continues; report.json and match.png are written into the output folder.
    """
    import json

    from dao_ase.benchmark import find_benchmark, run_benchmark
    from dao_ase.cli.stopping import continued_by_the_same_command
    from dao_ase.data.reading import bare_name
    from dao_ase.generator import DAOGenerator

    try:
        file = find_benchmark(benchmark, data or Path())
        generator = DAOGenerator(
            weights, tries=tries, prototypes=prototypes, steps=steps, anti_annealing=anti_annealing,
            lattice_noise=lattice_noise,
        )  # fmt: skip
        folder = output or Path("evaluation") / bare_name(Path(benchmark))
        with continued_by_the_same_command():
            report = run_benchmark(
                generator, file, folder, samples=samples, limit=limit, seed=seed, workers=workers, progress=True,
                seen=seen, guidance=guidance,
            )  # fmt: skip
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    for name in ("match_rate", "match_rate_filtered", "first_match_rate", "valid_share"):
        click.echo(f"{name:20} {100 * report[name]:6.2f} %")
    for name in ("rmse", "rmse_filtered"):
        click.echo(f"{name:20} {report[name]:8.4f}" if report[name] is not None else f"{name:20} -")
    for reason, count in report["left_out"].items():
        click.echo(f"left out: {count} with {reason}")
    click.echo(
        f"{report['references']} references, {report['samples']} samples each, {report['seconds']:.0f} s: {folder}"
    )
