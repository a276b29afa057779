"""What happens around pw.x: never twice the same, continued when out of time, and a clear word for each way to fail.

The program is a script here that prints what the real one printed and ends with the code with which that one ended; the
real one runs in test_cli_compare.py.
"""

import errno
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
from ase.build import bulk

from dao_ase.cli.stopping import sigterm_as_ctrl_c
from dao_ase.espresso import running
from dao_ase.espresso.calculation import Calculation, check_keywords
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.presets import load_preset
from dao_ase.espresso.pseudopotentials import find
from dao_ase.espresso.running import Machine, complaint, is_finished, run
from pseudo import write_upf

PRINTED = Path(__file__).parent / "printed"


@pytest.fixture
def calculation(tmp_path):
    def make(task="scf"):
        write_upf(tmp_path / "upf" / "Si.UPF", "Si")
        return Calculation(bulk("Si", a=5.5), task, load_preset("fast"), find(["Si"], [tmp_path / "upf"]))

    return make


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a pw.x on the PATH that counts its calls and then does what it is told."""

    def put(script: str):
        file = tmp_path / "bin" / "pw.x"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")

    put.calls = lambda: len((tmp_path / "calls").read_text().splitlines())
    return put


def printing(name: str, code: int) -> str:
    return f"cat {PRINTED}/{name}.pwo; mkdir -p state; exit {code}"


def test_finished_calculation_is_not_repeated(calculation, program, tmp_path, monkeypatch):
    program(printing("scf", 0))
    first = run(calculation(), tmp_path / "runs", Machine())
    assert first.complete and first.output.scf_iterations == 4 and first.processor_seconds == 1.08
    assert is_finished(calculation(), str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", "")  # not even the program is needed
    again = run(calculation(), tmp_path / "runs", Machine())
    assert again.output.final.energy == first.output.final.energy and program.calls() == 1
    assert not (first.folder / "state").exists(), "wave functions are removed"


def test_file_systems_without_locks_will_do(calculation, program, tmp_path, monkeypatch):
    def no_locks(file, operation) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    program(printing("scf", 0))
    assert run(calculation(), tmp_path / "runs", Machine()).complete


def test_out_of_time_is_continued_and_times_add_up(calculation, program, tmp_path):
    program(printing("stopped", 255))
    stopped = run(calculation("vc-relax"), tmp_path / "runs", Machine())
    assert not stopped.complete and stopped.problem.kind == "out of time" and len(stopped.output.steps) == 1
    assert "the same command continues it" in str(stopped.problem) and (stopped.folder / "state").is_dir()
    program(printing("vc_relax", 0))
    ended = run(calculation("vc-relax"), tmp_path / "runs", Machine())
    assert "'restart'" in (ended.folder / "espresso.pwi").read_text()
    assert ended.complete and ended.attempts == 2 and len(ended.output.steps) == 6
    assert ended.processor_seconds == pytest.approx(stopped.processor_seconds + 18.97, abs=0.01)
    assert ended.output.scf_iterations == 5 + 23


def test_state_that_is_gone_means_another_beginning(calculation, program, tmp_path):
    program(printing("stopped", 255))
    stopped = run(calculation("vc-relax"), tmp_path / "runs", Machine())
    (stopped.folder / "state").rmdir()
    program(printing("vc_relax", 0))
    ended = run(calculation("vc-relax"), tmp_path / "runs", Machine())
    assert "'from_scratch'" in (ended.folder / "espresso.pwi").read_text()
    assert (ended.attempts, len(ended.output.steps), ended.processor_seconds) == (1, 5, 18.97)


@pytest.mark.parametrize(("block", "raised"), [(nullcontext, SystemExit), (sigterm_as_ctrl_c, KeyboardInterrupt)])
def test_sigterm_ends_the_program_and_is_answered_as_the_caller_wants(calculation, program, tmp_path, block, raised):
    program("echo $$ > ../pid; sleep 1; kill -TERM $PPID; exec sleep 60")
    with pytest.raises(raised), block():
        run(calculation(), tmp_path / "runs", Machine())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "runs" / "pid").read_text()), 0)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    program(printing("scf", 0))
    assert run(calculation(), tmp_path / "runs", Machine()).complete


def test_program_that_hangs_is_killed(calculation, program, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.2)
    program("sleep 60")
    found = run(calculation(), tmp_path / "runs", Machine(timeout=0.3))
    assert found.problem.kind == "out of time" and "give it more with --timeout" in str(found.problem)
    assert found.processor_seconds < 0.3 < found.wall_seconds, "sleeping costs no processor time"


@pytest.mark.parametrize(
    ("task", "name", "code", "kind", "remedy"),
    [
        ("scf", "unconverged", 2, "not converged", "--set mixing_beta=0.2"),
        ("scf", "failed", 1, "failed", "smearing nonsense unknown"),
        ("relax", "unrelaxed", 3, "not converged", "--set nstep=300"),
    ],
)
def test_each_failure_says_what_to_do(calculation, program, tmp_path, task, name, code, kind, remedy):
    program(printing(name, code))
    found = run(calculation(task), tmp_path / "runs", Machine())
    assert found.problem.kind == kind and remedy in str(found.problem)


def test_crash_before_the_first_word(calculation, program, tmp_path):
    program("echo 'mpirun: not enough slots' >&2; exit 1")
    found = run(calculation(), tmp_path / "runs", Machine())
    assert found.problem.kind == "failed" and "not enough slots" in str(found.problem)
    program(printing("scf", 0))
    again = run(calculation(), tmp_path / "runs", Machine())
    assert again.complete, "a crash is tried again"
    assert (again.attempts, again.processor_seconds) == (1, 1.08), "and its time is not pw.x's fault"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "At line 761 of file xmltools.f90\nFortran runtime error: End of file\n\n#0  0x7fd6 in ???\n",
            "error: End of file",
        ),
        (
            "-----\nThere are not enough slots for the 4\nslots that were requested\n\n  1. Hostfile\n-----\n",
            "slots that were",
        ),
        ("Note: these floating-point exceptions are signalling\n", ""),
    ],
)
def test_complaint_is_what_was_said_first(text, said):
    assert said in complaint(text) and bool(said) == bool(complaint(text))


@pytest.mark.parametrize("settings", [{"timeout": float("nan")}, {"timeout": 0.0}, {"cores": 0}])
def test_machine_that_can_not_be(settings):
    with pytest.raises(ValueError, match="must be"):
        Machine(**settings)


def test_output_that_is_garbage(calculation, program, tmp_path):
    text = (PRINTED / "scf.pwo").read_text().replace("force =     0.0", "force = *****")  # overflow
    (tmp_path / "garbage.pwo").write_text(text)
    program(f"cat {tmp_path}/garbage.pwo")
    with pytest.raises(EspressoError, match=r"cannot be read.*look at it") as error:
        run(calculation(), tmp_path / "runs", Machine())
    assert error.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("01_espresso.pwo", lambda text: text[: len(text) // 2], "is no longer whole"),
        ("01_espresso.pwo", None, "No such file"),
        ("result.json", lambda text: text[:9], "is damaged"),
        ("result.json", lambda text: "{}", "is damaged"),
        ("result.json", lambda text: "[]", "is damaged"),
    ],
)
def test_kept_result_that_is_damaged(calculation, program, tmp_path, file, change, said):
    program(printing("scf", 0))
    place = run(calculation(), tmp_path / "runs", Machine()).folder
    text = (place / file).read_text()
    (place / file).unlink() if change is None else (place / file).write_text(change(text))
    with pytest.raises(EspressoError, match=rf"{said}.*remove its folder, and run again"):
        run(calculation(), tmp_path / "runs", Machine())


@pytest.mark.parametrize(
    ("word", "said"),
    [("ecutwf", "do you mean 'ecutwfc'"), ("calculation", "can not be set"), ("Outdir", "can not be set")],
)
def test_keywords_that_are_none(word, said):
    check_keywords(["ecutwfc", "starting_charge(1)", "nspin", "MIXING_BETA"])
    with pytest.raises(ValueError, match=said):
        check_keywords([word])


def test_missing_program_gets_one_sentence(calculation, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EspressoError, match=r"^pw.x is not on the PATH; install it: apt-get install quantum-espresso"):
        run(calculation(), tmp_path / "runs", Machine())
    with pytest.raises(EspressoError, match=r"^mpirun is not on the PATH; install it"):
        run(calculation(), tmp_path / "runs", Machine(cores=2))
    with pytest.raises(EspressoError, match=r"^srum is not on the PATH; mend --command 'srum pw.x'"):
        run(calculation(), tmp_path / "runs", Machine(command="srum pw.x"))


def test_mpi_only_for_more_than_one_core():
    assert (Machine().words, Machine(cores=4).words) == ("pw.x", "mpirun -np 4 pw.x")
    assert Machine(cores=4, command="srun pw.x -nk 2").words == "srun pw.x -nk 2"


def test_interruption_ends_the_program(calculation, program, tmp_path, monkeypatch):
    def interrupt(self, timeout=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    program(f"sleep 60; touch {tmp_path}/survived")
    monkeypatch.setattr(running.subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(calculation(), tmp_path / "runs", Machine())
    record = tmp_path / "runs" / calculation().name / running.RESULT
    assert not record.exists() or not json.loads(record.read_text())["finished"]
