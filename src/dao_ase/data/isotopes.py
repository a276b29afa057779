"""Deuterium and tritium in XYZ files and POSCARs, whose readers in ASE know elements alone: hydrogen, with their masses."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from dao_ase.composition import ISOTOPE_MASSES, element_of
from dao_ase.data.reading import ending

if TYPE_CHECKING:
    from ase import Atoms


def is_poscar(path: Path) -> bool:
    """Whether a file's name is that of a POSCAR.

    >>> is_poscar(Path("a/POSCAR_2")), is_poscar(Path("LiD.vasp")), is_poscar(Path("LiD.xyz"))
    (True, True, False)
    """
    return ending(path) == ".vasp" or path.name.startswith(("POSCAR", "CONTCAR"))


def atoms_of_xyz(text: str) -> Atoms:
    """ASE's atoms of one frame of an extended XYZ file."""
    lines = text.split("\n")
    found = {place: _first(line) for place, line in enumerate(lines[2:]) if _first(line) in ISOTOPE_MASSES}
    for place, symbol in found.items():
        lines[2 + place] = lines[2 + place].replace(symbol, element_of(symbol), 1)
    return _with_masses("\n".join(lines), "extxyz", found)


def names_isotopes(poscar: str) -> bool:
    """Whether the line of symbols of a POSCAR (the sixth) has one of an isotope."""
    return bool(set(ISOTOPE_MASSES) & set(_symbols(poscar)))


def atoms_of_poscar(text: str) -> Atoms:
    """ASE's atoms of a POSCAR that names its elements."""
    symbols, lines = _symbols(text), text.split("\n")
    counts = [int(count) for count in lines[6].split()]
    each = [symbol for symbol, count in zip(symbols, counts, strict=True) for _ in range(count)]
    lines[5] = " ".join(map(element_of, symbols))
    found = {place: symbol for place, symbol in enumerate(each) if symbol in ISOTOPE_MASSES}
    return _with_masses("\n".join(lines), "vasp", found)


def _with_masses(text: str, format: str, isotopes: dict[int, str]) -> Atoms:
    from ase.io import read

    atoms = read(StringIO(text), format=format)
    assert not isinstance(atoms, list)  # one frame
    if isotopes and "masses" not in atoms.arrays:
        masses = atoms.get_masses()
        masses[list(isotopes)] = [ISOTOPE_MASSES[symbol] for symbol in isotopes.values()]
        atoms.set_masses(masses)
    return atoms


def _first(line: str) -> str:
    return line.split(maxsplit=1)[0] if line.strip() else ""


def _symbols(poscar: str) -> list[str]:
    lines = poscar.split("\n", 6)
    return lines[5].split() if len(lines) > 6 else []
