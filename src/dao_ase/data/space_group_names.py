"""Operations of space groups by the names of their settings: P 21/n is P 21/c with other axes, Fd-3m has two origins.

The table is spglib's, 530 settings of 230 groups.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

CHOICES = {"S": "1", "Z": "2"}
"""How databases call the first and the second origin."""
MONOCLINIC = range(3, 16)
"""Numbers of the groups whose unique axis may be a, b or c."""
CENTRIC_CUBIC = (*range(200, 207), *range(221, 231))
"""Numbers of the groups whose threefold axis had no bar in old names: Fd3m for Fd-3m."""
GLIDES = ("bc", "ca", "ab")
"""Letters that e stands for across x, y and z: of the standard axes and those turned; of the others."""
SETTINGS = 530


def operations_of_name(name: str, angles: Sequence[float]) -> list[str] | None:
    """Operations ("-x, y+1/2, -z") of a Hermann-Mauguin name or number in a cell with these angles (degrees).

    Short names, such as P 21/n, are of the axis whose angle is not right; R groups of the axes that the cell has. Where
    neither the name (Fd-3m:2) nor the cell says the setting, it is the first of the International Tables, as pymatgen has
    it; None for a name that is not known. Letters may be small or large, names old (Cmca, Fd3m).

    >>> operations_of_name("P 21/n", (90, 99, 90))[2]
    '-x+1/2, y+1/2, -z+1/2'
    """
    bare = re.sub(r"[\s_()]", "", name).lower()
    table = _table()
    settings, choice = table.get(bare, []), ""
    if not settings and (parts := re.fullmatch(r"(.+?):?([12hrsz])", bare)):
        settings, choice = table.get(parts[1], []), CHOICES.get(parts[2].upper(), parts[2].upper())
    if not settings:
        return None
    fitting = [one for one in settings if _fits(one, choice, angles)]
    return _operations((fitting or settings)[0].hall_number)


def operations_of_hall(symbol: str) -> list[str] | None:
    """Operations of a Hall symbol, which says the setting, too; None for one that is not in the table.

    >>> operations_of_hall("-P 2yn")[1]
    '-x, -y, -z'
    """
    number = _hall_numbers().get(" ".join(symbol.split()).lower())
    return None if number is None else _operations(number)


def _fits(setting: Any, choice: str, angles: Sequence[float]) -> bool:
    """Whether a setting is of this choice or, where none is named, of the axes of a cell with these angles."""
    if choice:
        return setting.choice.startswith(choice)
    if setting.number in MONOCLINIC:
        oblique = [axis for axis, angle in zip("abc", angles, strict=True) if abs(angle - 90) > 1e-3]
        return (oblique[0] if len(oblique) == 1 else "b") in setting.choice
    if setting.choice in ("H", "R"):
        return (setting.choice == "H") == (abs(angles[0] - 90) < 1 and abs(angles[2] - 120) < 1)
    return True


@lru_cache(maxsize=1)
def _table() -> dict[str, list[Any]]:
    """Of each name and number the settings, as spglib describes them, in the order of its table."""
    import spglib

    table: dict[str, list[Any]] = {}
    for number in range(1, SETTINGS + 1):
        setting: Any = spglib.get_spacegroup_type(number)
        for name in _names(setting):
            table.setdefault(name, []).append(setting)
    return table


def _names(setting: Any) -> set[str]:
    """Number and names of a setting, full and short, new and old, in small letters without spaces."""
    full = setting.international_full.split()
    monoclinic = setting.number in MONOCLINIC  # whose short name in the table is that of the standard setting
    short = [full[0], *(part for part in full[1:] if part != "1")] if monoclinic else setting.international.split()
    letters = [pair["-" in setting.choice] for pair in GLIDES]
    names = {str(setting.number)}
    for first, *axes in (full, short):
        old = [part.replace("e", letter) for part, letter in zip(axes, letters, strict=False)]
        names |= {"".join([first, *axes]), "".join([first, *old])}
        if setting.number in CENTRIC_CUBIC:
            names.add("".join([first, *axes]).replace("-3", "3"))
    return {name.replace("_", "").lower() for name in names}


@lru_cache(maxsize=1)
def _hall_numbers() -> dict[str, int]:
    """The first place in spglib's table of each Hall symbol, in small letters."""
    import spglib

    symbols: list[Any] = [spglib.get_spacegroup_type(number) for number in range(SETTINGS, 0, -1)]
    return {" ".join(one.hall_symbol.split()).lower(): one.hall_number for one in symbols}


def _operations(setting: int) -> list[str]:
    import spglib
    from pymatgen.core import SymmOp

    found: Any = spglib.get_symmetry_from_database(setting)
    return [
        SymmOp.from_rotation_and_translation(rotation, translation).as_xyz_str()
        for rotation, translation in zip(found["rotations"], found["translations"], strict=True)
    ]
