"""``dao-ase screen``: structures of many compositions, by many processes, into a database."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dao_ase.database import Outcome, ScreenDatabase
    from dao_ase.phase_diagram import Phase
    from dao_ase.screen.run import Summary
    from dao_ase.screen.work import Shard


@click.command()
@click.argument("compositions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the run; the same command continues it.")  # fmt: skip
@click.option("-n", "samples", type=int, default=20, show_default=True, help="Samples of each composition.")
@click.option("--workers", type=int, default=1, show_default=True, help="Local processes; 0 works without Parsl.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Python file that defines a Parsl 'config': Slurm, GPUs, many nodes.")  # fmt: skip
@click.option("--references", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="Phases of the hull, see dao-ase hull. May be repeated.")  # fmt: skip
@click.option("-z", "--formula-units", default="1", show_default=True, help="A number, a list like 1,2,4, or 'auto'.")
@click.option("--relax-steps", type=int, default=200, show_default=True, help="At most so many; 0: no relaxation.")
@click.option("--fmax", type=float, default=0.05, show_default=True, help="Relaxed below this force (eV/Å).")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--max-atoms", type=click.IntRange(1), help="Largest cell. Default: the largest that the model was trained on."
)
@click.option("--prototypes/--no-prototypes", default=True, show_default=True,
              help="Also adapt known structure types, with other elements in them.")  # fmt: skip
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="Weights of another DAO-G.")
@click.option("--potential", type=click.Path(exists=True, dir_okay=False), help="Weights of another DAO-P.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--database", help="postgresql://user@host/name. Default: OUTPUT/screen.db, an SQLite file.")
@click.option(
    "--shard", type=int, default=8, show_default=True, help="Most compositions that a worker takes at a time."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def screen(
    compositions: Path, output: Path, samples: int, workers: int, config: Path | None, references: tuple[Path, ...],
    formula_units: str, relax_steps: int, fmax: float, seed: int, max_atoms: int | None, prototypes: bool,
    weights: str | None, potential: str | None, device: str, database: str | None, shard: int, as_json: bool,
) -> None:  # fmt: skip
    """Screen many compositions into a database of ranked structures.

    COMPOSITIONS is a CSV, or one formula a line. Each is generated, relaxed with DAO-P and ranked. Results go into an ASE
    database, each composition once: killed at any moment, the same command goes on where it was. A composition that
    cannot be screened is a row with its error.
    """
    from dao_ase.cli.inputs import parse_formula_units
    from dao_ase.cli.stopping import continued_by_the_same_command
    from dao_ase.database import open_screen
    from dao_ase.phase_diagram import read_phases
    from dao_ase.screen import run
    from dao_ase.screen.work import ScreenSettings

    try:
        settings = ScreenSettings(
            samples, parse_formula_units(formula_units), seed, max_atoms, relax_steps, fmax, prototypes,
            weights, potential, device,
        )  # fmt: skip
        wanted, phases = run.read_compositions(compositions), read_phases(references)
        _warn(wanted, phases)
        with continued_by_the_same_command(f"interrupted: what is done is in {output}, the same command continues"):
            found = run.screen(
                wanted, output, settings, phases=phases, count=workers, config=config, database=database, shard=shard,
                progress=True, work=_work,
            )  # fmt: skip
        store = open_screen(output, database)
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    contents = set(map(run.content, wanted))
    best = [_values(row) for row in store.rows(rank=1) if run.content(row.composition) in contents]
    best.sort(key=lambda row: (row["e_above_hull"] is None, row["e_above_hull"], row["composition"]))
    click.echo(json.dumps({**vars(found), "best": best}, indent=1) if as_json else _table(found, best, store))


def _work(shard: Shard) -> list[Outcome]:
    """The work of a worker, whose errors name the options of this command."""
    from dao_ase.cli.inputs import named_as_options
    from dao_ase.screen.work import screen_shard

    return [replace(one, error=one.error and named_as_options(one.error)) for one in screen_shard(shard)]


def _warn(wanted: list[str], phases: list[Phase]) -> None:
    """Says before the work begins which elements the references lack."""
    from dao_ase.phase_diagram import missing_elements
    from dao_ase.screen.run import elements_of

    absent = missing_elements({symbol for one in wanted for symbol in elements_of(one)}, phases) if phases else []
    if absent:
        click.echo(
            f"the references have no phase of {', '.join(absent)} alone: their compounds get no energy above the hull",
            err=True,
        )


def _values(row: Any) -> dict[str, Any]:
    names = ("composition", "energy_per_atom", "e_above_hull", "space_group", "converged", "copies")
    return {name: row.get(name) for name in names}


def _table(found: Summary, best: list[dict[str, Any]], store: ScreenDatabase, most: int = 20) -> str:
    from dao_ase.cli.outputs import moving

    lines = [f"{'composition':16} {'energy (eV/atom)':>17} {'above hull':>11}  {'space group':12} found"]
    for row in best[:most]:
        energy, height = row["energy_per_atom"], row["e_above_hull"]
        lines.append(
            f"{row['composition']:16} {'-' if energy is None else f'{energy:.4f}':>17} "
            f"{'-' if height is None else f'{height:.4f}':>11}  {row['space_group']:12} {row['copies']}x"
            f"{moving(row['converged'])}"
        )
    if len(best) > most:
        lines.append(f"... and {len(best) - most} more")
    errors = (
        f", {found.errors} with an error (ase db {store.location} error -c composition,error)" if found.errors else ""
    )
    lines.append(f"{found.structures} structures of {found.done} compositions{errors} in {store.location}")
    return "\n".join(lines)
