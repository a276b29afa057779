"""``dao-ase compare``: DAO-P beside Quantum ESPRESSO."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from dao_ase.compare.comparison import Settings
    from dao_ase.compare.tasks import Crystal


FORTRAN = {".true.": True, ".false.": False}
NUMBER = re.compile(r"[+-]?\d[\d.]*([de][+-]?\d+)?", re.IGNORECASE)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILE_OR_FORMULA...")
@click.option("--task", type=click.Choice(["scf", "relax", "vc-relax", "eos", "search"]), default="scf", show_default=True,
              help="One geometry; atoms relaxed; atoms and cell; equation of state; search.")  # fmt: skip
@click.option("--preset", type=click.Choice(["fast", "standard", "tight"]), default="fast", show_default=True,
              help="k-points, cutoffs, smearing, spin and thresholds of pw.x.")  # fmt: skip
@click.option("--pseudo-dir", "pseudo_dirs", multiple=True, type=click.Path(file_okay=False, path_type=Path),
              help="Folder of UPF files. Also looked at: ESPRESSO_PSEUDO and the Debian package's.")  # fmt: skip
@click.option(
    "--with", "peers", multiple=True, help="Another potential: chgnet, matgl, or module:Class of an ASE calculator."
)
@click.option("-n", "number", type=click.IntRange(1), default=20, show_default=True,
              help="Structures that DAO-G draws for a formula.")  # fmt: skip
@click.option("--refine", type=click.IntRange(1), default=3, show_default=True,
              help="search: so many of the best that differ go to pw.x.")  # fmt: skip
@click.option("--refine-task", type=click.Choice(["relax", "vc-relax"]), default="vc-relax", show_default=True,
              help="search: what pw.x does to them. Random cells are always relaxed with their cell.")  # fmt: skip
@click.option("--symmetrize/--no-symmetrize", default=True, show_default=True,
              help="search: move candidates onto the symmetry found within 0.1 Å, which saves pw.x k-points.")  # fmt: skip
@click.option(
    "--budget",
    type=click.FloatRange(0),
    help="search: processor seconds for pw.x alone. Default: what the other way took.",
)
@click.option("--known", type=click.Path(exists=True, dir_okay=False), help="search: the structure to be found.")
@click.option(
    "--max-atoms", type=click.IntRange(1), help="Largest cell for DAO-G. Default: the largest that it was trained on."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True,
              help="For everyone; pw.x uses MPI when more than one.")  # fmt: skip
@click.option("--command", help="How pw.x is called, for example 'srun pw.x -nk 4'.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=3600.0, show_default=True,
              help="Seconds for a calculation of pw.x.")  # fmt: skip
@click.option("--walltime", type=click.FloatRange(0), help="Seconds after which pw.x begins nothing more.")
@click.option("--kspacing", type=click.FloatRange(0, min_open=True),
              help="k-points of pw.x, 1/Å with the factor 2π. Default: the preset's.")  # fmt: skip
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A keyword of pw.x, instead of the preset's."
)
@click.option(
    "--fmax",
    type=click.FloatRange(0, min_open=True),
    default=0.01,
    show_default=True,
    help="DAO-P and peers relax below this (eV/Å).",
)
@click.option("--calculations", type=click.Path(file_okay=False, path_type=Path),
              help="Folder of pw.x's calculations, so that reports share them. Default: inside the report's.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("comparison"),
              show_default=True, help="Folder for report.html and report.json.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def compare(inputs: tuple[str, ...], as_json: bool, output: Path, known: str | None, **options: Any) -> None:
    """Compare DAO-P with pw.x of Quantum ESPRESSO on the structures in files, or on those that DAO-G finds for formulas.

    Same structures, same cores. Finished calculations are kept and never repeated: the same command continues. The exit
    code is 1 when something is missing from the report; the report says what and why.
    """
    import logging

    from dao_ase.cli.stopping import continued_by_the_same_command
    from dao_ase.compare.comparison import compare_all

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = _settings(output, options)
        crystals, structures, problems = _crystals(inputs, options, known)
        if not crystals:
            raise click.ClickException("\n".join(problems))
        with continued_by_the_same_command():
            report = compare_all(crystals, settings, structures, problems)
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(report, indent=1) if as_json else _text(report))
    click.echo(f"report: {output / 'report.html'}", err=True)
    for problem in report["problems"]:
        click.echo(problem, err=True)
    if report["problems"]:
        raise click.exceptions.Exit(1)


def _settings(output: Path, options: Mapping[str, Any]) -> Settings:
    from dao_ase.compare.comparison import Settings
    from dao_ase.compare.search import SearchSettings
    from dao_ase.espresso.running import Machine

    search = SearchSettings(
        options["number"], options["refine"], options["budget"], options["seed"], options["max_atoms"],
        options["refine_task"], options["symmetrize"],
    )  # fmt: skip
    return Settings(
        options["task"], output, options["preset"], options["pseudo_dirs"], options["peers"],
        Machine(options["cores"], options["timeout"], options["command"]), _keywords(options["assignments"]),
        options["kspacing"], options["fmax"], options["walltime"], options["calculations"], search,
    )  # fmt: skip


def _keywords(assignments: Sequence[str]) -> dict[str, Any]:
    """``ecutwfc=60`` as a number, ``nosym=true`` as a truth value, the rest as text."""
    found: dict[str, Any] = {}
    for one in assignments:
        key, equals, text = one.partition("=")
        key = key.strip().lower()  # as pw.x takes it
        if not equals or not key or not text:
            raise ValueError(f"--set {one}: write KEY=VALUE, for example ecutwfc=60")
        if text.lower() in FORTRAN:
            found[key] = FORTRAN[text.lower()]
            continue
        try:
            found[key] = json.loads(text.lower().replace("d", "e") if NUMBER.fullmatch(text) else text.lower())
        except ValueError:
            found[key] = text
    return found


def _crystals(
    inputs: Sequence[str], options: Mapping[str, Any], known: str | None
) -> tuple[list[Crystal], dict[str, Structure], list[str]]:
    """The structures of files; of a formula, what DAO-G and DAO-P think best, or for a search its name alone."""
    from dao_ase.cli.inputs import as_crystals, read_structures
    from dao_ase.compare.tasks import Crystal
    from dao_ase.convert import structure_from_atoms

    files = [Path(one) for one in inputs if Path(one).suffix[1:2].isalpha() or Path(one).exists()]  # not Li0.5CoO2
    if known is not None and options["task"] != "search":
        raise ValueError(f"--known is for --task search, not for {options['task']}")
    found, problems = read_structures(files)
    taken, _, no_crystals = as_crystals(found)
    if known is not None and len(files) == len(inputs):
        raise ValueError("--known is for a formula; a file in its place is the known structure itself")
    formulas, impossible = _possible([one for one in inputs if Path(one) not in files], options["max_atoms"])
    problems += no_crystals + impossible
    for one in taken:  # pw.x would keep them, the potentials would not
        if one.atoms.constraints:
            problems.append(f"{one.name}: its constraints of atoms are left out, all atoms may move")
            one.atoms.set_constraint()
    if options["task"] == "search":
        pairs = [(one.atoms.get_chemical_formula(), structure_from_atoms(one.atoms)) for one in taken]
        crystals = [Crystal(formula, one.atoms) for (formula, _), one in zip(pairs, taken, strict=True)]
        if len(set(dict(pairs))) < len(pairs):
            raise ValueError("two of the files have one formula; a search takes one known structure of each")
        structures = dict(pairs)
        for formula in formulas:
            crystals.append(Crystal(formula, _nothing()))
            if known is not None:
                structures[formula] = _known(known, formula)
        return crystals, structures, problems
    short = [Path(one.name).name for one in taken]  # and more of the path where that would name two crystals
    names = [name if short.count(name) == 1 else one.name for name, one in zip(short, taken, strict=True)]
    crystals = [Crystal(name, one.atoms) for name, one in zip(names, taken, strict=True)]
    return crystals + [_best(formula, options) for formula in formulas], {}, problems


def _possible(formulas: Sequence[str], max_atoms: int | None) -> tuple[list[str], list[str]]:
    """The formulas that DAO-G can make structures of; and which it can not, with the reason."""
    from dao_ase.cli.inputs import named_as_options
    from dao_ase.generator import DAOGenerator

    possible: list[str] = []
    problems: list[str] = []
    if not formulas:
        return possible, problems
    generator = DAOGenerator()
    for formula in formulas:
        try:
            generator.cells(formula, 1, max_atoms=max_atoms)
            possible.append(formula)
        except (ValueError, TypeError) as error:
            problems.append(f"{formula}: {named_as_options(error)}")
    return possible, problems


def _best(formula: str, options: Mapping[str, Any]) -> Crystal:
    from dao_ase.compare.tasks import Crystal
    from dao_ase.convert import atoms_from_structure
    from dao_ase.generator import DAOGenerator

    best = DAOGenerator().generate(
        formula, options["number"], seed=options["seed"], max_atoms=options["max_atoms"], relax=True
    )[0]
    best.properties = {}
    return Crystal(formula, atoms_from_structure(best))


def _nothing() -> Any:
    from ase import Atoms

    return Atoms()


def _known(file: str, formula: str) -> Structure:
    """The structure that a search for a formula is to find; it has to be of the same composition."""
    from dao_ase.cli.inputs import as_crystals, read_structures
    from dao_ase.composition import Composition
    from dao_ase.convert import structure_from_atoms

    found, problems = read_structures([Path(file)])
    taken, _, no_crystals = as_crystals(found)
    if problems + no_crystals:
        raise ValueError((problems + no_crystals)[0])
    if len(taken) > 1:
        raise ValueError(f"--known {file} holds {len(taken)} structures; give a file of the one that is to be found")
    structure = structure_from_atoms(taken[0].atoms)
    content = Composition.from_atomic_numbers(structure.atomic_numbers).reduced_formula
    if content != Composition.parse(formula).reduced_formula:
        raise ValueError(f"--known {file} is {content}, not {formula}; give the structure of what is searched for")
    return structure


def _text(report: Mapping[str, Any]) -> str:
    """A line for each crystal and method."""
    lines = []
    for row in report["rows"]:
        for name, found in row.get("methods", {}).items():
            if "times" in found:
                faster = found.get("against pw.x", {}).get("times_faster_processor")
                said = f"{found['times']['processor']:.4g} s of processor time"
                said += "" if faster is None else f", {faster:,.0f} times faster than pw.x"
                lines.append(f"{row['name']}  {name:7} {said}{_differences(found.get('against pw.x', {}))}")
        for way, best in row.get("best", {}).items():
            energy, rmse = (("-" if value is None else f"{value:.4g}") for value in (best["energy"], best["rmse"]))
            lines.append(
                f"{row['name']}  {way}: {energy} meV/atom above the best, RMSE {rmse}, {best['wall']:.0f} s "
                f"({best['processor']:.0f} s of processor time)"
            )
    return "\n".join(lines)


def _differences(against: Mapping[str, Any]) -> str:
    parts = []
    if "forces" in against:
        parts.append(f"forces differ by {against['forces']['mean']:.4f} eV/Å")
        parts.append(f"pressure by {against['stress']['pressure']:+.2f} GPa")
    if against.get("volume") is not None:
        parts.append(f"volume {100 * against['volume']:+.2f} %")
    if against.get("rmse") is not None:
        parts.append(f"RMSE {against['rmse']:.4f}")
    if against.get("bulk_modulus") is not None:
        parts.append(f"bulk modulus {100 * against['bulk_modulus']:+.1f} %")
    return "".join(f", {part}" for part in parts)
