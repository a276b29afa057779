"""``dao-ase predict``: a property of structures, with its uncertainty."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dao_ase.crystals import Crystals
    from dao_ase.properties.predictor import DAOPredictor


class _NamesInstalled(click.Command):
    """A command whose help ends with the installed property models; only that reads the weight files."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from dao_ase.properties.installed import listing

        with formatter.section("Installed models"):
            formatter.write_dl(listing())


@click.command(cls=_NamesInstalled)
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with what each fold says.")
def predict(model: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Print a property of each structure in FILES, with its uncertainty.

    MODEL is the name of an installed model (below), a model file, or a folder of dao-ase finetune. FILES are structure
    files, tables (.csv, .tsv, .npz, .jsonl) and data sets of Matbench and JARVIS. A crystal with partly occupied sites is
    refused.
    """
    from dao_ase.cli.stopping import INTERRUPTED, sigterm_as_ctrl_c
    from dao_ase.properties.predictor import DAOPredictor

    try:
        predictor = DAOPredictor(model)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    named, problems = _read(files)
    rows = []
    code = 0
    try:
        with sigterm_as_ctrl_c():
            for name, crystal in named:
                try:
                    rows.append(_row(name, crystal, predictor))
                except ValueError as error:
                    problems.append(f"{name}: {error}")
                    continue
                if not as_json:
                    click.echo(_line(rows[-1]))
    except KeyboardInterrupt:
        problems.append(f"interrupted: {len(rows)} of {len(named)} crystals are predicted")
        code = INTERRUPTED
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(code or 1)


def _line(row: dict) -> str:
    unit = f" {row['unit']}" if row["unit"] else ""
    digits = _digits(row["value"], row["uncertainty"])
    value, ends = max(4, digits), max(3, digits)
    return (
        f"{row['name']}  {row['formula']}  {row['property']}  {row['value']:.{value}g} ± {row['uncertainty']:.2g}{unit} "
        f"({row['low']:.{ends}g} to {row['high']:.{ends}g})"
    )


def _digits(value: float, uncertainty: float) -> int:
    """How many digits of a value there are down to the second of its uncertainty; those beyond float32's say nothing.

    >>> _digits(12001.46, 0.18), _digits(45.15, 15.2)
    (7, 2)
    """
    if not value or not 0 < uncertainty < math.inf:
        return 0
    return min(7, math.floor(math.log10(abs(value))) - math.floor(math.log10(uncertainty)) + 2)


def _read(files: tuple[Path, ...]) -> tuple[list[tuple[str, Crystals]], list[str]]:
    """Every crystal of every file with a name, and what cannot be read, with the reason."""
    from dao_ase.cli.inputs import as_crystals, read_structures
    from dao_ase.data.reading import read
    from dao_ase.data.records import Rejected
    from dao_ase.data.sources import is_table, open_source
    from dao_ase.properties.table import crystals_of

    tables = [file for file in files if is_table(file)]
    inputs, problems = read_structures(file for file in files if file not in tables)
    inputs, crystals, no_crystals = as_crystals(inputs)
    named = [(one.name, crystal) for one, crystal in zip(inputs, crystals, strict=True)]
    problems += no_crystals
    for file in tables:
        rejected: list[Rejected] = []
        try:
            named += [(f"{file}#{one.id}", crystals_of([one])) for one in read(open_source(file), rejected.append)]
        except (OSError, ValueError) as error:
            problems.append(f"{file}: {error}")
        problems += [f"{file}#{row.id or row.row}: {row.rule}: {row.reason}" for row in rejected]
    return named, problems


def _row(name: str, crystal: Crystals, predictor: DAOPredictor) -> dict:
    from dao_ase.composition import Composition

    found = predictor.predict_crystals(crystal)[0]
    return {
        "name": name,
        "formula": Composition.from_atomic_numbers(crystal.atomic_numbers.tolist()).formula,
        "property": predictor.target.name,
        "value": found.value,
        "uncertainty": found.uncertainty,
        "low": found.low,
        "high": found.high,
        "unit": predictor.target.unit,
        "folds": list(found.folds),
    }
