"""What pw.x printed: energies, forces, stress and geometry of every ionic step, SCF iterations, and the time it took."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

RYDBERG = 13.605693122994
"""eV."""
STOPPED = ("Maximum CPU time exceeded", "Program stopped by user request")
"""By ``max_seconds``, or by a file ``pwscf.EXIT`` that someone put into the calculation's folder."""
NOT_CONVERGED = "convergence NOT achieved"
RELAXED = re.compile(r"bfgs converged in|(Damped Dynamics|FIRE): convergence achieved|convergence achieved, +Efinal=")
"""By BFGS, or by what ``ion_dynamics`` and ``cell_dynamics`` name in its place."""
CLOCK = re.compile(r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:([\d.]+)s)?\s*$")


@dataclass(frozen=True)
class IonicStep:
    """One geometry on the way: lattice and positions (Å), energy (eV), forces (eV/Å), stress (eV/Å³, ASE's sign).

    ``accuracies`` are the estimated errors of the energy (eV) after each SCF iteration.
    """

    lattice: NDArray[np.float64]
    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None
    accuracies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Output:
    """A whole output file. Times in seconds, by pw.x's own clocks, of one rank; None where it did not get to print them."""

    version: str
    ranks: int
    electrons: float | None
    k_points: int | None
    steps: list[IonicStep]
    scf_iterations: int
    processor_seconds: float | None
    wall_seconds: float | None
    done: bool
    out_of_time: bool
    scf_converged: bool
    relaxed: bool
    message: str

    @property
    def final(self) -> IonicStep:
        """The last geometry that has an energy."""
        return self.steps[-1]


def parse(text: str) -> Output:
    """Reads the text of an output file, also of one that ends in the middle."""
    accuracies = _accuracies(text)
    steps = [
        IonicStep(**geometry, accuracies=accuracies[index] if index < len(accuracies) else [])
        for index, geometry in enumerate(_geometries(text))
    ]
    # "PWSCF        :     20.28s CPU     41.67s WALL", the last line of the table of clocks
    clock = re.search(r"^\s*PWSCF\s*:(.*?)CPU(.*?)WALL", text, re.MULTILINE)
    version = re.search(r"Program PWSCF\s+v\.?\s*(\S+)", text)
    ranks = re.search(r"Parallel version \(MPI.*?running on\s+(\d+)\s+proc", text, re.DOTALL)
    electrons = re.search(r"number of electrons\s*=\s*([\d.]+)", text)
    k_points = re.search(r"number of k points=\s*(\d+)", text)
    return Output(
        version=version[1] if version else "",
        ranks=int(ranks[1]) if ranks else 1,
        electrons=float(electrons[1]) if electrons else None,
        k_points=int(k_points[1]) if k_points else None,
        steps=steps,
        scf_iterations=len(re.findall(r"^\s*iteration #", text, re.MULTILINE)),
        processor_seconds=seconds(clock[1]) if clock else None,
        wall_seconds=seconds(clock[2]) if clock else None,
        done="JOB DONE." in text,
        out_of_time=any(words in text for words in STOPPED),
        scf_converged=NOT_CONVERGED not in text,
        relaxed=RELAXED.search(text) is not None,
        message=_message(text),
    )


def seconds(clock: str) -> float:
    """A time as pw.x writes it.

    >>> seconds("1h 2m"), seconds(" 12m35.07s "), seconds("4.3s")
    (3720.0, 755.07, 4.3)
    """
    found = CLOCK.match(clock.strip())
    if found is None:
        raise ValueError(f"{clock!r} is not a time that pw.x writes")
    days, hours, minutes, rest = (float(part or 0) for part in found.groups())
    return round(86400 * days + 3600 * hours + 60 * minutes + rest, 2)


def _accuracies(text: str) -> list[list[float]]:
    """Estimated errors (eV) of the SCF iterations of each ionic step."""
    found = []
    for part in text.split("Self-consistent Calculation")[1:]:
        errors = re.findall(r"estimated scf accuracy\s*<\s*([\d.E+-]+)", part)
        found.append([float(error) * RYDBERG for error in errors])
    return found


def _geometries(text: str) -> list[dict[str, Any]]:
    """Lattice, positions, energy, forces and stress of each step that has an energy, by ASE's reader."""
    from ase.io.espresso import read_espresso_out

    if not re.search(r"^!\s+total energy", text, re.MULTILINE):
        return []
    found = []
    for atoms in read_espresso_out(io.StringIO(text), index=slice(None)):
        results = atoms.calc.results
        if "energy" in results:
            found.append({
                "lattice": atoms.cell.array.copy(), "positions": atoms.positions.copy(),
                "energy": float(results["energy"]), "forces": results.get("forces"),
                "stress": _full(results.get("stress")),
            })  # fmt: skip
    return found


def _full(stress: Any) -> NDArray[np.float64] | None:
    from ase.stress import voigt_6_to_full_3x3_stress

    return None if stress is None else np.asarray(voigt_6_to_full_3x3_stress(stress))


def _message(text: str) -> str:
    """What stands between two lines of percent signs: pw.x's own error message."""
    found = re.search(r"^\s*%{20,}\s*$(.*?)^\s*%{20,}\s*$", text, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""
