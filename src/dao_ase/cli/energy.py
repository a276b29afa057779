"""``dao-ase energy``: the energy, largest force and pressure of structures as they are."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Weight file. Default: the installed model.")
@click.option("--device", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with forces and stress.")
def energy(files: tuple[Path, ...], model: Path | None, device: str | None, dtype: str, as_json: bool) -> None:
    """Print the energy (eV), the largest force (eV/Å) and the pressure (GPa) of each structure in FILES.

    The exit code is 1 when one has none. After Ctrl-C or SIGTERM those until then are printed, and it is 130.
    """
    from dao_ase.calculator import DAOCalculator
    from dao_ase.cli.inputs import read_structures
    from dao_ase.cli.stopping import INTERRUPTED, sigterm_as_ctrl_c

    inputs, problems = read_structures(files)
    try:
        calculator = DAOCalculator(model, device=device, dtype=dtype)
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    rows: list[dict] = []
    code = 0
    try:
        with sigterm_as_ctrl_c():
            for one in inputs:
                try:
                    calculator.calculate(one.atoms)
                except ValueError as error:
                    problems.append(f"{one.name}: {error}")
                    continue
                formula = one.atoms.get_chemical_formula()
                rows.append({"file": one.name, "formula": formula} | _numbers(calculator.results))
    except KeyboardInterrupt:
        problems.append(f"interrupted: {len(rows)} of {len(inputs)} structures have been computed")
        code = INTERRUPTED
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            pressure = "" if row["pressure"] is None else f"  {row['pressure']:9.3f} GPa"
            click.echo(
                f"{row['file']}  {row['formula']}  {row['energy']:.6f} eV  {row['energy_per_atom']:.6f} eV/atom  "
                f"{row['max_force']:.4f} eV/Å{pressure}"
            )
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.exceptions.Exit(code or 1)


def _numbers(results: dict) -> dict:
    import numpy as np

    from dao_ase.units import GPA

    stress = results.get("stress")
    return {
        "energy": results["energy"],
        "energy_per_atom": results["energy"] / len(results["forces"]),
        "max_force": float(np.linalg.norm(results["forces"], axis=1).max()),
        "pressure": None if stress is None else float(-stress[:3].mean() * GPA),
        "forces": results["forces"].tolist(),
        "stress": None if stress is None else stress.tolist(),
    }
