"""``dao-ase phonons``: vibrations of a crystal by finite displacements, with phonopy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dao_ase.crystals import Crystals
    from dao_ase.potential import Potential
    from dao_ase.simulate.phonons import Phonons


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--supercell", type=int, nargs=3, metavar="A B C", help="Repeats of the cell. Default: by --min-length.")
@click.option("--min-length", type=float, default=12.0, show_default=True, help="Shortest side of the supercell (Å).")
@click.option("--displacement", type=float, default=0.01, show_default=True, help="Length of the displacements (Å).")
@click.option("--mesh", type=float, default=40.0, show_default=True, help="Density of wave vectors, as a length (Å).")
@click.option("--relax/--no-relax", default=True, show_default=True, help="Relax before, in the same space group.")
@click.option("--fmax", type=float, default=1e-4, show_default=True, help="Relaxed below this force (eV/Å).")
@click.option("--steps", type=int, default=1000, show_default=True, help="At most so many steps.")
@click.option("--index", type=int, help="Which structure of a file that holds several.")
@click.option("--model", type=click.Path(path_type=Path), help="Weight file. Default: the installed model.")
@click.option("--device", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float64", show_default=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder. Default: NAME_phonons.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def phonons(
    file: Path, supercell: tuple[int, int, int] | None, min_length: float, displacement: float, mesh: float,
    relax: bool, fmax: float, steps: int, index: int | None, model: Path | None, device: str | None,
    dtype: str, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compute the phonons of the crystal in FILE: bands, density of states, heat capacity (needs phonopy).

    Writes phonons.json, thermal.csv, phonons.png and phonopy_params.yaml, with which phonopy goes on.
    """
    from tqdm import tqdm

    from dao_ase.calculator import load_potential
    from dao_ase.cli.inputs import read_crystal
    from dao_ase.cli.outputs import results_folder
    from dao_ase.device import usable_device
    from dao_ase.simulate import phonons as simulation
    from dao_ase.simulate.plots import draw_phonons
    from dao_ase.whole_files import replacing_together, write_json, write_text

    one, crystal = read_crystal(file, index)
    folder = results_folder(output, file, "phonons", index)
    try:
        potential = load_potential(model, usable_device(device), dtype)
        if relax:
            crystal = _relaxed(crystal, potential, fmax, steps)
        with tqdm(desc="forces", unit="supercell", disable=None) as bar:
            found = simulation.phonons(
                crystal, potential, supercell=supercell, min_length=min_length, displacement=displacement, mesh=mesh,
                masses=one.atoms.get_masses() if one.atoms.has("masses") else None,
                on_force=lambda done, total: _show(bar, done, total),
            )  # fmt: skip
    except (ImportError, ValueError, RuntimeError) as error:
        raise click.ClickException(f"{one.name}: {error}") from error
    formula = one.atoms.get_chemical_formula()
    report = {"file": one.name, "formula": formula, **found.as_dict()}
    with replacing_together(folder, "phonons.json") as temporary:
        write_json(temporary / "phonons.json", report)
        write_text(temporary / "thermal.csv", _thermal(found))
        draw_phonons(found, formula, temporary / "phonons.png")
        found.phonopy.save(temporary / "phonopy_params.yaml")
    if as_json:
        click.echo(json.dumps({name: value for name, value in report.items() if name not in ("bands", "dos")}))
        return
    click.echo(f"{one.name}  {formula}  {found.displacements} displacements in a {_times(found.supercell)} supercell")
    click.echo(f"  at Γ          {', '.join(f'{value:.3f}' for value in found.gamma)} THz")
    stable = "no imaginary mode" if found.is_stable else "IMAGINARY MODES: the crystal is not at a minimum"
    click.echo(f"  lowest        {found.lowest:.3f} THz: {stable}")
    click.echo(f"  written to    {folder}")


def _relaxed(crystal: Crystals, potential: Potential, fmax: float, steps: int) -> Crystals:
    import torch

    from dao_ase.relax import relax

    result = relax(crystal, potential, fmax=fmax, steps=steps, keep_symmetry=True)[0]
    if result.final is None or not result.converged:
        raise ValueError(f"the crystal could not be relaxed first: {result.reason}; see --fmax, --steps, --no-relax")
    lattice = torch.from_numpy(result.final.lattice)
    coords = torch.from_numpy(result.final.positions) @ torch.linalg.inv(lattice)
    return crystal.replace(lattice=lattice.unsqueeze(0), frac_coords=coords)


def _show(bar: Any, done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _thermal(found: Phonons) -> str:
    names = [name for name in found.thermal if name != "atoms"]
    rows = zip(*(found.thermal[name] for name in names), strict=True)
    return ",".join(names) + "\n" + "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in rows)


def _times(repeats: tuple[int, ...]) -> str:
    return "×".join(map(str, repeats))


__all__ = ["phonons"]
