"""pw.x itself, which never repeats what it has finished.

A calculation lives in a folder named after its content, so the same question finds the same folder: the answer if there is
one, else the place to go on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dao_ase.espresso import output
from dao_ase.espresso.calculation import INPUT, Calculation, write_input
from dao_ase.espresso.errors import EspressoError
from dao_ase.whole_files import write_json

log = logging.getLogger(__name__)

PRINTED, COMPLAINTS, RESULT = "espresso.pwo", "espresso.err", "result.json"
INSTALL = "apt-get install quantum-espresso libopenblas0-serial, or conda install -c conda-forge qe"
AGAIN = "remove its folder, and run again"
GRACE = 120.0
"""Seconds that pw.x gets beyond its time to finish the step at hand and save its state."""


@dataclass(frozen=True)
class Machine:
    """How pw.x is run: on how many cores, for how long (s) at most a calculation, by which command."""

    cores: int = 1
    timeout: float = 3600.0
    command: str | None = None

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ValueError(f"cores is {self.cores}; it must be at least 1")
        if not self.timeout > 0:  # nor is nan
            raise ValueError(f"timeout is {self.timeout} s; it must be positive")

    @property
    def words(self) -> str:
        """The command; MPI only where there is more than one core."""
        if self.command:
            return self.command
        return "pw.x" if self.cores == 1 else f"mpirun -np {self.cores} pw.x"

    def require_program(self) -> None:
        """Says in one sentence what to do when the program is not there."""
        for program in (self.words.split()[0], *(["pw.x"] if "pw.x" in self.words.split() else [])):
            if shutil.which(program) is None:
                remedy = (
                    f"install it: {INSTALL}" if program in ("pw.x", "mpirun") else f"mend --command {self.command!r}"
                )
                raise EspressoError("no program", f"{program} is not on the PATH; {remedy}")


@dataclass(frozen=True)
class Result:
    """What came of a calculation; ``attempts`` that continue each other took ``processor_seconds`` (all ranks) and
    ``wall_seconds`` together. One that could not be continued, because pw.x crashed or was killed, counts for nothing.
    """

    output: output.Output
    processor_seconds: float
    wall_seconds: float
    attempts: int
    folder: Path
    problem: EspressoError | None = None

    @property
    def complete(self) -> bool:
        """Whether pw.x came to its end and converged."""
        return self.problem is None


def is_finished(calculation: Calculation, folder: str | Path) -> bool:
    """Whether the result of a calculation is in ``folder`` already."""
    return bool(_record(Path(folder) / calculation.name).get("finished"))


def run(calculation: Calculation, folder: str | Path, machine: Machine) -> Result:
    """The result of a calculation, from ``folder`` if it is there, by pw.x if not.

    A run that was out of time is continued where it stopped. A calculation that fails, stops or does not converge is a
    result too, with ``problem`` set and the steps until then. Raised is only what keeps pw.x from running at all.
    """
    place = Path(folder) / calculation.name
    if not is_finished(calculation, folder):
        machine.require_program()
    with _alone(place):
        record = _record(place)
        if not record.get("finished"):
            record = _attempt(calculation, place, machine, record)
            write_json(place / RESULT, record)
    return _result(calculation, place, record)


def earlier(calculation: Calculation, folder: str | Path) -> Result | None:
    """What attempts until now have come to, without another one; None where there was none."""
    place = Path(folder) / calculation.name
    record = _record(place)
    return _result(calculation, place, record) if record["attempts"] else None


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Waits until no other process works in this folder."""
    import fcntl  # not on Windows, where pw.x is not either

    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        with suppress(OSError):  # some file systems of clusters have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _record(place: Path) -> dict[str, Any]:
    """What is known of earlier attempts."""
    file = place / RESULT
    if not file.exists():
        return {"attempts": []}
    try:
        record = cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
        return record | {"attempts": record["attempts"]}
    except (ValueError, KeyError, TypeError) as error:
        raise EspressoError("unreadable", f"{file} is damaged ({error}); {AGAIN}") from error


def _attempt(calculation: Calculation, place: Path, machine: Machine, record: dict[str, Any]) -> dict[str, Any]:
    """Runs pw.x once more, and adds to the record how long and how it ended."""
    number = len(record["attempts"]) + 1
    before = record["attempts"]
    restart = bool(before) and before[-1]["restart"] and (place / "state").is_dir()
    if before and not restart:
        before = [*before[:-1], before[-1] | {"restart": False}]
    write_input(calculation, place, machine.timeout, restart)
    printed = place / f"{number:02d}_{PRINTED}"
    started, spent = time.perf_counter(), _processor_seconds()
    code, killed = _execute(machine, place, printed)
    wall, spent = time.perf_counter() - started, _processor_seconds() - spent
    found = _parse(printed)
    log.info("%s: attempt %d, %.1f s", place.name, number, wall)
    # one that ended by itself would end the same way again, converged or not; one that crashed may have been unlucky
    finished = found.done and not found.out_of_time
    if finished or not found.done:
        shutil.rmtree(place / "state", ignore_errors=True)  # gigabytes of wave functions, of use only for going on
    attempt = {
        "printed": printed.name, "code": code, "killed": killed,
        "restart": found.out_of_time and found.done,
        "wall_seconds": found.wall_seconds or round(wall, 2),
        "processor_seconds": round(spent, 2)
        if found.processor_seconds is None  # it was killed before it could print its own
        else found.processor_seconds * found.ranks,
    }  # fmt: skip
    return {"finished": finished, "attempts": [*before, attempt], "content": calculation.name}


def _processor_seconds() -> float:
    """Processor time of all programs that this process has started and seen the end of."""
    import resource  # not on Windows

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _execute(machine: Machine, place: Path, printed: Path) -> tuple[int, bool]:
    """The exit code of pw.x, and whether it had to be killed. One thread a rank, so that cores are what was asked for."""
    from ase.calculators.espresso import EspressoProfile

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("ESPRESSO_PSEUDO", None)
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Open MPI refuses root unless told twice
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = EspressoProfile(machine.words, place / "pseudo").get_command(INPUT)
    with printed.open("wb") as out, (place / COMPLAINTS).open("wb") as complaints, _stoppable():
        process = subprocess.Popen(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=out, stderr=complaints, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(machine.timeout + GRACE), False
        except subprocess.TimeoutExpired:
            return _kill(process), True
        except BaseException:
            _kill(process)
            raise


@contextmanager
def _stoppable() -> Iterator[None]:
    """A batch system that ends this process also ends pw.x: SIGTERM becomes an exception for a while, if it is none yet."""
    main = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _kill(process: subprocess.Popen[bytes]) -> int:
    """Ends pw.x and the ranks that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _parse(printed: Path) -> output.Output:
    try:
        return output.parse(printed.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise EspressoError("unreadable", f"{printed} cannot be read ({error.strerror}); {AGAIN}") from error
    except (ValueError, IndexError, KeyError, AssertionError) as error:  # what ASE's reader raises on a broken file
        raise EspressoError(
            "unreadable", f"{printed} cannot be read ({type(error).__name__}: {error}); look at it, {AGAIN}"
        ) from error


def _result(calculation: Calculation, place: Path, record: dict[str, Any]) -> Result:
    """The last attempt and those that it continues: the steps of each, in order, and the sum of their times."""
    attempts = record["attempts"]
    begun = max((index for index, one in enumerate(attempts[:-1], 1) if not one["restart"]), default=0)
    attempts = attempts[begun:]
    parts = [_parse(place / attempt["printed"]) for attempt in attempts]
    steps = [step for part in parts for step in part.steps]
    last = parts[-1]
    whole = output.Output(
        **{**vars(last), "steps": steps, "scf_iterations": sum(part.scf_iterations for part in parts)}
    )
    if record["finished"] and not last.done:
        printed = place / attempts[-1]["printed"]
        raise EspressoError("unreadable", f"{printed} is no longer whole, as it once was; {AGAIN}")
    problem = _problem(calculation, place, attempts[-1], last)
    processor = sum(attempt["processor_seconds"] for attempt in attempts)
    wall = sum(attempt["wall_seconds"] for attempt in attempts)
    return Result(whole, round(processor, 2), round(wall, 2), len(attempts), place, problem)


def _problem(
    calculation: Calculation, place: Path, attempt: Mapping[str, Any], last: output.Output
) -> EspressoError | None:
    """Why this is not a result, with the remedy; None when all is well."""
    if attempt["killed"] or last.out_of_time:
        return EspressoError(
            "out of time",
            f"{place.name}: stopped after {attempt['wall_seconds']:.0f} s, {last.scf_iterations} SCF iterations and "
            f"{len(last.steps)} ionic steps; "
            + ("the same command continues it" if attempt["restart"] else "give it more with --timeout"),
        )
    if not last.scf_converged:
        return EspressoError(
            "not converged",
            f"{place.name}: the SCF did not converge in {last.scf_iterations} iterations; try --set mixing_beta=0.2, "
            "--set degauss=0.03 or --set electron_maxstep=300",
        )
    if not last.done:
        said = last.message or complaint((place / COMPLAINTS).read_text(errors="replace"))
        said = said or f"it ended with code {attempt['code']}"
        return EspressoError("failed", f"{place.name}: pw.x failed: {said}; its output is {place / attempt['printed']}")
    if calculation.task != "scf" and not last.relaxed:
        return EspressoError(
            "not converged", f"{place.name}: not relaxed after {len(last.steps)} steps; try --set nstep=300"
        )
    if not last.steps:
        return EspressoError(
            "unreadable", f"{place.name}: pw.x ended well but printed no energy; look at {place / attempt['printed']}"
        )
    return None


def complaint(text: str) -> str:
    """What a program that broke off said first; its rulers, its backtrace and its advice are no help.

    >>> complaint("-----\\nThere are not enough slots to satisfy the 4\\nslots that were requested\\n\\n  1. Hostfile\\n")
    'There are not enough slots to satisfy the 4 slots that were requested'
    """
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if re.search("[a-z]", line) and not line.startswith(("#", "Note:"))]
    return " ".join(words[:2])


def blas() -> str | None:
    """The file of the linear algebra library that pw.x calls; None where that cannot be found out."""
    program, tool = shutil.which("pw.x"), shutil.which("ldd")
    if program is None or tool is None:
        return None
    listed = subprocess.run([tool, program], capture_output=True, text=True, check=False).stdout
    files = [line.partition("=>")[2].split()[0] for line in listed.splitlines() if "blas" in line and "=> /" in line]
    return os.path.realpath(files[0]) if files else None
