"""The command line as a whole; each command has tests of its own."""

import pytest
from click.testing import CliRunner

from dao_ase.cli import COMMANDS, main


def test_help_is_one_screen_and_says_every_command_in_full():
    lines = CliRunner().invoke(main, ["--help"]).output.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    for command in COMMANDS:
        (line,) = [line for line in lines if line.split()[:1] == [command]]
        assert len(line.split()) > 2 and not line.endswith("..."), f"shorten the first sentence of {command}: {line}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_every_option_says_what_it_does(command):
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    silent = [option.name for option in main.get_command(None, command).params if getattr(option, "help", "") is None]
    assert not silent, f"{command}: options without help: {silent}"


def test_slip_of_the_keyboard_gets_a_hint():
    done = CliRunner().invoke(main, ["galery"])
    assert done.exit_code == 2 and "Did you mean 'gallery'?" in done.output
