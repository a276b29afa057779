"""Structures as one HTML file to look at: cards that sort, cells that turn, no network.

The page inlines 3Dmol.js (BSD-3-Clause) and its own script from ``dao_ase/assets``; what varies is one JSON block.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_ase.composition import Composition
from dao_ase.evaluate import match
from dao_ase.runs import SUMMARY
from dao_ase.whole_files import write_text

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMMETRY_TOLERANCE = 0.1
"""Å by which atoms may miss their ideal places when a structure comes without a space group."""


def write_gallery(
    structures: Sequence[Structure],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    reference: Structure | None = None,
) -> Path:
    """Writes the page and returns its path.

    Of ``structure.properties`` it shows, where present, ``energy_per_atom`` (eV), ``space_group`` (symbol),
    ``formula_units``, ``seed``, ``model`` and ``file``. A ``reference`` is shown first, and structures that match it carry
    their RMSE as in `dao_ase.evaluate.match`.

    >>> from pymatgen.core import Lattice, Structure
    >>> diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    >>> write_gallery([diamond], "gallery.html").name
    'gallery.html'
    """
    if not structures:
        raise ValueError("there is no structure to show; generate some first: dao-ase generate CsV3Sb5 -n 20 -o out/")
    records = [] if reference is None else [_record(reference, 0, None)]
    rmses = [None if reference is None else match(one, reference) for one in structures]
    records += [_record(one, rank, rmse) for rank, (one, rmse) in enumerate(zip(structures, rmses, strict=True), 1)]
    shown = list(structures) if reference is None else [reference, *structures]
    data = {"structures": records, "elements": _elements(shown), "compared": reference is not None}
    return write_text(Path(path), _page(title or _title(structures), data))


def read_run(directory: str | os.PathLike[str]) -> list[Structure]:
    """The structures of a directory that ``dao-ase generate`` wrote, in the order of its summary, with their properties."""
    from pymatgen.io.cif import CifParser

    directory = Path(directory)
    summary = directory / SUMMARY
    if not summary.is_file():
        raise FileNotFoundError(f"{directory} has no {SUMMARY}; give the directory of 'dao-ase generate ... -o DIR'")
    structures = []
    for record in json.loads(summary.read_text(encoding="utf-8"))["structures"]:
        # coordinates as they stand in the file: pymatgen would move 0.33333 to ⅓, with a warning
        structure = CifParser(directory / record["file"], frac_tolerance=0).parse_structures(primitive=False)[0]
        structure.properties = record
        structures.append(structure)
    return structures


def _record(structure: Structure, rank: int, rmse: float | None) -> dict[str, Any]:
    """What the page's script reads of one structure; lengths in Å, volume in Å³/atom, density in g/cm³."""
    properties = structure.properties or {}
    known, energy = properties.get("space_group"), properties.get("energy_per_atom")
    symbol, number = structure.get_space_group_info(symprec=SYMMETRY_TOLERANCE)
    lattice = structure.lattice
    formula = Composition.from_atomic_numbers(structure.atomic_numbers).formula
    return {
        "rank": rank,
        "isReference": rank == 0,
        "formula": formula,
        "energy": energy if energy is not None and math.isfinite(energy) else None,  # JSON has no NaN
        "spaceGroup": known or symbol,
        "spaceGroupNumber": number,
        "formulaUnits": properties.get("formula_units"),
        "seed": properties.get("seed"),
        "model": properties.get("model"),
        "rmse": rmse,
        "volume": structure.volume / len(structure),
        "density": float(structure.density),
        "cell": f"a, b, c = {lattice.a:.3f}, {lattice.b:.3f}, {lattice.c:.3f} Å; "
        f"α, β, γ = {lattice.alpha:.2f}, {lattice.beta:.2f}, {lattice.gamma:.2f}°",
        "file": properties.get("file") or ("reference.cif" if rank == 0 else f"{rank:03d}_{formula}.cif"),
        "lattice": lattice.matrix.round(4).tolist(),
        "species": [site.specie.symbol for site in structure],
        "frac": structure.frac_coords.round(5).tolist(),
        "cif": structure.copy().relabel_sites().to(fmt="cif"),  # a CIF's site labels must be unique
    }


def _elements(structures: Iterable[Structure]) -> dict[str, dict[str, Any]]:
    """Covalent radius (Å) and colour of every element that is shown."""
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    symbols = sorted({site.specie.symbol for structure in structures for site in structure})
    table = {}
    for symbol in symbols:
        number = atomic_numbers[symbol]
        red, green, blue = (round(255 * part) for part in jmol_colors[number])
        table[symbol] = {"radius": float(covalent_radii[number]), "color": f"#{red:02x}{green:02x}{blue:02x}"}
    return table


def _title(structures: Sequence[Structure]) -> str:
    """One formula if all share it, else how many there are."""
    formulas = list(dict.fromkeys(structure.composition.reduced_formula for structure in structures))
    return "Structures of " + (", ".join(formulas) if len(formulas) <= 3 else f"{len(formulas)} compositions")


def _page(title: str, data: dict[str, Any]) -> str:
    """The template with its parts put in; one pass, so that no part is searched for another's mark."""
    assets = files("dao_ase") / "assets"
    parts = {
        "title": html.escape(title),
        "css": (assets / "gallery.css").read_text(encoding="utf-8"),
        "licence": (assets / "3Dmol-LICENSE.txt").read_text(encoding="utf-8"),
        # "</" would end the script element, whatever the JSON says
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/"),
        "viewer": (assets / "3Dmol-min.js").read_text(encoding="utf-8"),
        "script": (assets / "gallery.js").read_text(encoding="utf-8"),
    }
    text, *pieces = (assets / "gallery.html").read_text(encoding="utf-8").split("{{")
    for piece in pieces:
        name, _, rest = piece.partition("}}")
        text += parts[name] + rest
    return text
