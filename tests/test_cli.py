"""The command line as a whole; each command has tests of its own."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dao_ase.cli import COMMANDS, main

PLAIN = {"dtype", "device", "seed"}
"""Options whose name and default say everything."""


def test_help_is_one_screen_and_says_every_command_in_full():
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line.startswith("  ") and line.strip()} >= set(COMMANDS)
    assert not any(line.endswith("...") for line in lines[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_every_option_says_what_it_does(command):
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    options = main.get_command(click.Context(main), command).params
    silent = [one.name for one in options if isinstance(one, click.Option) and not one.help and one.name not in PLAIN]
    assert not silent, f"{command}: options without help: {silent}"


def test_slip_of_the_keyboard_gets_a_hint():
    done = CliRunner().invoke(main, ["galery"])
    assert done.exit_code == 2 and "Did you mean 'gallery'?" in done.output


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_full_disk_is_told_without_a_traceback(buffered):
    command = [sys.executable, "-m", "dao_ase.cli", "--version"]
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
        assert (done.returncode, done.stderr) == (1, "Error: [Errno 28] No space left on device\n")
        assert subprocess.run(command, stdout=full, stderr=full, env=environment).returncode == 1


CLOSED = """
import click, tqdm
from dao_ase import cli

@click.command()
def show():
    for _ in tqdm.tqdm(range(2), disable=None):
        open("seen", "w").write("all")

cli._Commands.get_command = lambda *_: show
cli.main(["show"])
"""
"""A command that draws a bar, as many do."""


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
def test_closed_streams_stop_nothing(tmp_path):
    (tmp_path / "program.py").write_text(CLOSED)
    done = subprocess.run(f"'{sys.executable}' program.py <&- >&- 2>&-", shell=True, cwd=tmp_path)
    assert (done.returncode, (tmp_path / "seen").read_text()) == (0, "all")


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "dao_ase.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("dao-ase, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script_that_completes(shell):
    """What docs/install.md tells to evaluate; bash also gets its answers from the program that it names."""
    words = {"dao-ase sc": ("1", "plain,screen"), "dao-ase screen --wo": ("2", "plain,--workers")}
    assert "_DAO_ASE_COMPLETE" in completed({"_DAO_ASE_COMPLETE": f"{shell}_source"})
    if shell == "bash":
        for line, (place, answer) in words.items():
            said = completed({"_DAO_ASE_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": place})
            assert answer in said.splitlines()


def completed(variables: dict[str, str]) -> str:
    """What the program prints when a shell asks it."""
    code = "import sys; sys.argv[0] = 'dao-ase'; from dao_ase.cli import main; main(prog_name='dao-ase')"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **variables}).stdout
