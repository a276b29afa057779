"""``dao-ase eos``: energy against volume, equilibrium volume and bulk modulus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dao_ase.simulate.equation_of_state import EquationOfStateFit


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--span", type=float, default=6.0, show_default=True, help="Volumes reach so many percent to each side.")
@click.option("--points", type=int, default=11, show_default=True, help="Number of volumes.")
@click.option(
    "--form",
    type=click.Choice(["birchmurnaghan", "vinet", "murnaghan", "pouriertarantola"]),
    default="birchmurnaghan",
    show_default=True,
    help="Equation of state.",
)
@click.option(
    "--move",
    type=click.Choice(["shape", "atoms", "nothing"]),
    default="shape",
    show_default=True,
    help="What relaxes at each volume: atoms and the shape of the cell, atoms alone, nothing.",
)
@click.option("--relax/--no-relax", default=True, show_default=True, help="Relax the crystal before.")
@click.option("--fmax", type=float, default=0.005, show_default=True, help="Relaxed below this force (eV/Å).")
@click.option("--steps", type=int, default=500, show_default=True, help="At most so many steps a relaxation.")
@click.option("--index", type=int, help="Which structure of a file that holds several.")
@click.option("--model", type=click.Path(path_type=Path), help="Weight file. Default: the installed model.")
@click.option("--device", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float64", show_default=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder. Default: NAME_eos.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def eos(
    file: Path, span: float, points: int, form: str, move: str, relax: bool, fmax: float, steps: int,
    index: int | None, model: Path | None, device: str | None, dtype: str, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Fit an equation of state to the crystal in FILE; writes eos.json, eos.csv and eos.png."""
    from dao_ase.calculator import load_potential
    from dao_ase.cli.inputs import read_crystal
    from dao_ase.cli.outputs import results_folder
    from dao_ase.device import usable_device
    from dao_ase.simulate.equation_of_state import HUMP, equation_of_state
    from dao_ase.simulate.plots import draw_equation_of_state
    from dao_ase.whole_files import replacing_together, write_json, write_text

    one, crystal = read_crystal(file, index)
    folder = results_folder(output, file, "eos", index)
    try:
        fit = equation_of_state(
            crystal, load_potential(model, usable_device(device), dtype), span=span / 100, points=points, relax_first=relax,
            relax_points={"shape": "volume", "atoms": "none", "nothing": "fixed"}[move], form=form, fmax=fmax, steps=steps,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise click.ClickException(f"{one.name}: {error}") from error
    formula, count = one.atoms.get_chemical_formula(), len(one.atoms)
    report = {"file": one.name, "formula": formula, "atoms": count, **fit.as_dict()}
    with replacing_together(folder, "eos.json") as temporary:
        write_json(temporary / "eos.json", report)
        write_text(temporary / "eos.csv", _table(fit))
        draw_equation_of_state(fit, count, formula, temporary / "eos.png")
    for problem in fit.left_out:
        click.echo(f"left out: {problem}", err=True)
    if fit.hump > HUMP * count:
        click.echo(
            f"{one.name}: the energies have more than one minimum, as where the crystal changes into another structure: "
            "do not trust the fit; take a smaller --span",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(f"{one.name}  {formula}  {len(fit.volumes)} volumes, {form}")
    click.echo(f"  volume        {fit.volume:.4f} Å³  ({fit.volume / count:.4f} Å³/atom)")
    click.echo(f"  energy        {fit.energy:.6f} eV  ({fit.energy / count:.6f} eV/atom)")
    click.echo(f"  bulk modulus  {fit.bulk_modulus:.2f} GPa, B' {fit.bulk_derivative:.2f}")
    click.echo(f"  fit           misses the energies by {1e3 * fit.rms_residual / count:.4f} meV/atom")
    click.echo(f"  written to    {folder}")


def _table(fit: EquationOfStateFit) -> str:
    rows = zip(fit.volumes, fit.energies, fit.curve(fit.volumes), strict=True)
    return "volume_A3,energy_eV,fitted_eV\n" + "".join(f"{v:.8f},{e:.8f},{f:.8f}\n" for v, e, f in rows)


__all__ = ["eos"]
