"""Pseudopotentials of Goedecker, Teter and Hutter: files ``.gth`` as pw.x reads them, and CP2K's list of all elements.

The local part is Gaussian of width r₀; projector i of the angular momentum l is, in reciprocal space, a polynomial times
a Gaussian whose highest term is q^k exp(−q²r²/2), k = l + 2(i − 1). They state no cutoff, but these tails give one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LIST = "GTH_POTENTIALS"
"""The name of CP2K's list; Debian's package ``cp2k-data`` has it."""
TAIL = 0.05
"""Where a projector has fallen to this part of its peak, plane waves end: osmium's pressure is then within 1 GPa."""
PBE_CODES = (11, -101130)
"""Numbers of the functional, after ABINIT."""


@dataclass(frozen=True)
class Gth:
    """One pseudopotential: atomic number, whether it is PBE, and the cutoff (Ry) at which its tails have fallen."""

    atomic_number: int
    is_pbe: bool
    ecutwfc: float


def read_gth(text: str) -> Gth | None:
    """What a file for pw.x says; None for one that is none."""
    lines = text.splitlines()[1:]
    try:
        atomic_number, (code, functional) = float(lines[0].split()[0]), map(int, lines[1].split()[:2])
        if code not in (10, 12):
            return None
        numbers = iter(_numbers(lines[2:]))
        local, projectors = _local(numbers), []
        for momentum in range(int(next(numbers))):
            projectors.append(_projectors(numbers))
            if momentum:  # spin-orbit coefficients, as many again
                _take(numbers, len(projectors[-1]) - 2)
    except (ValueError, IndexError, StopIteration):
        return None
    widths = [(momentum, int(one[1]), one[0]) for momentum, one in enumerate(projectors)]
    return Gth(round(atomic_number), functional in PBE_CODES, cutoff(local[0], int(local[1]), widths))


def cutoff(width: float, terms: int, projectors: Sequence[tuple[int, int, float]]) -> float:
    """Ry. ``projectors`` are angular momentum, number and width (bohr) of each channel.

    The local part joins waves that are up to twice as far apart as the cutoff.
    """
    ends = [end(2 * (terms - 1)) / (2 * width)] if terms else []
    ends += [end(momentum + 2 * (count - 1)) / r for momentum, count, r in projectors if count]
    return max(ends, default=0.0) ** 2


def end(power: int) -> float:
    """The x beyond its peak at which x^power exp(−x²/2) has fallen to `TAIL` of it.

    >>> round(end(0), 3), round(end(4), 2)
    (2.448, 3.92)
    """
    peak = math.sqrt(power)

    def height(x: float) -> float:
        return (power * math.log(x) if power else 0.0) - x * x / 2

    low, high = peak, peak + 10.0
    top = height(peak) if power else 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if height(middle) - top > math.log(TAIL) else (low, middle)
    return low


def from_list(text: str, element: str, atomic_number: int) -> tuple[str, str] | None:
    """Name and text of the file for pw.x that CP2K's list gives an element in PBE; None where it has none."""
    head = (
        rf"^\s*{element}\s+(?P<names>[^\n]*\bGTH-PBE(?=\s|$)[^\n]*)\n"  # a default has the functional's name alone, too
    )
    found = re.search(head + r"(?P<rest>[^#]*?)(?=^\s*[A-Za-z#]|\Z)", text, re.MULTILINE)
    if found is None:
        return None
    electrons, *rest = found["rest"].splitlines()
    charge = sum(map(int, electrons.split()))
    numbers = iter(_numbers(rest))
    local = _local(numbers)
    channels = [_projectors(numbers) for _ in range(int(next(numbers)))]
    name = found["names"].split()[0]
    lines = [
        f"{element} {name}, of CP2K",
        f"{atomic_number} {charge} 0",
        f"10 11 {max(len(channels) - 1, 0)} 0 0 0",
        _line(local),
        f"{len(channels)}",
    ]
    for momentum, channel in enumerate(channels or [[0.2, 0]]):
        lines += _channel(momentum, *channel)
    return f"{element}_{name}.gth", "\n".join(lines) + "\n"


def _channel(momentum: int, width: float, count: float, *values: float) -> list[str]:
    """Width, number and coefficients of an angular momentum, row by row; the spin-orbit ones are zero."""
    rest, rows = list(values), []
    for length in range(int(count), 0, -1):
        rows.append(rest[:length])
        rest = rest[length:]
    first, *others = rows or [[]]
    spin_orbit = [[0.0] * len(row) for row in rows] if momentum else []
    return [_line(row) for row in ([width, count, *first], *others, *spin_orbit)]


def _numbers(lines: Sequence[str]) -> Iterator[float]:
    for line in lines:
        for word in line.split():
            try:
                yield float(word.lower().replace("d", "e"))
            except ValueError:  # the rest of a line may say what its numbers are
                break


def _take(numbers: Iterator[float], count: int) -> list[float]:
    return [next(numbers) for _ in range(count)]


def _local(numbers: Iterator[float]) -> list[float]:
    """Width, number of coefficients, coefficients."""
    head = _take(numbers, 2)
    return head + _take(numbers, int(head[1]))


def _projectors(numbers: Iterator[float]) -> list[float]:
    """Width, number n of projectors, and the upper half of their n × n coefficients."""
    head = _take(numbers, 2)
    count = int(head[1])
    return head + _take(numbers, count * (count + 1) // 2)


def _line(numbers: Sequence[float]) -> str:
    """Numbers in full; whole ones may be counts."""
    return " ".join(f"{one:.14g}" for one in numbers)
