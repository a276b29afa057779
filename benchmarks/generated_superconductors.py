"""Structures that DAO-G makes for compositions whose Tc was measured but of which no ordered structure is known.

3DSC gives such compositions: most of its structures are doped, with sites that are partly occupied. Those that are whole
numbers of atoms in a cell that DAO-G was trained for (Ba0.5K0.5Fe2As2 is BaKFe4As4) are sampled once each, with the defaults
of `DAOGenerator`. What was made is kept in a folder, one file for each `CHUNK`, and not made again with the same weights.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pymatgen.core import Composition as Formula

from dao_ase import checkpoint
from dao_ase.composition import Composition, reduced_key
from dao_ase.data.sources import open_source
from dao_ase.generator import DAOGenerator
from dao_ase.properties.superconductors import LEAST
from dao_ase.properties.table import PropertyTable, Target, read_table
from dao_ase.train.potential_task import HELD_OUT_FORMULAS
from dao_ase.whole_files import write_text

CHUNK = 16
TOLERANCE = 1e-3
"""By how much an amount in a formula may be rounded: 0.333 is a third."""


def generated_table(
    data: Path, target: Target, trained: Collection[int], n: int, folder: Path, seed: int
) -> tuple[PropertyTable, dict[str, Any]]:
    """One structure of each of up to ``n`` compositions with its Tc (K), and what was used; held-out ones are left out."""
    generator = DAOGenerator()
    weights = hashlib.sha256(checkpoint.default_weights("dao_g").read_bytes()).hexdigest()[:12]
    wanted = [
        (cell, tc)
        for cell, tc in without_structure(data / "3dsc_mp.jsonl.gz", generator.max_atoms)
        if {symbol for symbol, _ in cell.counts} <= set(generator.elements)
    ]
    wanted.sort(key=lambda one: hashlib.sha256(f"{seed}:{one[0].formula}".encode()).digest())
    files = []
    for start in range(0, len(wanted[:n]), CHUNK):
        chunk = wanted[start : min(start + CHUNK, n)]
        files.append(folder / f"{weights}-{seed}-{start}-{start + len(chunk)}.jsonl")
        if not files[-1].is_file():
            write_text(files[-1], _sampled(generator, chunk, target.name, start, seed))
    table = read_table([open_source(file) for file in files], target, trained, exclude=HELD_OUT_FORMULAS)
    return table, {"compositions": len(wanted[:n]), "structures": len(table), "weights of DAO-G": weights}


def without_structure(file: Path, largest: int) -> list[tuple[Composition, float]]:
    """The cell and the Tc (K) of each formula of 3DSC that has no ordered structure but fits into ``largest`` atoms."""
    ordered: set[tuple] = set()
    found: dict[tuple, tuple[Composition, float]] = {}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            cell = whole_cell(Formula(row["formula"]).get_el_amt_dict(), largest)
            if cell is None:
                continue
            key = reduced_key(cell.atomic_numbers)
            tc = row["tc_by_formula"]
            if row["is_ordered"]:
                ordered.add(key)
            elif tc is not None and tc >= LEAST:
                found.setdefault(key, (cell, float(tc)))
    return [one for key, one in found.items() if key not in ordered]


def whole_cell(amounts: Mapping[str, float], largest: int) -> Composition | None:
    """The fewest whole atoms in these proportions, if they are at most ``largest``.

    >>> whole_cell({"Ba": 0.5, "K": 0.5, "Fe": 2, "As": 2}, 20).formula
    'BaKFe4As4'
    """
    total = sum(amounts.values())
    for atoms in range(1, largest + 1):
        scaled = {symbol: amount * atoms / total for symbol, amount in amounts.items()}
        if all(round(a) >= 1 and abs(a - round(a)) <= TOLERANCE * atoms / total for a in scaled.values()):
            return Composition.from_counts({symbol: round(amount) for symbol, amount in scaled.items()})
    return None


def _sampled(
    generator: DAOGenerator, chunk: list[tuple[Composition, float]], column: str, start: int, seed: int
) -> str:
    """Lines of JSON as the data layer reads them: one structure of each composition that the gates let through."""
    lines = []
    for place, structure in generator.numbered([cell for cell, _ in chunk], 1, seed=1000 * seed + start):
        cell, tc = chunk[place]
        sites = [[[[site.specie.symbol, 1.0]], site.frac_coords.tolist()] for site in structure]
        entry = {"id": f"{start + place}-{cell.formula}", column: tc, "lattice": structure.lattice.matrix.tolist()}
        lines.append(json.dumps({**entry, "sites": sites}) + "\n")
    return "".join(lines)
