"""``dao-ase gallery``: what a run generated, as one page to look at."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pymatgen.core import Structure


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: RUN_DIR/gallery.html.")
@click.option("--reference", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A known structure to compare with.")  # fmt: skip
@click.option("--title", help="Heading of the page. Default: the formulas.")
@click.option(
    "--limit", type=click.IntRange(1), default=200, show_default=True, help="Most structures to show, the best first."
)
@click.option("--open", "open_it", is_flag=True, help="Show the page in the browser.")
def gallery(
    run_dir: Path, output: Path | None, reference: Path | None, title: str | None, limit: int, open_it: bool
) -> None:  # fmt: skip
    """Show generated structures as one offline HTML page.

    RUN_DIR is the directory of `dao-ase generate ... -o RUN_DIR` or of `dao-ase screen ... -o RUN_DIR`.
    """
    from dao_ase.gallery import read_run, run_size, write_gallery
    from dao_ase.runs import GALLERY

    try:
        known = None
        if reference is not None:
            from dao_ase.rank import installed_potential, with_energies

            known = _read_reference(reference)
            if (potential := installed_potential()) is not None:
                with_energies([known], potential)  # as the candidates have it, at the geometry of the file
        structures, total = read_run(run_dir, limit), run_size(run_dir)
        page = write_gallery(structures, output or run_dir / GALLERY, title=title, reference=known)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(page)
    if total > len(structures) >= limit:  # a run that goes on may have grown since it was read
        click.echo(f"{limit} of {total} structures are shown; --limit shows more", err=True)
    if open_it:
        click.launch(str(page))


def _read_reference(path: Path) -> Structure:
    """The known structure, whose atoms must be whole."""
    from pymatgen.core import Structure

    from dao_ase.convert import from_structures

    try:
        with warnings.catch_warnings(action="ignore"):  # pymatgen remarks on every ⅓
            known = Structure.from_file(path)
    except Exception as error:  # pymatgen's readers raise whatever their format's parser raises
        raise click.ClickException(f"{path}: not a structure file that pymatgen reads: {error}") from error
    if not known.is_ordered:
        raise click.ClickException(f"{path}: sites are partly occupied; give an ordered structure")
    try:
        from_structures([known])
    except ValueError as error:
        raise click.ClickException(f"{path}: {error}") from error
    return known
