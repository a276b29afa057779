"""The command line: ``dao-ase``. Each command is a thin wrapper that imports what it needs when it runs."""

from __future__ import annotations

import click

from dao_ase import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dao-ase")
def main() -> None:
    """Crystal structures from a composition; energies, forces and stresses from a crystal."""
