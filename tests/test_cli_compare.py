"""dao-ase compare, with the real pw.x where there is one, and what it says where there is none."""

import json
import shutil

import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import write
from click.testing import CliRunner

from dao_ase.cli import main
from dao_ase.cli.compare import _keywords
from dao_ase.espresso import pseudopotentials
from dao_ase.espresso.pseudopotentials import DEBIAN
from pseudo import write_list

HAS_ESPRESSO = shutil.which("pw.x") is not None and DEBIAN.is_dir()


def run(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


@pytest.fixture
def silicon(tmp_path):
    write(tmp_path / "silicon.extxyz", bulk("Si", a=5.5))
    return tmp_path / "silicon.extxyz"


needs_espresso = pytest.mark.skipif(
    not HAS_ESPRESSO, reason="pw.x and Debian's pseudopotentials: apt-get install quantum-espresso-data"
)


def test_a_report_that_cannot_be_written_is_known_before_the_work(silicon, tmp_path, monkeypatch):
    def work(*_):
        raise AssertionError

    monkeypatch.setattr("dao_ase.compare.comparison.compare", work)
    (tmp_path / "file").write_text("")
    done = run(silicon, "-o", tmp_path / "file" / "report")
    assert done.exit_code == 1 and "file" in done.output and not isinstance(done.exception, AssertionError)


@pytest.mark.espresso
@needs_espresso
def test_two_atoms_with_the_real_program(silicon, tmp_path, monkeypatch):
    monkeypatch.delenv("ESPRESSO_PSEUDO", raising=False)
    arguments = [silicon, "--preset", "fast", "--kspacing", "0.7", "--set", "ecutwfc=25", "--set", "ecutrho=150",
                 "-o", tmp_path / "report"]  # fmt: skip
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    reference, ours = (report["rows"][0]["methods"][name] for name in ("pw.x", "DAO-P"))
    assert reference["times"]["scf_iterations"] >= 3 and reference["notes"]["electrons"] == 8
    assert abs(reference["pressure"]) < 3  # the cell is within 1 % of the relaxed one
    assert ours["against pw.x"]["forces"]["largest"] < 0.01 and abs(ours["against pw.x"]["stress"]["pressure"]) < 5
    assert any("above the 25 Ry that were set" in one for one in report["remarks"])
    assert "times faster than pw.x" in done.stdout and (tmp_path / "report" / "report.html").exists()
    monkeypatch.setenv("PATH", "")
    assert run(*arguments).exit_code == 0, "what is finished needs no program any more"


@pytest.mark.espresso
@needs_espresso
def test_real_program_reads_what_was_taken_from_the_list_of_cp2k(silicon, tmp_path):
    done = run(silicon, "--pseudo-dir", write_list(tmp_path), "--kspacing", "0.7", "--set", "ecutwfc=30",
               "-o", tmp_path / "report")  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["pseudopotentials"]["Si"]["file"] == "Si_GTH-PBE-q4.gth"
    reference = report["rows"][0]["methods"]["pw.x"]
    assert reference["notes"]["electrons"] == 8 and abs(reference["pressure"]) < 3  # as with the other pseudopotential


@pytest.mark.espresso
@needs_espresso
def test_search_for_silicon_with_the_real_program(silicon, tmp_path, monkeypatch):
    monkeypatch.delenv("ESPRESSO_PSEUDO", raising=False)
    arguments = ["Si2", "--task", "search", "--known", silicon, "-n", 2, "--refine", 1, "--budget", 4,
                 "--kspacing", 0.9, "--set", "ecutwfc=20", "--set", "ecutrho=120", "-o", tmp_path / "report"]  # fmt: skip
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "report" / "report.json").read_text())["rows"][0]
    assert row["best"]["DAO, then pw.x"]["rmse"] < 0.05 and row["refined"][0]["converged"]
    assert sum(one["times"]["wall"] for one in row["random"]) > 1
    assert "DAO, then pw.x: " in done.stdout and "pw.x alone: " in done.stdout
    monkeypatch.setenv("PATH", "")
    assert run(*arguments, "--walltime", 0).exit_code == 0
    again = json.loads((tmp_path / "report" / "report.json").read_text())["rows"][0]
    assert again == row, "nothing is proposed or computed twice"


def test_a_formula_with_a_fraction_is_no_file():
    done = CliRunner().invoke(main, ["compare", "Li0.5CoO2"])
    assert done.exit_code == 1 and "counts must be whole numbers" in done.stderr


def test_a_formula_that_is_too_large_is_named_with_the_option(tmp_path):
    done = run("Si60", "-o", tmp_path / "report")
    assert done.exit_code == 1 and "Si60: Si60 has 60 atoms in the cell" in done.stderr
    assert "--max-atoms lifts the limit" in done.stderr


def test_interrupted_it_says_that_the_same_command_continues(silicon, tmp_path, monkeypatch):
    def interrupted(*arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dao_ase.compare.comparison.compare_all", interrupted)
    done = run(silicon, "-o", tmp_path / "report")
    assert done.exit_code == 130 and "the same command continues" in done.stderr


def test_misspelled_keyword_is_refused(silicon):
    done = run(silicon, "--set", "ecutwf=60")
    assert done.exit_code == 1 and "no keyword 'ecutwf'; do you mean 'ecutwfc'?" in done.stderr


def test_what_is_known_belongs_to_a_search_and_to_its_formula(silicon):
    done = run(silicon, "--known", silicon)
    assert done.exit_code == 1 and "--known is for --task search" in done.stderr
    done = run("NaCl", "--task", "search", "--known", silicon)
    assert done.exit_code == 1 and "is Si, not NaCl" in done.stderr
    done = run(silicon, "--task", "search", "--known", silicon)
    assert done.exit_code == 1 and "--known is for a formula" in done.stderr
    write(silicon, [bulk("Si"), bulk("Si", "bcc", a=3.0)])
    done = run("Si", "--task", "search", "--known", silicon)
    assert done.exit_code == 1 and "silicon.extxyz holds 2 structures" in done.stderr


def test_machine_without_the_program_gets_one_sentence(silicon, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for package in ("DEBIAN", "CP2K"):
        monkeypatch.setattr(pseudopotentials, package, tmp_path / "none")
    done = run(silicon, "-o", tmp_path / "report")
    assert done.exit_code == 1
    said = [line for line in done.stderr.splitlines() if "install" in line]
    assert len(said) == 1 and "pw.x is not on the PATH; install it: apt-get install quantum-espresso" in said[0]
    assert "DAO-P" in done.stdout and (tmp_path / "report" / "report.html").exists()


def test_files_that_are_none_are_named(silicon, tmp_path, monkeypatch):
    done = run(tmp_path / "missing.cif", "Xx2", "-o", tmp_path / "report")
    assert done.exit_code == 1 and "missing.cif: there is no such file" in done.stderr and "Xx2: " in done.stderr
    monkeypatch.setenv("PATH", "")
    done = run(silicon, tmp_path / "missing.cif", "Xx2", "-o", tmp_path / "report", "--json")
    assert done.exit_code == 1 and len(json.loads(done.stdout)["rows"]) == 1
    problems = json.loads((tmp_path / "report" / "report.json").read_text())["problems"]
    assert "missing.cif: there is no such file" in problems[0] and "'Xx', which is not the symbol" in problems[1]


def test_one_name_in_two_folders_is_two_crystals_and_constraints_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for place, a in (("one", 5.5), ("two", 5.2)):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "POSCAR", Atoms(bulk("Si", a=a), constraint=FixAtoms([0])))
    files = [tmp_path / place / "POSCAR" for place in ("one", "two")]
    done = run(*files, "--task", "relax", "-o", tmp_path / "report", "--json")
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["rows"]] == [str(file) for file in files]
    assert len(report["polymorphs"][0]["methods"][0]["order"]) == 2
    assert sum("constraints of atoms are left out" in one for one in report["problems"]) == 2
    done = run(*files, "--task", "search", "-o", tmp_path / "search")
    assert done.exit_code == 1 and "two of the files have one formula" in done.stderr


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("ecutwfc=60", 60),
        ("degauss=1d-2", 0.01),
        ("nosym=true", True),
        ("nosym=.FALSE.", False),
        ("starting_charge(1)=-2.5d-1", -0.25),
        ("vdw_corr=dft-d3", "dft-d3"),
        ("smearing=gauss", "gauss"),
        ("nspin=2", 2),
    ],
)
def test_keywords(words, value):
    assert list(_keywords([words]).values()) == [value]


@pytest.mark.parametrize("words", ["ecutwfc", "=3", "nspin="])
def test_keyword_without_a_value(silicon, words):
    done = run(silicon, "--set", words)
    assert done.exit_code == 1 and "write KEY=VALUE" in done.stderr
