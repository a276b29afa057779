"""``dao-ase generate``: crystal structures from formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from dao_ase.generator import DAOGenerator

RANKED = 1_000
"""Structures that are held, relaxed and ranked together."""


@click.command()
@click.argument("formulas", nargs=-1)
@click.option("-n", "number", type=int, default=20, show_default=True, help="Structures for each formula.")
@click.option("-f", "--file", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A text file of formulas, one a line.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("generated"),
              show_default=True, help="Folder for CIF files, structures.extxyz and summary.json.")  # fmt: skip
@click.option("-z", "--formula-units", default="1", show_default=True, help="A number, a list like 1,2,4, or 'auto'.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--max-atoms", type=int, help="Largest cell. Default: the largest that the model was trained on.")
@click.option("--guidance", type=float, default=0.0, show_default=True,
              help="Steer towards stable crystals; 0 is off, 1 the theory's strength.")  # fmt: skip
@click.option("--relax", is_flag=True, help="Relax atoms and cell with DAO-P.")
@click.option("--rank", type=click.Choice(["likely", "energy", "stability", "none"]), default="likely", show_default=True,
              help="DAO-P's energy plus a handicap for unlikely types, its energy, or its stability model.")  # fmt: skip
@click.option("--deduplicate", is_flag=True, help="Keep one of each group of equal structures.")
@click.option("--symmetrize", is_flag=True, help="Move atoms onto the symmetry found within 0.1 Å.")
@click.option("--tries", type=int, help="Attempts from noise at each structure; DAO-P chooses by its energy.")
@click.option("--prototypes/--no-prototypes", default=True, show_default=True,
              help="Also adapt known structure types, with other elements in them.")  # fmt: skip
@click.option("--steps", type=int, help="Network evaluations for an attempt.")
@click.option("--weights", type=click.Path(dir_okay=False), help="Weights of another DAO-G.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--gallery", is_flag=True, help="Also write gallery.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def generate(
    formulas: tuple[str, ...],
    number: int,
    files: tuple[Path, ...],
    output: Path,
    formula_units: str,
    seed: int,
    max_atoms: int | None,
    guidance: float,
    relax: bool,
    rank: str,
    deduplicate: bool,
    symmetrize: bool,
    tries: int | None,
    prototypes: bool,
    steps: int | None,
    weights: str | None,
    device: str,
    gallery: bool,
    as_json: bool,
) -> None:
    """Predict crystal structures of FORMULAS ("CsV3Sb5", "Zr16Rh8O4") and write them, likeliest first.

    A formula is taken as the content of the cell. Runs with many structures are written as they are made, a thousand at a
    time, each thousand ranked for itself; Ctrl-C and SIGTERM keep what is done.
    """
    import json

    from dao_ase.cells import seed_of
    from dao_ase.cli.inputs import named_as_options, parse_formula_units
    from dao_ase.cli.stopping import INTERRUPTED, at_the_end, sigterm_as_ctrl_c
    from dao_ase.database import SETTINGS
    from dao_ase.generator import DAOGenerator
    from dao_ase.runs import RunWriter

    wanted = [*formulas, *_read_formulas(files)]
    if not wanted:
        raise click.UsageError("name at least one formula, for example: dao-ase generate CsV3Sb5")
    try:
        generator = DAOGenerator(weights, device=device, tries=tries, prototypes=prototypes, steps=steps)
        units = parse_formula_units(formula_units)
        for formula in wanted:  # refuse everything that is wrong before the work begins
            generator.cells(formula, number, units, max_atoms)
        generator.sampler.guide(guidance)
        seed_of(seed)
        if (output / SETTINGS).exists():
            raise ValueError(f"{output} holds a screening of dao-ase screen; give another folder")
        how: dict[str, Any] = {"formula_units": units, "seed": seed, "max_atoms": max_atoms, "guidance": guidance}
        finish = {"relax": relax, "rank": rank != "none" and rank, "deduplicate": deduplicate, "symmetrize": symmetrize}
        with sigterm_as_ctrl_c(), RunWriter(output) as run:
            together = max(1, RANKED // number)
            for first in range(0, len(wanted), together):
                made = generator.numbered(wanted[first : first + together], number, **how, progress=True)
                try:
                    for chunk in _chunks(generator, made, finish):
                        with at_the_end():
                            run.write(chunk)
                finally:
                    run.refused.update(generator.refused)
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(named_as_options(error)) from error
    if run.interrupted and not run.records:
        click.echo(f"interrupted before the first structure; nothing was written into {output}", err=True)
        raise SystemExit(INTERRUPTED)
    click.echo(json.dumps(run.summary(), indent=1) if as_json else _table(run.records, output))
    if gallery and run.records:
        _write_gallery(output)
    if run.interrupted:
        click.echo(f"interrupted: the {len(run.records)} structures made so far are in {output}", err=True)
        raise SystemExit(INTERRUPTED)
    if not run.records:
        raise click.ClickException("no structure could be made: all samples were refused, see summary.json for why")


def _write_gallery(output: Path) -> None:
    """The page of what was made, which is told already: the page may fail where the structures did not."""
    from dao_ase.gallery import read_run, write_gallery
    from dao_ase.runs import GALLERY

    try:
        write_gallery(read_run(output), output / GALLERY)
    except (ValueError, OSError) as error:
        raise click.ClickException(f"the structures are in {output}, but without {GALLERY}: {error}") from error


def _chunks(generator: DAOGenerator, made: Iterator[tuple[int, Structure]], finish: dict[str, Any]) -> Iterator[list]:
    """Finished structures, up to a thousand at a time; what was made before an interruption comes too, as far as it came."""
    from itertools import islice

    from dao_ase.cli.stopping import at_the_end
    from dao_ase.rank import relax_structures

    relax, others = finish["relax"], {**finish, "relax": False}
    while True:
        chunk: list[tuple[int, Structure]] = []

        def keep(index: int, relaxed: Structure, chunk: list[tuple[int, Structure]] = chunk) -> None:
            chunk[index] = (chunk[index][0], relaxed)

        try:
            chunk.extend(islice(made, RANKED))
            if relax:
                relax_structures([structure for _, structure in chunk], progress=True, on_done=keep)
            finished = generator.finish_groups(_grouped(chunk), **others, progress=True)
        except KeyboardInterrupt:
            with at_the_end():
                if chunk:
                    click.echo(f"interrupted: {_what_is_written(chunk, relax)}", err=True)
                    yield _flat(generator.finish_groups(_grouped(chunk), **others))
            raise
        if not chunk:
            return
        yield _flat(finished)


def _what_is_written(chunk: list[tuple[int, Structure]], relax: bool) -> str:
    """What an interruption leaves of structures, in words; those whose relaxation had not begun are marked as such."""
    said = f"{len(chunk)} structures are still ranked and written"
    if not relax:
        return said
    for _, structure in chunk:
        structure.properties = {"converged": False, "relax_steps": 0, **structure.properties}
    moving = sum(not structure.properties["converged"] for _, structure in chunk)
    return f"{said}, {moving} of them not at rest; dao-ase relax goes on with these" if moving else said


def _grouped(numbered: list[tuple[int, Structure]]) -> list[list[Structure]]:
    """The structures of each composition, compositions in the order in which they were asked for."""
    groups: dict[int, list[Structure]] = {}
    for place, structure in numbered:
        groups.setdefault(place, []).append(structure)
    return [groups[place] for place in sorted(groups)]


def _flat(groups: list[list[Structure]]) -> list[Structure]:
    return [structure for group in groups for structure in group]


def _read_formulas(files: tuple[Path, ...]) -> list[str]:
    """The lines of text files that hold more than a remark."""
    from dao_ase.data.reading import UNREADABLE, text_of

    formulas = []
    for file in files:
        try:
            text = text_of(file)
        except (OSError, ValueError) as error:
            raise click.ClickException(f"{file}: not a text file of formulas, one a line: {error}") from error
        if UNREADABLE in text:
            raise click.ClickException(f"{file}: not a text file of formulas, one a line: it is no text in UTF-8")
        formulas += [line.split("#")[0].strip() for line in text.splitlines()]
    return [formula for formula in formulas if formula]


def _table(records: list[dict[str, Any]], output: Path, most: int = 20) -> str:
    from dao_ase.cli.outputs import moving

    lines = [f"{'file':32} {'energy (eV/atom)':>17}  space group   structure type"]
    for record in records[:most]:
        energy = record.get("energy_per_atom")
        shown = "-" if energy is None else f"{energy:.4f}"
        origin = f"as {record['prototype']}" if "prototype" in record else "from noise"
        origin += moving(record.get("converged"))
        lines.append(f"{record['file']:32} {shown:>17}  {record['space_group']:12}  {origin}")
    if len(records) > most:
        lines.append(f"... and {len(records) - most} more")
    return "\n".join([*lines, f"{len(records)} structures in {output}"])
