"""``dao-ase hull``: the convex hull of a chemical system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dao_ase.cli.outputs import PictureFile, moving

if TYPE_CHECKING:
    from dao_ase.phase_diagram import Hull, Phase


@click.command()
@click.argument("candidates", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--references", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="Known phases: CSV (composition, energy_per_atom), pymatgen entries, structures, runs.")  # fmt: skip
@click.option("--system", help="Elements, like Cs-V-Sb. Default: the candidates', if they are of one system.")
@click.option("--recompute", is_flag=True, help="Relax the references' structures, for energies on DAO-P's scale.")
@click.option("--plot", type=PictureFile(), help="Picture to write: png, svg, pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def hull(
    candidates: tuple[Path, ...], references: tuple[Path, ...], system: str | None, recompute: bool, plot: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Print and draw the convex hull of a chemical system.

    CANDIDATES are folders of `dao-ase screen` or `dao-ase generate`; they count as phases, as the references do. Each
    element needs a phase: among the references, or screened like any composition.
    """
    from dao_ase.hull_plot import plot_hull
    from dao_ase.phase_diagram import Hull, read_phases

    if not candidates and not references:
        raise click.UsageError("name at least one folder of candidates, or --references")
    try:
        phases = [phase for run in candidates for phase in _candidates(run)]
        phases += read_phases(references, recompute)
        found = Hull(_system(system, phases), phases)
        rows = found.ordered()
        click.echo(json.dumps([_values(*row) for row in rows], indent=1) if as_json else _table(found, rows))
        if plot is not None:
            plot_hull(found, plot)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    if plot is not None and not as_json:
        click.echo(plot)


def _candidates(run: Path) -> list[Phase]:
    """The phases of a folder; what has no energy is counted."""
    from dao_ase.phase_diagram import phases_of_run

    phases, without = phases_of_run(run, candidate=True)
    if without:
        click.echo(
            f"{run}: {without} of {len(phases) + without} structures are left out, they have no energy; "
            "generate --rank energy gives them one",
            err=True,
        )
    return phases


def _system(asked: str | None, phases: list[Phase]) -> list[str]:
    from dao_ase.phase_diagram import systems_of

    if asked is not None:
        return [symbol.strip() for symbol in asked.split("-") if symbol.strip()] or [asked]
    systems = systems_of([phase for phase in phases if phase.candidate] or phases)
    if len(systems) != 1:
        names = ", ".join("-".join(sorted(one)) for one in systems[:8]) or "none"
        raise ValueError(f"which system? --system takes one of: {names}{', ...' if len(systems) > 8 else ''}")
    return sorted(systems[0])


def _values(phase: Phase, above: float) -> dict[str, object]:
    return {
        "formula": phase.formula,
        "energy_per_atom": phase.energy_per_atom,
        "e_above_hull": above,
        "source": phase.source,
        "candidate": phase.candidate,
        "converged": phase.converged,
    }


def _table(found: Hull, rows: list[tuple[Phase, float]], most: int = 40) -> str:
    lines = [f"{found.name:16} {'energy (eV/atom)':>17} {'above hull':>11}  from"]
    for phase, above in rows[:most]:
        mark = "*" if above <= 0 else " "
        origin = phase.source + moving(phase.converged)
        lines.append(f"{mark}{phase.formula:15} {phase.energy_per_atom:17.4f} {above:11.4f}  {origin}")
    if len(rows) > most:
        lines.append(f"... and {len(rows) - most} more")
    return "\n".join([*lines, "* on the hull"])
