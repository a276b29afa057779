"""``dao-ase doctor`` says what is there, what is not, and what to do about it."""

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from dao_ase import doctor
from dao_ase.cli import main
from dao_ase.espresso import running

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
FOR_DEVELOPERS = {"bench", "docs", "lint", "test"}


def findings(self_test: bool = False) -> dict[str, doctor.Finding]:
    return {f"{finding.group}/{finding.name}": finding for finding in doctor.examine(self_test)}


def test_versions_are_those_installed():
    found = findings()
    assert found["packages/torch"].detail == metadata.version("torch")
    assert found["packages/ase"].state == "ok"
    named = {re.match(r"[\w-]+", requirement)[0] for requirement in PYPROJECT["project"]["dependencies"]}
    assert {name.removeprefix("packages/") for name in found if name.startswith("packages/")} == named


def test_every_extra_for_users_is_looked_for():
    assert set(doctor.EXTRAS) == set(PYPROJECT["project"]["optional-dependencies"]) - FOR_DEVELOPERS


def test_what_is_absent_comes_with_the_remedy(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(doctor.EXTRAS, "matgl", ("no-such-distribution", "purpose"))
    found = findings()
    assert found["programs/pw.x"].state == "absent" and "install quantum-espresso" in found["programs/pw.x"].detail
    assert found["extras/matgl"].detail == 'purpose: pip install "dao-ase[matgl]"'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF", "Exec format error"),
        (b"#!/bin/sh\necho pw.x: libmpi.so.40: cannot open shared object file >&2\nexit 127\n", "libmpi.so.40"),
        (b"#!/bin/sh\nexit 3\n", "it ends with code 3, without a banner"),
    ],
    ids=["no program", "a library is missing", "silent"],
)
def test_program_that_does_not_start_is_broken(monkeypatch, tmp_path, content, reason):
    program = tmp_path / "pw.x"
    program.write_bytes(content)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = findings()["programs/pw.x"]
    assert found.state == "broken" and reason in found.detail and "install quantum-espresso" in found.detail


@pytest.mark.parametrize(
    ("measure", "reason"),
    [(lambda: {"energy per atom": 7.0}, "energy per atom is 7, expected"), (lambda: {}["no"], "KeyError")],
    ids=["another figure", "an exception"],
)
def test_self_test_that_fails_is_broken(monkeypatch, measure, reason):
    monkeypatch.setattr(doctor, "MEASURES", {"calculator": measure})
    found = findings(self_test=True)["self-test/calculator"]
    assert found.state == "broken" and reason in found.detail


def test_command_for_machines_exits_1_when_something_is_broken(monkeypatch):
    monkeypatch.setattr(doctor, "required", lambda: ["torch", "no-such-distribution"])
    done = CliRunner().invoke(main, ["doctor", "--no-self-test", "--json"])
    assert done.exit_code == 1 and "not in order: no-such-distribution" in done.stderr
    states = {finding["name"]: finding["state"] for finding in json.loads(done.stdout)}
    assert states["torch"] == "ok" and states["no-such-distribution"] == "broken"


def test_slow_linear_algebra_of_espresso_is_remarked_on(monkeypatch, tmp_path):
    program = tmp_path / "pw.x"
    program.write_text("#!/bin/sh\necho '     Program PWSCF v.6.7MaX starts'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/bin:/usr/bin")
    monkeypatch.setattr(running, "blas", lambda: "/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0")
    assert "apt-get install libopenblas0-serial" in findings()["programs/pw.x"].detail
    monkeypatch.setattr(running, "blas", lambda: "/usr/lib/x86_64-linux-gnu/openblas-serial/libblas.so.3")
    assert findings()["programs/pw.x"].detail == f"{program}, v.6.7MaX"
