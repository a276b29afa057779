"""Offline HTML pages that draw crystals: templates and scripts from ``dao_ase/assets``, everything in one file.

They inline 3Dmol.js (BSD-3-Clause), which draws, and ``crystal.js``, which says what of a crystal is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from operator import methodcaller
from typing import Any


def fill(template: str, parts: Mapping[str, str], script: str) -> str:
    """The template with its parts put in; one pass, so that no part is searched for another's mark."""
    known = {
        "css": _asset("gallery.css"),
        "licence": _asset("3Dmol-LICENSE.txt"),
        "viewer": _asset("3Dmol-min.js"),
        "script": _asset("crystal.js") + _asset(script),
    } | dict(parts)
    text, *pieces = _asset(template).split("{{")
    for piece in pieces:
        name, _, rest = piece.partition("}}")
        text += known[name] + rest
    return text


def as_script(data: Any) -> str:
    """JSON that may stand in a script element; numbers may be NumPy's, or tensors."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=methodcaller("item"))
    return text.replace("</", "<\\/")  # "</" would end the element, whatever the JSON says


def elements(symbols: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Covalent radius (Å) and colour of every element that is shown.

    >>> elements(["Si", "O"])["Si"]["radius"]
    1.11
    """
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    table = {}
    for symbol in sorted(set(symbols)):
        number = atomic_numbers[symbol]
        red, green, blue = (round(255 * part) for part in jmol_colors[number])
        table[symbol] = {"radius": float(covalent_radii[number]), "color": f"#{red:02x}{green:02x}{blue:02x}"}
    return table


def _asset(name: str) -> str:
    return (files("dao_ase") / "assets" / name).read_text(encoding="utf-8")
