"""Structures as one HTML file to look at: cards that sort, cells that turn, no network.

The page inlines 3Dmol.js (BSD-3-Clause) and its own script from ``dao_ase/assets``; what varies is one JSON block.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dao_ase import page
from dao_ase.composition import Composition
from dao_ase.database import SETTINGS, open_screen
from dao_ase.evaluate import match
from dao_ase.runs import SUMMARY, records_of
from dao_ase.symmetry import generated_space_group
from dao_ase.whole_files import write_text

if TYPE_CHECKING:
    from pymatgen.core import Structure


def write_gallery(
    structures: Iterable[Structure],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    reference: Structure | None = None,
) -> Path:
    """Writes the page and returns its path.

    Of ``structure.properties`` it shows, where present, ``energy_per_atom`` and ``e_above_hull`` (eV), ``space_group``
    (symbol), ``formula_units``, ``copies``, ``seed``, ``model`` and ``file``. A ``reference`` is shown first, and
    structures that match it carry their RMSE as in `dao_ase.evaluate.match`.

    >>> from pymatgen.core import Lattice, Structure
    >>> diamond = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
    >>> write_gallery([diamond], "gallery.html").name
    'gallery.html'
    """
    from dao_ase.convert import require_elements  # brings torch, which reading does without

    structures = list(structures)
    if not structures:
        raise ValueError("there is no structure to show; generate some first: dao-ase generate CsV3Sb5 -n 20 -o out/")
    for number, one in enumerate(structures):
        require_elements(one, f"structure {number}")
    if reference is not None:
        require_elements(reference, "the reference")
    records = [] if reference is None else [_record(reference, 0, None)]
    rmses = [None if reference is None else match(one, reference) for one in structures]
    records += [_record(one, rank, rmse) for rank, (one, rmse) in enumerate(zip(structures, rmses, strict=True), 1)]
    shown = structures if reference is None else [reference, *structures]
    symbols = (site.specie.symbol for one in shown for site in one)
    data = {"structures": records, "elements": page.elements(symbols), "compared": reference is not None}
    return write_text(Path(path), _page(title or _title(structures), data))


def read_run(directory: str | os.PathLike[str], limit: int | None = None) -> list[Structure]:
    """The structures of a directory, with their properties; of many the first ``limit``.

    What ``dao-ase generate`` wrote comes in the order of its summary, what ``dao-ase screen`` wrote by
    `ScreenDatabase.structures`: the best of each composition first.
    """
    from pymatgen.io.cif import CifParser

    directory = Path(directory)
    summary = directory / SUMMARY
    if (directory / SETTINGS).is_file():
        return open_screen(directory).structures(limit)
    if not summary.is_file():
        raise FileNotFoundError(
            f"{directory} has no {SUMMARY} and no {SETTINGS}; give the directory of 'dao-ase generate ... -o DIR' or of "
            "'dao-ase screen ... -o DIR'"
        )
    structures = []
    for record in records_of(summary)[:limit]:
        try:  # coordinates as they stand in the file: pymatgen would move 0.33333 to ⅓, with a warning
            structure = CifParser(directory / record["file"], frac_tolerance=0).parse_structures(primitive=False)[0]
        except ValueError as error:
            raise ValueError(f"'{directory / record['file']}' is damaged: {error}; generate it again") from error
        structure.properties = record
        structures.append(structure)
    return structures


def run_size(directory: str | os.PathLike[str]) -> int:
    """How many structures `read_run` finds in a directory, without a look at them."""
    directory = Path(directory)
    if (directory / SETTINGS).is_file():
        return sum(line.structures for line in open_screen(directory).done())
    return len(records_of(directory / SUMMARY))


def _record(structure: Structure, rank: int, rmse: float | None) -> dict[str, Any]:
    """What the page's script reads of one structure; lengths in Å, volume in Å³/atom, density in g/cm³."""
    properties = structure.properties or {}
    known, energy, height = (properties.get(name) for name in ("space_group", "energy_per_atom", "e_above_hull"))
    symbol, number = generated_space_group(structure)
    lattice = structure.lattice
    formula = Composition.from_atomic_numbers(structure.atomic_numbers).formula
    return {
        "rank": rank,
        "isReference": rank == 0,
        "formula": formula,
        "energy": energy if energy is not None and math.isfinite(energy) else None,  # JSON has no NaN
        "aboveHull": height if height is not None and math.isfinite(height) else None,
        "copies": properties.get("copies"),
        "spaceGroup": known or symbol,
        "spaceGroupNumber": number,
        "formulaUnits": properties.get("formula_units"),
        "prototype": properties.get("prototype"),
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


def _title(structures: Sequence[Structure]) -> str:
    """One formula if all share it, else how many there are."""
    formulas = list(dict.fromkeys(structure.composition.reduced_formula for structure in structures))
    return "Structures of " + (", ".join(formulas) if len(formulas) <= 3 else f"{len(formulas)} compositions")


def _page(title: str, data: dict[str, Any]) -> str:
    """The page of the template."""
    return page.fill("gallery.html", {"title": html.escape(title), "data": page.as_script(data)}, "gallery.js")
