"""CIF text → cell, coordinates and elements, a hundred times faster than a general parser where the CIF is simple.

Simple is what pymatgen, and with it the benchmarks, write: one data block, no multi-line values, a loop of symmetry
operations and a loop of fully occupied sites. Everything else goes to pymatgen. The result is the same, also in the order of
the atoms, in the rounding of 0.3333 to ⅓ and in the merging of sites closer than 10⁻⁴.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile

import numpy as np

from dao_ase.composition import ATOMIC_NUMBERS, SYMBOLS
from dao_ase.data.records import RejectedRecord
from dao_ase.data.space_group_names import operations_of_hall, operations_of_name

Cell = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Lattice (Å, rows are lattice vectors), fractional coordinates, atomic numbers."""

SITE_TOLERANCE = 1e-4
"""Sites whose fractional coordinates agree to this are one site, as in pymatgen's ``CifParser``."""

_LENGTHS = [re.compile(rf"^_cell_length_{axis}[ \t]+(\S+)[ \t]*$", re.MULTILINE) for axis in "abc"]
_ANGLES = [re.compile(rf"^_cell_angle_{axis}[ \t]+(\S+)[ \t]*$", re.MULTILINE) for axis in ("alpha", "beta", "gamma")]
_FORMULA = re.compile(r"""^_chemical_formula_sum\s+['"]?([^'"\n]+?)['"]?[ \t]*$""", re.MULTILINE)
_COUNT = re.compile(r"([A-Z][a-z]?)(\d*)")
_BLOCK = re.compile(r"^\s*data_", re.MULTILINE)
_TYPE = re.compile(r"([A-Z][a-z]?)(?:\d*[+-])?")
_SPACE_GROUP = re.compile(
    r"^_(?:symmetry_|space_group_)(?:space_group_)?(?:name_H\S*|name_Hall|Int_Tables_number|IT_number)[ \t]+(.+)$",
    re.MULTILINE,
)
_NAME = re.compile(r"_(?:symmetry_)?space_group_name_h[-_]m\w*")
_HALL = re.compile(r"_(?:symmetry_)?space_group_name_hall_?")
_GROUP_NUMBER = re.compile(r"_(?:symmetry|space_group)_(?:int_tables|it)_number_?")
_NOT_SAID = (".", "?", "")
_MAGNETIC_GROUP = re.compile(r"^_space_group_magn[._](?:ssg_)?(?:name|number)_?\S*[ \t]+(.+)$", re.MULTILINE)
_OPERATION = re.compile(r"'([^']*)'")
_TERM = re.compile(r"([+-]?)(?:([xyz])|(\d+)/(\d+)|(\d+\.\d*|\.\d+|\d+))")
_OPERATIONS_TAGS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_SITE_TAGS = ("_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")


UNKNOWN_SYMMETRY = "unknown symmetry"
"""The rule by which a CIF is refused whose sites cannot be repeated: those listed are not all atoms of the cell."""


class NotSimple(ValueError):
    """A CIF that the fast reader leaves to pymatgen."""


def read_cif(text: str) -> Cell:
    """Lattice, fractional coordinates and atomic numbers of the first structure in a CIF.

    >>> lattice, frac_coords, atomic_numbers = read_cif(open("NaCl.cif").read())      # doctest: +SKIP
    """
    try:
        cell = read_simple_cif(text)
    except (NotSimple, ArithmeticError):
        cell = read_any_cif(text)
    if lacking := missing_atoms(text, cell[2].tolist()):
        raise RejectedRecord("cut off", f"the CIF may have been cut off: {lacking}")
    return cell


def missing_atoms(text: str, atomic_numbers: Sequence[int]) -> str:
    """What is missing, in words, from the atoms of a CIF that ends with their list, by its own formula; "" for nothing.

    A file that was cut between two sites is right in every other respect. Not compared are formulas whose counts are not
    whole, and hydrogen, which many do not locate; a cell may hold the formula any number of times.
    """
    formula, found = _stated_formula(text), Counter(atomic_numbers)
    shares = [found[number] / count for number, count in formula.items() if number != 1]
    if not shares or set(found) - set(formula) or not _ends_with_sites(text):
        return ""
    if min(shares) >= 1 and min(shares) == max(shares):
        return ""
    return (
        f"its atoms are {_in_words(found)}, its formula is {_in_words(formula)}; complete the list of atoms, with which it "
        "ends, or mend its _chemical_formula_sum"
    )


def blocks_of(text: str) -> list[str]:
    """The data blocks of a CIF that have atoms; the whole text where there are not several.

    >>> [block.split()[0] for block in blocks_of("data_a\\n_atom_site_x\\ndata_remarks\\ndata_b\\n_atom_site_x\\n")]
    ['data_a', 'data_b']
    """
    blocks = [block for block in re.split(r"^(?=[ \t]*data_)", text, flags=re.MULTILINE) if "_atom_site" in block]
    return blocks if len(blocks) > 1 else [text]


def is_magnetic(text: str) -> bool:
    """Whether a CIF has magnetic moments or magnetic symmetry, whose operations only pymatgen reads."""
    return "_magn" in text or "_moment" in text


def read_simple_cif(text: str) -> Cell:
    """The fast path; raises `NotSimple` where it is not certain to give what pymatgen gives."""
    if len(_BLOCK.findall(text)) != 1 or "\n;" in text or is_magnetic(text) or not text.isascii():
        raise NotSimple("more than one block, a multi-line value or magnetic tags")
    head, *loops = re.split(r"^[ \t]*loop_[ \t]*\n", text, flags=re.MULTILINE)
    lattice = _lattice(*(_number(_only(pattern, head)) for pattern in (*_LENGTHS, *_ANGLES)))
    operations: tuple[str, ...] = ()
    sites: dict[str, list[str]] = {}
    for loop in loops:
        tags, body = _split_loop(loop)
        if any(tag in _OPERATIONS_TAGS for tag in tags):
            if operations:
                raise NotSimple("two loops of symmetry operations")
            operations = tuple(_OPERATION.findall(body))
            if len(operations) != len([line for line in body.splitlines() if line.strip()]):
                raise NotSimple("a symmetry operation without quotes")
        elif "_atom_site_fract_x" in tags:
            if sites:
                raise NotSimple("two loops of sites")
            sites = _columns(tags, body)
    if not operations or any(tag not in sites for tag in _SITE_TAGS):
        raise NotSimple("no symmetry operations, or sites without type symbols")
    if any(_number(value) != 1 for value in sites.get("_atom_site_occupancy", ())):
        raise NotSimple("partial occupancy")
    return lattice, *_expand(_elements(sites), _coordinates(sites), operations)


def read_any_cif(text: str) -> Cell:
    """The slow path: pymatgen's parser."""
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters is raised below
        try:
            text = _with_operations(_with_occupancies(text))
            parser = CifParser.from_str(text)
        except ZeroDivisionError as error:
            raise ValueError("it has a loop_ without columns or values; is the file complete?") from error
        said: list[str] = parser.warnings  # type: ignore[attr-defined]  # which grows while it reads
        try:
            structure = parser.parse_structures(primitive=False)[0]
        except ValueError as error:
            raise ValueError(" ".join([str(error), *said]).replace("\n", " ")) from error
        except (NotImplementedError, TypeError, IndexError, KeyError) as error:  # of operations that it does not know
            if not is_magnetic(text):
                raise
            raise RejectedRecord(UNKNOWN_SYMMETRY, f"its magnetic symmetry cannot be read: {error}") from error
    _refuse_unknown_symmetry(text, said)
    if not structure.is_ordered:
        site = next(site for site in structure if not site.is_ordered)
        raise RejectedRecord(
            "partial occupancy", f"a site holds {site.species_string}; only full occupancy can be used"
        )
    numbers = []
    for site in structure:
        symbol = getattr(site.specie, "element", site.specie).symbol
        if symbol not in ATOMIC_NUMBERS:
            raise RejectedRecord("unknown element", f"{site.species_string!r} is not the symbol of an element")
        numbers.append(ATOMIC_NUMBERS[symbol])
    return structure.lattice.matrix.copy(), structure.frac_coords, np.array(numbers, dtype=np.int64)


def _with_occupancies(text: str) -> str:
    """The CIF with 1 for each occupancy that is not given, as the standard has it, and pymatgen has not."""
    from pymatgen.io.cif import CifFile

    if not re.search(r"[ \t][.?](?:\s|$)", text) or "_atom_site_occupancy" not in text:
        return text
    file = CifFile.from_str(text)
    changed = False
    for block in file.data.values():
        given = block.data.get("_atom_site_occupancy")
        if isinstance(given, list) and {".", "?"} & set(given):
            block.data["_atom_site_occupancy"] = ["1" if one in (".", "?") else one for one in given]
            changed = True
    return str(file) if changed else text


def _with_operations(text: str) -> str:
    """The CIF with the operations of the space group that it names in a certain setting, where it lists none itself.

    pymatgen knows few settings by their names, and takes the standard one where the number of the group is beside a name.
    The number counts where nothing else is said: a name that is not in the table may be of another, centred cell (C -1).
    """
    from pymatgen.io.cif import CifFile, str2float

    if _lists_operations(text) or is_magnetic(text):
        return text
    file = CifFile.from_str(text)
    changed = False
    for block in file.data.values():
        said = {tag.lower(): value for tag, value in block.data.items() if isinstance(value, str)}
        angles = [str2float(said.get(f"_cell_angle_{name}", "90")) for name in ("alpha", "beta", "gamma")]
        names, halls, numbers = (
            [value for tag, value in said.items() if pattern.fullmatch(tag) and value.strip() not in _NOT_SAID]
            for pattern in (_NAME, _HALL, _GROUP_NUMBER)
        )
        found = [operations_of_name(one, angles) for one in names] + [operations_of_hall(one) for one in halls]
        found += [operations_of_name(one, angles) for one in numbers if not (names or halls)]
        if operations := next(filter(None, found), None):
            block.data[_OPERATIONS_TAGS[0]] = operations
            block.loops.append([_OPERATIONS_TAGS[0]])
            changed = True
    return str(file) if changed else text


def _lists_operations(text: str) -> bool:
    return any(tag in text for tag in _OPERATIONS_TAGS)


def _refuse_unknown_symmetry(text: str, warned: Sequence[str]) -> None:
    """Raises where a space group is named that pymatgen does not know, and takes for P1, for want of operations.

    Of a magnetic crystal it looks for magnetic ones alone.
    """
    named = [name.strip(" \t'\"") for name in [*_SPACE_GROUP.findall(text), *_MAGNETIC_GROUP.findall(text)]]
    others = [name for name in named if name.replace(" ", "") not in ("P1", "1", ".", "?", "")]
    if others and any("No magnetic symmetry detected" in one for one in warned):
        raise RejectedRecord(
            UNKNOWN_SYMMETRY,
            f"it is of a magnetic crystal and names the group {others[0]!r}, but lists no magnetic symmetry operations "
            "that pymatgen reads; list them (_space_group_symop_magn_operation.xyz), or take the moments out",
        )
    known = _lists_operations(text) or is_magnetic(text) or any("Spacegroup from" in one for one in warned)
    if others and not known:  # pymatgen took P1, or by its number the standard setting, which the name is not of
        raise RejectedRecord(
            UNKNOWN_SYMMETRY,
            f"it names the space group {others[0]!r}, which pymatgen does not know by this name, and lists no symmetry "
            "operations; list them (_symmetry_equiv_pos_as_xyz), or give the number of the space group alone, if its "
            "setting is the standard one",
        )


def _stated_formula(text: str) -> dict[int, int]:
    """How many atoms of which atomic number ``_chemical_formula_sum`` names; none where that is not plain."""
    stated = _FORMULA.findall(text)
    parts = [_COUNT.fullmatch(part) for part in stated[0].split()] if len(stated) == 1 else []
    counts = {ATOMIC_NUMBERS[part[1]]: int(part[2] or 1) for part in parts if part and part[1] in ATOMIC_NUMBERS}
    return counts if len(counts) == len(parts) and all(counts.values()) else {}


def _ends_with_sites(text: str) -> bool:
    """Whether nothing stands behind the sites, not even a comment."""
    last = re.split(r"^[ \t]*loop_", text, flags=re.MULTILINE)[-1]
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    tags = list(takewhile(lambda line: line.startswith("_"), lines))
    return "_atom_site_fract_x" in tags and not any(line.startswith(("_", "#")) for line in lines[len(tags) :])


def _in_words(counts: Mapping[int, int]) -> str:
    return " ".join(f"{SYMBOLS[number]}{count}" for number, count in counts.items() if count)


def _only(pattern: re.Pattern, text: str) -> str:
    found = pattern.findall(text)
    if len(found) != 1:
        raise NotSimple(f"{len(found)} values of {pattern.pattern}")
    return found[0]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise NotSimple(f"{text!r} is not a plain number") from None


def _lattice(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> np.ndarray:
    """The cell with c along z and a in the xz plane, as pymatgen's ``Lattice.from_parameters`` builds it."""
    cosines, sines = np.cos(np.radians([alpha, beta, gamma])), np.sin(np.radians([alpha, beta, gamma]))
    if not np.isfinite([a, b, c, alpha, beta, gamma]).all() or abs(sines[0] * sines[1]) < 1e-6:
        raise NotSimple("a cell without a volume")
    gamma_star = np.arccos(np.clip((cosines[0] * cosines[1] - cosines[2]) / (sines[0] * sines[1]), -1, 1))
    return np.array(
        [
            [a * sines[1], 0.0, a * cosines[1]],
            [-b * sines[0] * np.cos(gamma_star), b * sines[0] * np.sin(gamma_star), b * cosines[0]],
            [0.0, 0.0, c],
        ]
    )


def _split_loop(loop: str) -> tuple[list[str], str]:
    """The tags of a loop and its rows."""
    tags: list[str] = []
    rest = loop
    while rest.lstrip().startswith("_"):
        line, _, rest = rest.lstrip().partition("\n")
        if len(words := line.split()) > 1:
            raise NotSimple(f"values on the line of the tag {words[0]!r}")
        tags.append(words[0])
    return tags, rest


def _columns(tags: list[str], body: str) -> dict[str, list[str]]:
    if "'" in body or '"' in body or "#" in body or re.search(r"^[ \t]*_", body, re.MULTILINE):
        raise NotSimple("quotes, comments or tags among the sites")
    values = body.split()
    if not values or len(values) % len(tags):
        raise NotSimple(f"{len(values)} values in {len(tags)} columns")
    return {tag: values[column :: len(tags)] for column, tag in enumerate(tags)}


def _elements(sites: dict[str, list[str]]) -> list[str]:
    symbols: dict[str, str] = {}
    for kind in dict.fromkeys(sites["_atom_site_type_symbol"]):
        match = _TYPE.fullmatch(kind)
        if match is None or match[1] not in ATOMIC_NUMBERS or match[1] in symbols.values():
            raise NotSimple(f"type symbol {kind!r}")  # or one element in two oxidation states
        symbols[kind] = match[1]
    return [symbols[kind] for kind in sites["_atom_site_type_symbol"]]


def _coordinates(sites: dict[str, list[str]]) -> np.ndarray:
    """The coordinates of the sites; those within 10⁻⁴ of ⅓ and ⅔, relatively, are put there."""
    try:
        coords = np.array([sites[tag] for tag in _SITE_TAGS[1:]], dtype=np.float64).T
    except ValueError:
        raise NotSimple("a coordinate that is not a plain number") from None
    if not np.isfinite(coords).all():
        raise NotSimple("a coordinate that is not finite")
    for ideal in (1 / 3, 2 / 3):
        coords[np.abs(coords / ideal - 1) <= 1e-4] = ideal
    return coords


@lru_cache(maxsize=4096)
def _parse_operations(operations: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n×3×3) and translations (n×3) of operations such as ``-x+1/2, y, z``."""
    rotations, translations = np.zeros((len(operations), 3, 3)), np.zeros((len(operations), 3))
    for place, operation in enumerate(operations):
        parts = operation.replace(" ", "").lower().split(",")
        if len(parts) != 3:
            raise NotSimple(f"symmetry operation {operation!r}")
        for row, part in enumerate(parts):
            if not part or _TERM.sub("", part):
                raise NotSimple(f"symmetry operation {operation!r}")
            for sign, axis, numerator, denominator, decimal in _TERM.findall(part):
                factor = -1.0 if sign == "-" else 1.0
                if axis:
                    rotations[place, row, "xyz".index(axis)] += factor
                else:
                    translations[place, row] += factor * (
                        int(numerator) / int(denominator) if numerator else float(decimal)
                    )
    return rotations, translations


def _expand(elements: list[str], coords: np.ndarray, operations: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All sites of the cell: the elements by electronegativity, then the sites as listed, then the operations as listed."""
    place = _electronegativity_order()
    if any(symbol not in place for symbol in elements):
        raise NotSimple("an element without electronegativity, whose place pymatgen leaves open")
    order = np.argsort(np.array([place[symbol] for symbol in elements]), kind="stable")
    rotations, translations = _parse_operations(operations)
    orbits = np.einsum("oxy,sy->sox", rotations, coords[order]) + translations
    orbits -= np.floor(orbits)
    kept = [orbit[_first_of_each(orbit)] for orbit in orbits] if len(operations) > 1 else list(orbits)
    expanded = np.concatenate(kept)
    if len(_first_of_each(expanded)) != len(expanded):
        raise NotSimple("two sites at one place")
    numbers = np.array([ATOMIC_NUMBERS[elements[site]] for site in order], dtype=np.int64)
    return expanded, np.repeat(numbers, [len(orbit) for orbit in kept])


def _first_of_each(coords: np.ndarray) -> np.ndarray:
    """Indices of the coordinates that no earlier one repeats within `SITE_TOLERANCE`."""
    close = np.ones((len(coords), len(coords)), dtype=bool)
    for axis in range(3):
        shift = coords[:, None, axis] - coords[None, :, axis]
        close &= np.abs(shift - np.rint(shift)) < SITE_TOLERANCE
    first = close.argmax(axis=1)
    if not np.array_equal(close, first[:, None] == first):
        raise NotSimple("sites that are nearly, but not quite, one")
    return np.flatnonzero(first == np.arange(len(coords)))


@lru_cache(maxsize=1)
def _electronegativity_order() -> dict[str, int]:
    """Places of the elements in the order of ``Structure.get_sorted_structure``; without electronegativity, none."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {symbol: Element(symbol).X for symbol in ATOMIC_NUMBERS}
    ranks = sorted((value, symbol) for symbol, value in found.items() if value == value)
    return {symbol: rank for rank, (_, symbol) in enumerate(ranks)}
