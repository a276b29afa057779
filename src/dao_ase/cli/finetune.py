"""``dao-ase finetune``: a model of a property from crystals with one number each."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dao_ase.properties.crossvalidation import CrossValidation
    from dao_ase.properties.table import PropertyTable

NAMED = 5


@click.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--target", required=True, metavar="COLUMN", help="The number that is to be predicted.")
@click.option("--unit", default="", help="Its unit, for the report.")
@click.option("--log", is_flag=True, help="Learn its natural logarithm; values must be positive.")
@click.option("--extensive", is_flag=True, help="It grows with the cell: learn it per atom.")
@click.option("--folds", default=5, show_default=True, type=click.IntRange(2), help="Models, split by reduced formula.")
@click.option("--trunk", type=click.Choice(["frozen", "full"]), default="frozen", show_default=True,
              help="Train only the heads, or all of DAO-P with them (minutes instead of seconds).")  # fmt: skip
@click.option(
    "--family",
    default="family",
    show_default=True,
    metavar="COLUMN",
    help="Text or number by which errors are grouped.",
)
@click.option("--least", type=float, help="Leave out smaller numbers.")
@click.option("--exclude-formula", multiple=True, metavar="FORMULA",
              help="Leave out this composition and what is close to it.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of another DAO-P to start from.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the model; the same command continues or renews it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def finetune(data: tuple[str, ...], output: Path, as_json: bool, **options: Any) -> None:
    """Fine-tune DAO-P on DATA: crystals with a number each (.csv, .tsv, .npz, .jsonl, folders, stores, Matbench, JARVIS).

    Prints the cross-validated error and writes model, predictions, plots and a model card. An interrupted call continues
    with the fold at which it was stopped.
    """
    from dao_ase.cli.stopping import CONTINUES, continued_by_the_same_command
    from dao_ase.properties.report import write_results

    try:
        with continued_by_the_same_command(f"{CONTINUES} with the fold at which it stopped"):
            table, result = _run(data, output, options)
            write_results(result, output)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    found = result.model.header["cross_validation"]
    if as_json:
        click.echo(json.dumps({**found, "left out": table.counts, "rows": len(table), "model": str(output)}))
        return
    unit = f" {options['unit']}" if options["unit"] else ""
    for name, value in found.items():
        if isinstance(value, float):
            click.echo(f"{name}: {value:.4g}{'' if name == 'R2' or 'logarithm' in name else unit}")
    click.echo(f"dao-ase predict {shlex.quote(str(output))} FILE...   predicts; {output}/model_card.md says how well")


def _run(data: tuple[str, ...], output: Path, options: dict[str, Any]) -> tuple[PropertyTable, CrossValidation]:
    import math

    from tqdm import tqdm

    from dao_ase.calculator import load_potential
    from dao_ase.data.sources import open_source
    from dao_ase.properties.crossvalidation import fine_tune
    from dao_ase.properties.fit import FitSettings
    from dao_ase.properties.plan import plan_of, refuse_another
    from dao_ase.properties.table import Target, read_table, refuse_unlearnable

    trunk = load_potential(options["weights"])
    target = Target(options["target"], options["unit"], options["log"], options["extensive"])
    least = -math.inf if options["least"] is None else options["least"]
    table = read_table(
        [open_source(one) for one in data],
        target,
        trunk.elements,
        family=options["family"],
        exclude=options["exclude_formula"],
        least=least,
    )
    settings, folds, seed = FitSettings(trunk=options["trunk"]), options["folds"], options["seed"]
    refuse_another(output, plan_of(table, trunk, target, settings, folds, seed))
    _report_left_out(table, output)
    refuse_unlearnable(table, folds, seed)
    with tqdm(total=2 * len(table), desc="features", unit_scale=0.5, leave=False, disable=None) as bar:
        return table, fine_tune(
            table,
            trunk,
            target,
            settings,
            folds=folds,
            seed=seed,
            folder=output,
            header={"sources": [Path(one).name for one in data], "excluded": list(options["exclude_formula"])},
            say=lambda text: bar.set_description_str(text),
            tick=bar.update,
        )


def _report_left_out(table: PropertyTable, output: Path) -> None:
    """Counts of the rows that cannot be used, the first of each kind by name, and all of them in a file."""
    from dao_ase.properties.installed import LEFT_OUT
    from dao_ase.properties.report import write_left_out

    write_left_out(output / LEFT_OUT, table.left_out)
    total = sum(table.counts.values())
    click.echo(f"{len(table)} of {len(table) + total} rows can be used", err=True)
    for rule, count in table.counts.items():
        rows = [row for row in table.left_out if row.rule == rule]
        named = ", ".join(row.id or f"row {row.row}" for row in rows[:NAMED])
        click.echo(f"{count:8d}  {rule}: {named}{', ...' if count > NAMED else ''} ({rows[0].reason})", err=True)
    if total:
        click.echo(f"each with its reason in {output / LEFT_OUT}", err=True)
