"""``dao-ase md``: molecular dynamics that can be stopped at any time and continued."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ase import Atoms

    from dao_ase.cli.inputs import Input
    from dao_ase.simulate.trajectory import DynamicsSettings, Observation

ATOM_BYTES = 16 * 8
"""Of each atom, in what the cell is repeated to: number, tag, mass, position, momentum, force, and some copies."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--ensemble",
    type=click.Choice(["nve", "nvt", "npt"]),
    default="nvt",
    show_default=True,
    help="Constant energy (Verlet), temperature (Langevin), or temperature and pressure (Martyna-Tobias-Klein).",
)
@click.option("--temperature", type=float, default=300.0, show_default=True, help="K; where velocities start, too.")
@click.option("--pressure", type=float, default=0.0, show_default=True, help="GPa, for npt.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Run until this step.")
@click.option("--timestep", type=float, default=1.0, show_default=True, help="fs.")
@click.option("--damping", type=float, default=100.0, show_default=True, help="Memory of the thermostat (fs).")
@click.option("--interval", type=int, default=10, show_default=True, help="Keep a frame every so many steps.")
@click.option("--supercell", type=int, nargs=3, default=(1, 1, 1), metavar="A B C", help="Repeat the cell before.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of velocities and thermostat.")
@click.option("--index", type=int, help="Which structure of a file that holds several.")
@click.option("--model", type=click.Path(path_type=Path), help="Weight file. Default: the installed model.")
@click.option("--device", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder. Default: NAME_md.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def md(
    file: Path, ensemble: str, temperature: float, pressure: float, steps: int, timestep: float, damping: float,
    interval: int, supercell: tuple[int, int, int], seed: int, index: int | None, model: Path | None,
    device: str | None, dtype: str, output: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Run molecular dynamics of the atoms in FILE; writes md.traj, md.csv, md.json and md.png.

    The same command continues a run that was interrupted (exit code 130), and with more --steps one that had ended.
    """
    from dao_ase.calculator import DAOCalculator
    from dao_ase.cli.inputs import read_structure
    from dao_ase.cli.outputs import results_folder
    from dao_ase.cli.stopping import CONTINUES, INTERRUPTED
    from dao_ase.memory import refuse_too_large
    from dao_ase.simulate.trajectory import DynamicsSettings

    one = read_structure(file, index)
    if min(supercell) < 1:
        raise click.ClickException(f"the supercell {list(supercell)} is not three positive whole numbers")
    folder = results_folder(output, file, "md", index)
    try:
        size = len(one.atoms) * prod(supercell)
        refuse_too_large(ATOM_BYTES * size, f"the positions and forces of {size} atoms")
        atoms = one.atoms if max(supercell) == 1 else _repeated(one, supercell)
        settings = DynamicsSettings(ensemble, temperature, timestep, pressure, damping, interval, seed)
        calculator = DAOCalculator(model, device=device, dtype=dtype)
        problem = _run(atoms, calculator, steps, folder, settings)
        report = _write(folder, len(atoms), f"{one.atoms.get_chemical_formula()}, {ensemble}", problem)
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(f"{one.name}: {error}") from error
    click.echo(json.dumps(report) if as_json else _text(one.name, report, folder))
    if report["steps"] > steps:
        click.echo(f"{folder} held {report['steps']} steps already, more than {steps}: nothing was added", err=True)
    if problem is not None:
        click.echo(problem, err=True)
        raise click.exceptions.Exit(INTERRUPTED if problem == CONTINUES else 1)


def _repeated(one: Input, supercell: tuple[int, int, int]) -> Atoms:
    """The atoms in a repeated cell, without their velocities: with these the copies would move as one for ever.

    Bonds and springs cannot be repeated, not even once.
    """
    atoms = one.atoms * supercell
    if atoms.has("momenta"):
        if atoms.get_momenta().any():
            click.echo(
                f"{one.name}: has velocities for one cell, not for all copies of it; new ones are drawn", err=True
            )
        del atoms.arrays["momenta"]
    return atoms


def _run(atoms: Atoms, calculator: Any, steps: int, folder: Path, settings: DynamicsSettings) -> str | None:
    """Runs to the end, or says why not."""
    from tqdm import tqdm

    from dao_ase.cli.stopping import CONTINUES, INTERRUPTED, sigterm_as_ctrl_c
    from dao_ase.simulate.dynamics import BlowUpError, run_dynamics

    with tqdm(total=steps, unit="step", disable=None) as bar:
        try:
            with sigterm_as_ctrl_c():
                for seen in run_dynamics(atoms, calculator, steps, folder / "md.traj", settings):
                    bar.update(seen.step - bar.n)
                    bar.set_postfix_str(f"{seen.temperature:.0f} K, {seen.total / len(atoms):.4f} eV/atom")
        except KeyboardInterrupt:
            if not (folder / "md.traj").exists():  # and there is nothing to write
                click.echo(CONTINUES, err=True)
                raise SystemExit(INTERRUPTED) from None
            return CONTINUES
        except BlowUpError as error:
            return f"{error}; the trajectory ends with the last good frame"
    return None


def _write(folder: Path, num_atoms: int, title: str, problem: str | None) -> dict[str, Any]:
    """The table, the summary and the plot of what is in the trajectory."""
    from dataclasses import asdict

    from dao_ase.simulate.plots import draw_dynamics
    from dao_ase.simulate.trajectory import read_dynamics, summarise
    from dao_ase.whole_files import write_json, write_text

    settings, seen = read_dynamics(folder / "md.traj")
    report = {
        "atoms": num_atoms,
        "settings": asdict(settings),
        "ended": problem or "at the last step",
        **summarise(seen, num_atoms),
    }
    write_text(folder / "md.csv", _table(seen))
    write_json(folder / "md.json", report)
    draw_dynamics(seen, num_atoms, title, folder / "md.png")
    return report


def _table(seen: list[Observation]) -> str:
    head = "step,time_ps,potential_eV,kinetic_eV,total_eV,temperature_K,volume_A3,pressure_GPa\n"
    return head + "".join(
        f"{one.step},{one.time:.6f},{one.potential:.8f},{one.kinetic:.8f},{one.total:.8f},{one.temperature:.4f},"
        f"{one.volume:.6f},{one.pressure:.6f}\n"
        for one in seen
    )


def _text(name: str, report: dict[str, Any], folder: Path) -> str:
    """A summary for people."""
    lines = [f"{name}  {report['atoms']} atoms, {report['steps']} steps, {report['time_ps']:.3f} ps"]
    for quantity, unit in (("temperature", "K"), ("potential", "eV"), ("pressure", "GPa"), ("volume", "Å³")):
        if report[quantity] is not None:
            lines.append(f"  {quantity:<13} {report[quantity]['mean']:.4f} ± {report[quantity]['std']:.4f} {unit}")
    lines.append(f"  total energy  changed by {report['total_energy_change_meV_atom']:.4f} meV/atom")
    return "\n".join([*lines, f"  written to    {folder}"])


__all__ = ["md"]
