"""``dao-ase data``: crystals from any source into a store, and what a store holds."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click

from dao_ase.cli.outputs import PictureFile
from dao_ase.cli.stopping import continued_by_the_same_command


@click.group()
def data() -> None:
    """Build and describe the sets of crystals that models are trained on."""


@data.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the store."
)
@click.option("--min-atoms", default=3, show_default=True, help="Leave out smaller cells.")
@click.option("--max-atoms", default=30, show_default=True, help="Leave out larger cells.")
@click.option("--max-e-hull", default=1.0, show_default=True, help="Highest label e_above_hull, eV/atom.")
@click.option(
    "--energy-label",
    default="formation_energy_per_atom",
    show_default=True,
    help="Where that label is missing, hulls are built from this one, eV/atom.",
)
@click.option("--deduplicate/--no-deduplicate", default=True, show_default=True, help="Keep one of equal structures.")
@click.option("--niggli/--no-niggli", default=True, show_default=True, help="Reduce the cells.")
@click.option(
    "--exclude", multiple=True, metavar="FILE", help="Leave out its crystals, by id and by structure; repeatable."
)
@click.option(
    "--exclude-formula", multiple=True, metavar="FORMULA", help="Leave it out, and its multiples; repeatable."
)
@click.option("--as-is", is_flag=True, help="Every crystal: any size and energy, no de-duplication.")
@click.option("--optimade-filter", default="", metavar="FILTER", help="For sources that are optimade:URL.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def build(
    sources: tuple[str, ...],
    output: Path,
    min_atoms: int,
    max_atoms: int,
    max_e_hull: float,
    energy_label: str,
    deduplicate: bool,
    niggli: bool,
    exclude: tuple[str, ...],
    exclude_formula: tuple[str, ...],
    as_is: bool,
    optimade_filter: str,
    workers: int,
    as_json: bool,
) -> None:
    """Read SOURCES (.npz, .csv, .cif, folders, what ASE reads, other stores, optimade:URL) into a store.

    An interrupted build resumes.
    """
    from dao_ase.data.build import BuildRules
    from dao_ase.data.build import build as build_store
    from dao_ase.data.sources import open_source

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if as_is:
        min_atoms, max_atoms, deduplicate = 1, 100_000, False
    try:
        rules = BuildRules(
            min_atoms,
            max_atoms,
            None if as_is else max_e_hull,
            energy_label,
            deduplicate,
            niggli,
            exclude,
            exclude_formula,
        )
        with continued_by_the_same_command():
            store = build_store([open_source(one, optimade_filter) for one in sources], output, rules, workers)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    counts = store.about["counts"]
    if as_json:
        click.echo(json.dumps(counts))
        return
    click.echo(f"{counts['kept']} of {counts['read']} crystals in {output}")
    for rule, count in counts["left out"].items():
        click.echo(f"{count:8d}  {rule}")
    if counts["left out"]:
        click.echo(f"each with its reason in {output / 'left_out.jsonl'}")


@data.command()
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--plot", type=PictureFile(), help="Draw them into this file (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def stats(store: Path, plot: Path | None, as_json: bool) -> None:
    """Print what a store holds: sources, sizes, volumes, energies above the hull, elements."""
    from dao_ase.data.statistics import describe, draw, summarise
    from dao_ase.data.store import CrystalStore

    try:
        statistics = summarise(CrystalStore.open(store))
        if plot is not None:
            draw(statistics, plot)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(statistics.as_dict()) if as_json else describe(statistics))


@data.command()
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .npz file.")
@click.option(
    "--teacher",
    default="chgnet",
    show_default=True,
    metavar="NAME",
    help="chgnet, a calculator of ASE, or module:maker.",
)
@click.option("--frames", type=click.IntRange(1), default=1, show_default=True, help="Frames of each crystal.")
@click.option("--mild", is_flag=True, help="Only small strains and displacements.")
@click.option("--squeeze", is_flag=True, help="Shorten one bond of each frame to 0.6 to 0.9 of its length.")
@click.option("--max-force", default=40.0, show_default=True, help="Leave out frames with larger forces, eV/Å.")
@click.option("--workers", default=1, show_default=True, help="Processes, each with its own teacher.")
@click.option("--max-crystals", type=click.IntRange(1), help="Take only so many, drawn at random.")
@click.option("--max-atoms", default=32, show_default=True, help="Leave out larger cells.")
@click.option("--element", multiple=True, help="Take only crystals that hold it; of several, all of them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def label(
    store: Path,
    output: Path,
    teacher: str,
    frames: int,
    mild: bool,
    squeeze: bool,
    max_force: float,
    workers: int,
    max_crystals: int | None,
    max_atoms: int,
    element: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Distort the crystals of STORE and label them with a teacher's energy, forces and stress; resumes."""
    from dao_ase.data.label import Distortion, LabelRules, Squeeze, label_store
    from dao_ase.data.store import CrystalStore

    if mild and squeeze:
        raise click.UsageError("--mild and --squeeze are two kinds of frames; give one of them")
    try:
        distortion = Squeeze() if squeeze else Distortion(mild=1.0) if mild else Distortion()
        rules = LabelRules(frames, max_atoms, max_crystals, max_force, seed, distortion, element)
        with continued_by_the_same_command():
            counts = label_store(CrystalStore.open(store), teacher, output, rules, workers=workers)
    except (ImportError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    reasons = f"no label from the teacher, or a force above {rules.max_force:g} eV/Å"
    _report_labels(counts, counts["kept"], "frames", output, reasons, as_json)


@data.command()
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .npz file.")
@click.option("--max-atoms", type=click.IntRange(1), default=2, show_default=True, help="Leave out larger cells.")
@click.option("--max-crystals", type=click.IntRange(1), help="Take only so many, cubic ones first.")
@click.option("--formula", "formulas", multiple=True, help="Take only crystals of this formula; in the order given.")
@click.option("--cutoff-share", type=click.FloatRange(0, min_open=True), default=0.55, show_default=True,
              help="Part of the cutoff that a pseudopotential states; metals of the d block need 0.8.")  # fmt: skip
@click.option("--max-cutoff", default=90.0, show_default=True, help="Leave out what needs more, Ry.")
@click.option("--max-formation-energy", default=0.05, show_default=True,
              help="Leave out what has a higher one, eV/atom: it may not form.")  # fmt: skip
@click.option("--only-moved", is_flag=True, help="Only move an atom, strain no cell: forces of many crystals.")
@click.option("--smearing", type=click.FloatRange(0, min_open=True), default=0.05, show_default=True,
              help="Of metals, Ry: aluminium's shear needs so much, copper's volume 0.02.")  # fmt: skip
@click.option("--kspacing", type=click.FloatRange(0, min_open=True), default=0.2, show_default=True,
              help="Of metals, 1/Å with the factor 2π: for forces on moved atoms 0.4 will do.")  # fmt: skip
@click.option("--max-pressure", default=5.0, show_default=True,
              help="Leave out what is under more at rest, GPa: too few plane waves show there first.")  # fmt: skip
@click.option("--insulators", is_flag=True,
              help="Take all for insulators, which need few k-points: say so of oxides of the d block.")  # fmt: skip
@click.option("--nonmagnetic", is_flag=True,
              help="Take elements that may be magnetic, too: say so of compounds such as VFeSb.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
              help="A cell that takes longer is left for the next time; sheared metals do.")  # fmt: skip
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder of what pw.x finished.")
@click.option("--pseudo-dir", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of pseudopotentials. Also looked at: ESPRESSO_PSEUDO and Debian's packages.")  # fmt: skip
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="MPI ranks of pw.x.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def stiffness(
    store: Path,
    output: Path,
    max_atoms: int,
    max_crystals: int | None,
    formulas: tuple[str, ...],
    cutoff_share: float,
    max_cutoff: float,
    max_formation_energy: float,
    only_moved: bool,
    smearing: float,
    kspacing: float,
    max_pressure: float,
    insulators: bool,
    nonmagnetic: bool,
    minutes: float,
    keep: Path | None,
    pseudo_dir: tuple[Path, ...],
    cores: int,
    as_json: bool,
) -> None:
    """Strain the simplest crystals of STORE a little and label them with forces and stresses of pw.x; resumes.

    Norm-conserving pseudopotentials of PBE are needed.
    """
    from dao_ase.data.store import CrystalStore
    from dao_ase.espresso.errors import EspressoError
    from dao_ase.espresso.running import Machine
    from dao_ase.espresso.stiffness import StiffnessRules, label_stiffness

    try:
        machine = Machine(cores, timeout=60 * minutes)
        rules = StiffnessRules(
            max_atoms, max_crystals, formulas, max_formation_energy,
            degauss_metal=smearing, kspacing_metal=kspacing, cutoff_share=cutoff_share, max_cutoff=max_cutoff,
            max_pressure=max_pressure, only_moved=only_moved, insulators=insulators, nonmagnetic=nonmagnetic,
            machine=machine,
        )  # fmt: skip
        folder = keep or output.with_suffix(".calculations")
        with continued_by_the_same_command():
            counts = label_stiffness(CrystalStore.open(store), output, folder, rules, pseudo_dirs=pseudo_dir)
    except (OSError, ValueError, EspressoError) as error:
        raise click.ClickException(str(error)) from error
    reasons = "magnetic or noble, no pseudopotential, one that needs more plane waves, or no convergence"
    _report_labels(counts, counts["frames"], f"frames of {counts['crystals']} crystals", output, reasons, as_json)


@data.command("close-pairs")
@click.argument("store", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .npz file.")
@click.option("--element", default="H", show_default=True, help="Whose bonds to heavier atoms are shortened in STORE.")
@click.option(
    "--max-atoms", type=click.IntRange(2), default=12, show_default=True, help="Leave out larger cells of STORE."
)
@click.option(
    "--max-crystals", type=click.IntRange(1), help="Take only so many of STORE, the smallest of each kind first."
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder of what pw.x finished.")
@click.option("--pseudo-dir", multiple=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of pseudopotentials. Also looked at: ESPRESSO_PSEUDO and Debian's packages.")  # fmt: skip
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="MPI ranks of pw.x.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def close_pairs(
    store: Path | None,
    output: Path,
    element: str,
    max_atoms: int,
    max_crystals: int | None,
    keep: Path | None,
    pseudo_dir: tuple[Path, ...],
    cores: int,
    as_json: bool,
) -> None:
    """Shorten bonds and label the cells with forces of pw.x: of small molecules, or of the crystals of STORE; resumes."""
    from dao_ase.data.store import CrystalStore
    from dao_ase.espresso.close_pairs import ClosePairRules, label_close_pairs
    from dao_ase.espresso.errors import EspressoError
    from dao_ase.espresso.running import Machine

    try:
        machine = Machine(cores, timeout=300.0)
        rules = ClosePairRules(element=element, max_atoms=max_atoms, max_crystals=max_crystals, machine=machine)
        crystals = None if store is None else CrystalStore.open(store)
        folder = keep or output.with_suffix(".calculations")
        with continued_by_the_same_command():
            counts = label_close_pairs(output, folder, rules, store=crystals, pseudo_dirs=pseudo_dir)
    except (OSError, ValueError, EspressoError) as error:
        raise click.ClickException(str(error)) from error
    reasons = "no pseudopotential, or no convergence"
    _report_labels(counts, counts["frames"], f"frames of {counts['cells']} cells", output, reasons, as_json)


@data.command()
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the new store."
)
@click.option("--lower", default=0.08, show_default=True, help="Relax what is higher above the hull, eV/atom,")
@click.option("--upper", default=0.5, show_default=True, help="and not higher than this.")
@click.option("--steps", default=30, show_default=True, help="Steps of each relaxation.")
@click.option("--fmax", default=0.05, show_default=True, help="Largest force, eV/Å, at which it ends earlier.")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="Weights of another DAO-P.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--plot", type=PictureFile(), help="Draw the energy changes into this file (.png, .svg, .pdf).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def relax(
    store: Path,
    output: Path,
    lower: float,
    upper: float,
    steps: int,
    fmax: float,
    weights: str | None,
    workers: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Copy STORE with its unstable crystals relaxed by DAO-P; an interrupted run resumes.

    A crystal is replaced only if its energy fell and its distances and volume stayed sensible.
    """
    from dao_ase.data.store import CrystalStore
    from dao_ase.mend import MendRules, draw_energy_changes, mend

    try:
        rules = MendRules(lower, upper, steps, fmax)
        with continued_by_the_same_command():
            mended = mend(CrystalStore.open(store), output, rules, weights=weights, workers=workers)
        if plot is not None:
            draw_energy_changes(mended, plot)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    report = mended.as_dict()
    if as_json:
        click.echo(json.dumps(report))
        return
    if not mended.fates:
        click.echo(f"no crystal is {lower:g} to {upper:g} eV/atom above the hull; all stay as they were")
    for fate, count in mended.fates.items():
        click.echo(f"{count:8d}  {fate}")
    for share, value in report["energy change, meV/atom"].items() if len(mended.energy_changes) else ():
        click.echo(f"{share:>8s}  of the energy changes lie below {value} meV/atom")
    click.echo(f"each crystal's fate is in {output / 'relaxed.jsonl'}")


@data.command()
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The .npz file.")
@click.option("--parents", default=10_000, show_default=True, help="Stable crystals whose atoms are taken, at most.")
@click.option("--each", default=2, show_default=True, help="Crystals drawn with the atoms of each.")
@click.option("--max-atoms", default=20, show_default=True, help="Leave out larger cells.")
@click.option("--weights", type=click.Path(exists=True, dir_okay=False), help="Weights of another DAO-G.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def draw(
    store: Path, output: Path, parents: int, each: int, max_atoms: int, weights: str | None, workers: int, seed: int
) -> None:
    """Draw crystals with the atoms of those in STORE, each with its energy above the hull as DAO-P sees it; resumes."""
    from dao_ase.data.store import CrystalStore
    from dao_ase.drawn import DrawRules, draw_crystals

    try:
        rules = DrawRules(parents, each, max_atoms, seed=seed)
        with continued_by_the_same_command():
            count = draw_crystals(CrystalStore.open(store), output, rules, weights=weights, workers=workers)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{count} crystals in {output}")


def _report_labels(counts: dict[str, int], kept: int, what: str, output: Path, reasons: str, as_json: bool) -> None:
    """What came of a labelling, and for what reasons something is missing; exit code 1 where all of it is."""
    where = f" in {output}" if kept else ""
    click.echo(json.dumps(counts) if as_json else f"{kept} {what}{where}, {counts['left out']} left out")
    if counts["left out"] and not as_json:
        click.echo(f"left out: {reasons}", err=True)
    if not kept:
        raise click.exceptions.Exit(1)
