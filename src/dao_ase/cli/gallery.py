"""``dao-ase gallery``: what a run generated, as one page to look at."""

from __future__ import annotations

import warnings
from pathlib import Path

import click


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: RUN_DIR/gallery.html.")
@click.option("--reference", type=click.Path(exists=True, dir_okay=False), help="A known structure to compare with.")
@click.option("--title", help="Heading of the page. Default: the formulas.")
@click.option("--limit", type=int, default=200, show_default=True, help="Most structures to show, the best first.")
@click.option("--open", "open_it", is_flag=True, help="Show the page in the browser.")
def gallery(
    run_dir: Path, output: Path | None, reference: str | None, title: str | None, limit: int, open_it: bool
) -> None:  # fmt: skip
    """Show generated structures as one offline HTML page.

    RUN_DIR is the directory of `dao-ase generate ... -o RUN_DIR` or of `dao-ase screen ... -o RUN_DIR`.
    """
    from pymatgen.core import Structure

    from dao_ase.gallery import read_run, write_gallery

    try:
        known = None
        if reference is not None:
            from dao_ase.rank import installed_potential, with_energies

            with warnings.catch_warnings(action="ignore"):  # pymatgen remarks on every ⅓
                known = Structure.from_file(reference)
            if (potential := installed_potential()) is not None:
                with_energies([known], potential)  # as the candidates have it, at the geometry of the file
        structures = read_run(run_dir)
        page = write_gallery(structures[:limit], output or run_dir / "gallery.html", title=title, reference=known)
    except (OSError, ValueError, KeyError) as error:
        raise click.ClickException(f"{run_dir}: {error}") from error
    click.echo(page)
    if len(structures) > limit:
        click.echo(f"{limit} of {len(structures)} structures are shown; --limit shows more", err=True)
    if open_it:
        click.launch(str(page))
