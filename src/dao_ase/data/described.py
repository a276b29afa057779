"""Structures that a text describes: pymatgen's JSON, and what a cell of a table may hold in place of a CIF."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.composition import ATOMIC_NUMBERS, element_of
from dao_ase.data.cif import Cell, read_cif
from dao_ase.data.reading import parsed_json
from dao_ase.data.records import RejectedRecord

if TYPE_CHECKING:
    from pymatgen.core import Structure

FULL = 0.999
"""A site is fully occupied from here on."""
IS_CIF = re.compile(r"^\s*(?:data_|loop_|_cell_length_a)", re.MULTILINE | re.IGNORECASE)
NUMBERS = re.compile(r"[-+.\deEdD]+(?:\s+[-+.\deEdD]+)*")
"""A line of numbers alone, such as the second to fifth of a POSCAR."""


def cell_of_text(text: str) -> Cell:
    """The crystal of a CIF, of pymatgen's JSON, or of a POSCAR that names its elements; anything else is refused."""
    if text.lstrip().startswith("{"):
        try:
            return cell_of_structure(structure_in(parsed_json(text)))
        except ValueError as error:
            if isinstance(error, RejectedRecord):
                raise
            reason = f"it begins as the JSON of a structure, but is none: {error}; a CIF can be read, too"
            raise RejectedRecord("broken", reason) from error
    if IS_CIF.search(text):
        return read_cif(text)
    if _is_poscar(text):
        return _cell_of_poscar(text)
    shown = " ".join(text[:60].split())
    raise RejectedRecord(
        "broken", f"{shown!r} begins no CIF, nor a POSCAR or pymatgen's JSON; structure.to(fmt='cif') writes a CIF"
    )


def structure_in(entry: Any) -> Mapping[str, Any] | None:
    """The ``Structure.as_dict`` that an entry of pymatgen or the Materials Project is or holds; None where there is none.

    >>> structure_in({"material_id": "mp-22862", "structure": {"lattice": {"matrix": []}, "sites": []}})
    {'lattice': {'matrix': []}, 'sites': []}
    """
    for one in (entry, entry.get("structure")) if isinstance(entry, Mapping) else ():
        if isinstance(one, Mapping) and isinstance(one.get("lattice"), Mapping) and isinstance(one.get("sites"), list):
            return one
    return None


def cell_of_structure(structure: Mapping[str, Any] | None, identifier: str = "") -> Cell:
    """The crystal of a ``Structure.as_dict``; one with a partly occupied site or a free surface is refused."""
    if structure is None:
        raise RejectedRecord("broken", "it holds no structure of pymatgen's, which has a lattice and sites", identifier)
    lattice, sites = structure["lattice"], structure["sites"]
    if not all(lattice.get("pbc") or (True,)):
        reason = f"pbc is {list(lattice['pbc'])}; a crystal is periodic in three directions"
        raise RejectedRecord("not periodic", reason, identifier)
    kinds = [[(one["element"], one["occu"]) for one in site["species"]] for site in sites]
    return (
        np.array(lattice["matrix"], dtype=np.float64),
        np.array([site["abc"] for site in sites], dtype=np.float64).reshape(-1, 3),
        numbers_of([ordered_symbol(kind, identifier) for kind in kinds], identifier),
    )


def ordered_symbol(species: Sequence[Sequence[Any]], identifier: str) -> str:
    """The element of a site that one element occupies fully; any other site is partial occupancy."""
    if len(species) != 1 or float(species[0][1]) < FULL:
        shown = ", ".join(f"{symbol} {float(share):g}" for symbol, share in species)
        reason = f"a site holds {shown}; only full occupancy can be used"
        raise RejectedRecord("partial occupancy", reason, identifier)
    return str(species[0][0])


def numbers_of(symbols: Sequence[str], identifier: str) -> np.ndarray:
    """The atomic numbers of these symbols, of which those of isotopes are read as hydrogen."""
    elements = [element_of(symbol) for symbol in symbols]
    unknown = sorted(set(elements) - set(ATOMIC_NUMBERS))
    if unknown:
        raise RejectedRecord("unknown element", f"{unknown[0]!r} is not the symbol of an element", identifier)
    return np.array([ATOMIC_NUMBERS[symbol] for symbol in elements], dtype=np.int64)


def _is_poscar(text: str) -> bool:
    """Whether a text has a POSCAR's scale and cell in its second to fifth line."""
    scale, *rows = (line.strip() for line in [*text.strip("\r\n").splitlines()[1:5], ""][:4])
    return (
        len(rows) == 3
        and NUMBERS.fullmatch(scale) is not None
        and all(NUMBERS.fullmatch(row) is not None and len(row.split()) == 3 for row in rows)
    )


def _cell_of_poscar(text: str) -> Cell:
    """By pymatgen's reader, which must not need to guess the elements."""
    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Elements in POSCAR", BadPoscarWarning)
        try:
            structure: Structure = Poscar.from_str(text.lstrip("\r\n"), read_velocities=False).structure
        except BadPoscarWarning as error:
            reason = "it is a POSCAR without the symbols of its elements, which stand in its sixth line since VASP 5"
            raise RejectedRecord("broken", reason) from error
    return cell_of_structure(structure.as_dict())
