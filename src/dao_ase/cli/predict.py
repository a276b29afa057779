"""``dao-ase predict``: a property of structures, with its uncertainty."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with what each fold says.")
def predict(model: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Print a property of each structure in FILES. MODEL is tc, a model file, or a folder of dao-ase finetune."""
    from dao_ase.cli.inputs import as_crystals, read_structures
    from dao_ase.properties.predictor import DAOPredictor

    try:
        predictor = DAOPredictor(model)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    inputs, problems = read_structures(files)
    inputs, crystals, no_crystals = as_crystals(inputs)
    problems += no_crystals
    rows = []
    for one, crystal in zip(inputs, crystals, strict=True):
        try:
            found = predictor.predict_crystals(crystal)[0]
        except ValueError as error:
            problems.append(f"{one.name}: {error}")
            continue
        row = {"file": one.name, "formula": one.atoms.get_chemical_formula(), "property": predictor.target.name}
        numbers = {"value": found.value, "uncertainty": found.uncertainty, "low": found.low, "high": found.high}
        rows.append(row | numbers | {"unit": predictor.target.unit, "folds": list(found.folds)})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            click.echo(
                f"{row['file']}  {row['formula']}  {row['property']} {row['value']:.4g} ± {row['uncertainty']:.2g} "
                f"{row['unit']}  ({row['low']:.3g} to {row['high']:.3g})".replace("  (", " (")
            )
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(1)
