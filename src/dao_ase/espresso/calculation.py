"""One run of pw.x: its input, made by ASE, and the program itself, which never repeats what it has finished.

A calculation lives in a folder named after its content, so the same question finds the same folder: the answer if there is
one, else the place to go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.espresso import output
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.presets import Preset
from dao_ase.espresso.pseudopotentials import Pseudopotential
from dao_ase.whole_files import write_json

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger(__name__)

TASKS = ("scf", "relax", "vc-relax")
INPUT, PRINTED, COMPLAINTS, RESULT = "espresso.pwi", "espresso.pwo", "espresso.err", "result.json"
INSTALL = "apt-get install quantum-espresso libopenblas0-serial, or conda install -c conda-forge qe"
GRACE = 120.0
"""Seconds that pw.x gets beyond its time to finish the step at hand and save its state."""


@dataclass(frozen=True)
class Machine:
    """How pw.x is run: on how many cores, for how long (s) at most a calculation, by which command."""

    cores: int = 1
    timeout: float = 3600.0
    command: str | None = None

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
                raise EspressoError("no program", f"{program} is not on the PATH; install it: {INSTALL}")


@dataclass(frozen=True)
class Calculation:
    """What pw.x is asked: a task on atoms, with a preset and pseudopotentials; ``extra`` are further keywords of pw.x.

    ``grid`` are the k-points; without them, as many as the preset says.
    """

    atoms: Atoms
    task: str
    preset: Preset
    pseudopotentials: Mapping[str, Pseudopotential]
    extra: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task {self.task!r} is none of {', '.join(TASKS)}")

    @property
    def k_grid(self) -> tuple[int, int, int]:
        """Γ-centred k-points along each reciprocal vector."""
        return self.grid or self.preset.grid(self.atoms.cell.array)

    @property
    def elements(self) -> list[str]:
        """Symbols, in the order in which they first appear."""
        return list(dict.fromkeys(self.atoms.get_chemical_symbols()))

    @property
    def moments(self) -> list[float] | None:
        """The moment (μB) from which each atom starts, or None for a calculation without spin."""
        symbols = self.atoms.get_chemical_symbols()
        if not self.preset.spin or not set(symbols) & set(self.preset.moments):
            return None
        return [float(self.preset.moments.get(symbol, 0.0)) for symbol in symbols]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of pw.x (Ry, bohr), without those that say where and how long it runs."""
        count, preset = len(self.atoms), self.preset
        wave, density, _ = preset.cutoffs([self.pseudopotentials[one] for one in self.elements])
        words: dict[str, Any] = {
            "calculation": self.task, "tprnfor": True, "tstress": True,
            "ecutwfc": wave, "ecutrho": density,
            "occupations": "smearing", "smearing": preset.smearing, "degauss": preset.degauss,
            "conv_thr": preset.conv_thr * count, "electron_maxstep": preset.electron_maxstep,
            "mixing_beta": preset.mixing_beta,
        }  # fmt: skip
        if self.task != "scf":
            words |= {
                "etot_conv_thr": preset.etot_conv_thr * count,
                "forc_conv_thr": preset.forc_conv_thr,
                "nstep": 100,
            }
        if self.task == "vc-relax":
            words["press_conv_thr"] = preset.press_conv_thr
        if self.moments is not None:
            words["nspin"] = 2
        return words | dict(self.extra)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits of everything that decides the result."""
        content = {
            "numbers": self.atoms.numbers.tolist(),
            "lattice": np.round(self.atoms.cell.array, 7).tolist(),
            "positions": np.round(self.atoms.positions, 7).tolist(),
            "keywords": self.keywords,
            "grid": self.k_grid,
            "moments": self.moments,
            "pseudopotentials": {one: self.pseudopotentials[one].digest for one in self.elements},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.atoms.get_chemical_formula()}-{self.task}-{self.key}"

    def is_finished(self, folder: Path) -> bool:
        """Whether its result is there already."""
        return bool(_record(folder / self.name).get("finished"))


@dataclass(frozen=True)
class Result:
    """What came of a calculation; all attempts together took ``processor_seconds`` (all ranks) and ``wall_seconds``."""

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


def run(calculation: Calculation, folder: Path, machine: Machine) -> Result:
    """The result of a calculation, from ``folder`` if it is there, by pw.x if not.

    A run that was out of time is continued where it stopped. A calculation that fails, stops or does not converge is a
    result too, with ``problem`` set and the steps until then. Raised is only what keeps pw.x from running at all.
    """
    place = folder / calculation.name
    if not calculation.is_finished(folder):
        machine.require_program()
    with _alone(place):
        record = _record(place)
        if not record.get("finished"):
            record = _attempt(calculation, place, machine, record)
            write_json(place / RESULT, record)
    return _result(calculation, place, record, machine)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Waits until no other process works in this folder."""
    import fcntl  # not on Windows, where pw.x is not either

    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _record(place: Path) -> dict[str, Any]:
    """What is known of earlier attempts."""
    file = place / RESULT
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"attempts": []}


def _attempt(calculation: Calculation, place: Path, machine: Machine, record: dict[str, Any]) -> dict[str, Any]:
    """Runs pw.x once more, and adds to the record how long and how it ended."""
    number = len(record["attempts"]) + 1
    restart = bool(record["attempts"]) and record["attempts"][-1]["restart"] and (place / "state").is_dir()
    _write_input(calculation, place, machine, restart)
    printed = place / f"{number:02d}_{PRINTED}"
    started = time.perf_counter()
    code, killed = _execute(machine, place, printed)
    wall = time.perf_counter() - started
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
        "processor_seconds": None if found.processor_seconds is None else found.processor_seconds * found.ranks,
    }  # fmt: skip
    return {"finished": finished, "attempts": [*record["attempts"], attempt], "content": calculation.name}


def _write_input(calculation: Calculation, place: Path, machine: Machine, restart: bool) -> None:
    """The input file, and beside it links to the pseudopotentials, so that it names no folder of this machine."""
    from ase.calculators.espresso import Espresso, EspressoProfile

    (place / "pseudo").mkdir(parents=True, exist_ok=True)
    for element in calculation.elements:
        file = calculation.pseudopotentials[element].file
        link = place / "pseudo" / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(file.resolve())
    atoms = calculation.atoms.copy()
    words = calculation.keywords | {
        "outdir": "state", "pseudo_dir": "pseudo", "max_seconds": machine.timeout,
        "restart_mode": "restart" if restart else "from_scratch",
    }  # fmt: skip
    if calculation.moments is not None:
        words |= _magnetization(calculation)
    Espresso(
        profile=EspressoProfile(machine.words, place / "pseudo"),
        directory=place,
        input_data=words,
        pseudopotentials={one: calculation.pseudopotentials[one].file.name for one in calculation.elements},
        kpts=calculation.k_grid,
    ).write_inputfiles(atoms, ["energy", "forces", "stress"])


def _magnetization(calculation: Calculation) -> dict[str, float]:
    """The start of each species, between −1 and 1, in the order in which ASE lists them. A tenth per μB is near enough."""
    moments = dict(zip(calculation.atoms.get_chemical_symbols(), calculation.moments or [], strict=True))
    return {
        f"starting_magnetization({index})": min(moments[element] / 10, 1.0)
        for index, element in enumerate(calculation.elements, 1)
    }


def _execute(machine: Machine, place: Path, printed: Path) -> tuple[int, bool]:
    """The exit code of pw.x, and whether it had to be killed. One thread a rank, so that cores are what was asked for."""
    from ase.calculators.espresso import EspressoProfile

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("ESPRESSO_PSEUDO", None)
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Open MPI refuses root unless told twice
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = EspressoProfile(machine.words, place / "pseudo").get_command(INPUT)
    with printed.open("wb") as out, (place / COMPLAINTS).open("wb") as complaints:
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


def _kill(process: subprocess.Popen[bytes]) -> int:
    """Ends pw.x and the ranks that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _parse(printed: Path) -> output.Output:
    try:
        return output.parse(printed.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, IndexError, KeyError, AssertionError) as error:  # what ASE's reader raises on a broken file
        raise EspressoError(
            "unreadable",
            f"{printed} cannot be read ({type(error).__name__}: {error}); look at it, remove its folder, and run again",
        ) from error


def _result(calculation: Calculation, place: Path, record: dict[str, Any], machine: Machine) -> Result:
    """All attempts together: the steps of each, in order, and the sum of their times."""
    attempts = record["attempts"]
    parts = [_parse(place / attempt["printed"]) for attempt in attempts]
    steps = [step for part in parts for step in part.steps]
    last = parts[-1]
    whole = output.Output(
        **{**vars(last), "steps": steps, "scf_iterations": sum(part.scf_iterations for part in parts)}
    )
    problem = _problem(calculation, place, attempts[-1], last, machine)
    processor = sum(attempt["processor_seconds"] or attempt["wall_seconds"] for attempt in attempts)
    wall = sum(attempt["wall_seconds"] for attempt in attempts)
    return Result(whole, round(processor, 2), round(wall, 2), len(attempts), place, problem)


def _problem(
    calculation: Calculation, place: Path, attempt: Mapping[str, Any], last: output.Output, machine: Machine
) -> EspressoError | None:
    """Why this is not a result, with the remedy; None when all is well."""
    if attempt["killed"] or last.out_of_time:
        return EspressoError(
            "out of time",
            f"{place.name}: not finished in {machine.timeout:.0f} s after {last.scf_iterations} SCF iterations and "
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
        complaint = (place / COMPLAINTS).read_text(errors="replace").strip().splitlines()
        said = last.message or (complaint[-1] if complaint else f"it ended with code {attempt['code']}")
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
