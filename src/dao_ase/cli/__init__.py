"""The command line: ``dao-ase``. Each command is a thin wrapper that imports what it needs when it runs.

A command ``name`` is the click command ``name`` in ``dao_ase/cli/name.py``, and stands in ``COMMANDS``. These modules import
only click at their top, so that ``dao-ase --help`` is quick.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import click

from dao_ase import __version__

COMMANDS = (
    "generate",
    "relax",
    "energy",
    "predict",
    "finetune",
    "md",
    "eos",
    "phonons",
    "screen",
    "hull",
    "gallery",
    "compare",
    "evaluate",
    "train",
    "data",
    "doctor",
)
"""In the order in which ``dao-ase --help`` lists them: what a user needs first comes first."""


class _Commands(click.Group):
    """Commands that are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            return getattr(importlib.import_module(f"dao_ase.cli.{cmd_name}"), cmd_name)
        near = difflib.get_close_matches(cmd_name, COMMANDS, n=1)
        if near and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{cmd_name}'. Did you mean '{near[0]}'?")
        return None

    def main(self, *args: Any, **options: Any) -> Any:
        """As click does, but a disk that is full, standard output's too, is told without a traceback."""
        _open_closed()
        try:
            return super().main(*args, **options)
        except OSError as error:
            with suppress(OSError):  # standard error may be as full
                click.echo(f"Error: {error}", err=True)
            _forget_unwritten()
            raise SystemExit(1) from None

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, but SIGTERM is as Ctrl-C, and the exit code after both is not that of an error."""
        from dao_ase.cli.stopping import INTERRUPTED, sigterm_as_ctrl_c

        try:
            with sigterm_as_ctrl_c():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise SystemExit(INTERRUPTED) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """First sentences in full, where click would cut them at the edge of the screen."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=200)) for name, command in commands if command])


def _open_closed() -> None:
    """Gives streams that were closed, as by ``2>&-``, a place to write to: else the next file takes theirs."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def _forget_unwritten() -> None:
    """Lets go what a stream cannot write: Python would try again as it ends, complain, and change the exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dao-ase")
def main() -> None:
    """Crystal structures from a composition; energies, forces and stresses from a crystal."""
    # Idle threads sleep instead of spinning: on a busy two-core machine this took 20 structures from 150 s of processor
    # time to 7 s. OpenMP reads it when torch is imported, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
