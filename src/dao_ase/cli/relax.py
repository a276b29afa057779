"""``dao-ase relax``: relax crystals, all files at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ase import Atoms

    from dao_ase.cli.inputs import Input
    from dao_ase.relax import Frame, Relaxation

STALE = ("momenta", "spacegroup_kinds")
"""Arrays of ASE's readers that no longer hold when atoms have moved."""
OF_THE_GEOMETRY = ("energy_per_atom", "e_above_hull", "space_group", "converged", "relax_steps")
"""Remarks of DAO-G and of a screening on a geometry, which are not true of another one."""
RESULTS = ("energy", "free_energy", "energies", "forces", "stress")
"""What is computed anew. Files may hold those of the old geometry, too, and an XYZ file has no room for both."""
REMARKS = str | int | float | list
"""Types of remarks that every format can write, beside numpy's."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--fmax", type=float, default=0.01, show_default=True, help="Converged below this force (eV/Å).")
@click.option("--steps", type=int, default=500, show_default=True, help="At most so many steps.")
@click.option("--pressure", type=float, default=0.0, show_default=True, help="Target pressure (GPa).")
@click.option(
    "--cell",
    type=click.Choice(["full", "volume", "none"]),
    default="full",
    show_default=True,
    help="What of the cell may change: all of it, its shape at constant volume, nothing.",
)
@click.option("--keep-symmetry", is_flag=True, help="Keep the space group of the input.")
@click.option("--model", type=click.Path(path_type=Path), help="Weight file. Default: the installed model.")
@click.option("--device", help="cpu or cuda. Default: cuda where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File for the relaxed structures, or a folder.")
@click.option(
    "--traj", type=click.Path(dir_okay=False, path_type=Path), help="File of every step (.traj, .extxyz, .db)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def relax(
    files: tuple[Path, ...], fmax: float, steps: int, pressure: float, cell: str, keep_symmetry: bool,
    model: Path | None, device: str | None, dtype: str, output: Path | None, traj: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Relax the crystals in FILES (CIF, POSCAR, anything ASE reads) together, and report what changed.

    The exit code is 1 when a crystal did not converge or could not be read. After Ctrl-C or SIGTERM the
    results are those until then, and it is 130.
    """
    from dao_ase import relax as relaxation
    from dao_ase.calculator import load_potential
    from dao_ase.cli.inputs import as_crystals, read_structures, remark_on_constraints
    from dao_ase.cli.outputs import refuse_unwritable
    from dao_ase.cli.stopping import INTERRUPTED, at_the_end, sigterm_as_ctrl_c
    from dao_ase.crystals import Crystals
    from dao_ase.device import usable_device

    if traj is not None:
        _refuse_no_trajectory(traj, output)
    found, problems = read_structures(files)
    inputs, crystals, no_crystals = as_crystals(found)
    problems += no_crystals
    for problem in problems:
        click.echo(problem, err=True)
    for one in inputs:
        remark_on_constraints(one)
    if not inputs:
        if as_json:
            click.echo("[]")
        raise click.exceptions.Exit(1)
    refuse_unwritable(output, len(inputs))
    ended: dict[int, Relaxation] = {}
    code = 0

    def on_done(index: int, result: Relaxation) -> None:
        ended[index] = result
        click.echo(f"{inputs[index].name}: {result.reason}", err=True)

    try:
        potential = load_potential(model, usable_device(device), dtype)
        with sigterm_as_ctrl_c():
            relaxation.relax(
                Crystals.concatenate(crystals), potential, fmax=fmax, steps=steps, pressure=pressure, cell=cell,  # type: ignore[arg-type]
                keep_symmetry=keep_symmetry, record=traj is not None, on_done=on_done,
            )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        left = len(inputs) - len(ended)
        untouched = f": {left} of {len(inputs)} crystals had not begun and are left out" if left else ""
        click.echo(f"interrupted{untouched}", err=True)
        code = INTERRUPTED
    done = [(inputs[index], ended[index]) for index in sorted(ended)]
    with sigterm_as_ctrl_c(), at_the_end():  # a second Ctrl-C must not lose what the first has left
        rows = [_report(one, result) for one, result in done]
        try:
            _write(done, rows, output, traj)
        finally:  # what was computed is told even where it cannot be written
            click.echo(json.dumps(rows, indent=1) if as_json else "\n\n".join(_text(row) for row in rows))
    if code or problems or not all(result.converged for _, result in done):
        raise click.exceptions.Exit(code or 1)


def _write(
    done: list[tuple[Input, Relaxation]], rows: list[dict[str, Any]], output: Path | None, traj: Path | None
) -> None:
    """Writes where each crystal ended, which its row then names, and every step on the way."""
    from dao_ase.cli.outputs import write_structures

    ends = [(row, one, result) for row, (one, result) in zip(rows, done, strict=True) if result.final]
    if output is not None and ends:
        written = write_structures(
            output, [_end(one, result) for _, one, result in ends], [one.name for _, one, _ in ends]
        )
        for (row, _, _), path in zip(ends, written, strict=True):
            row["output"] = str(path)
    if traj is not None and ends:
        write_structures(traj, [_atoms(one, frame) for one, result in done for frame in result.trajectory], [])


def _refuse_no_trajectory(traj: Path, output: Path | None) -> None:
    """An error, before the work, for a place that cannot hold every step."""
    from dao_ase.cli.outputs import MANY_FRAMES, refuse_unwritable

    refuse_unwritable(traj)
    if traj.suffix not in MANY_FRAMES:
        raise click.ClickException(f"{traj}: cannot hold every step; take one of {', '.join(MANY_FRAMES)}")
    if output is not None and output.resolve() == traj.resolve():
        raise click.ClickException(
            f"{traj}: is the file for the relaxed structures, too; give another name to one of them"
        )


def _end(one: Input, result: Relaxation) -> Atoms:
    """Where a relaxation ended, as `_atoms` has it; what the input says `OF_THE_GEOMETRY` is renewed as far as it can be."""
    from dao_ase.convert import structure_from_atoms
    from dao_ase.symmetry import generated_space_group

    assert result.final is not None
    atoms = _atoms(one, result.final)
    now: dict[str, float | str] = {
        "energy_per_atom": result.final.energy / len(atoms),
        "converged": result.converged,
        "relax_steps": result.steps,
    }
    if "space_group" in one.atoms.info:
        now["space_group"] = generated_space_group(structure_from_atoms(atoms))[0]
    atoms.info |= {name: value for name, value in now.items() if name in one.atoms.info}
    return atoms


def _atoms(one: Input, frame: Frame) -> Atoms:
    """The structure of a frame with its energy, forces and stress; tags, moments and remarks are those of the input.

    Its cell is right-handed, −L for L, which moves no atom: a CIF has lengths and angles alone, and of a left-handed cell
    it would hold the mirror image.
    """
    import numpy as np
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    lattice = np.sign(np.linalg.det(frame.lattice)) * frame.lattice
    atoms = Atoms(one.atoms.numbers, positions=frame.positions, cell=lattice, pbc=True)
    for name, values in one.atoms.arrays.items():
        if name not in (*atoms.arrays, *STALE, *RESULTS):
            atoms.set_array(name, values)
    atoms.info = {
        name: value
        for name, value in one.atoms.info.items()
        if name not in (*OF_THE_GEOMETRY, *RESULTS) and isinstance(value, REMARKS | np.generic | np.ndarray)
    }
    atoms.info["file"] = one.name
    stress = full_3x3_to_voigt_6_stress(frame.stress)
    atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces, stress=stress)
    return atoms


def _report(one: Input, result: Relaxation) -> dict[str, Any]:
    """Start and end of a relaxation, for JSON."""
    row: dict[str, Any] = {
        "file": one.name,
        "formula": one.atoms.get_chemical_formula(),
        "atoms": len(one.atoms),
        "converged": result.converged,
        "steps": result.steps,
        "reason": result.reason,
    }
    if result.start is None or result.final is None:
        return row
    for place, frame in (("start", result.start), ("end", result.final)):
        row[place] = {
            "energy": frame.energy,
            "energy_per_atom": frame.energy / len(one.atoms),
            "max_force": frame.max_force,
            "pressure": frame.pressure,
            "volume": frame.volume,
            "space_group": _space_group(one, frame),
        }
    row["volume_change"] = result.final.volume / result.start.volume - 1
    return row


def _space_group(one: Input, frame: Frame) -> str:
    import numpy as np

    from dao_ase.symmetry import space_group

    return space_group(frame.lattice, frame.positions @ np.linalg.inv(frame.lattice), one.atoms.numbers)


def _text(row: dict[str, Any]) -> str:
    """A report for people."""
    head = f"{row['file']}  {row['formula']}  {row['reason']}"
    if row["converged"]:
        head += f" after {row['steps']} steps"
    if "start" not in row:
        return head
    start, end = row["start"], row["end"]
    lines = [
        ("energy", f"{start['energy_per_atom']:.4f} -> {end['energy_per_atom']:.4f} eV/atom"),
        ("largest force", f"{start['max_force']:.4f} -> {end['max_force']:.4f} eV/Å"),
        ("pressure", f"{start['pressure']:.3f} -> {end['pressure']:.3f} GPa"),
        ("volume", f"{start['volume']:.3f} -> {end['volume']:.3f} Å³ ({100 * row['volume_change']:+.2f} %)"),
        ("space group", f"{start['space_group']} -> {end['space_group']}"),
    ]
    return "\n".join([head, *(f"  {name:<14}{text}" for name, text in lines)])


__all__ = ["relax"]
