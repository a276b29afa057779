"""A chemical formula as counts of elements: the input of every crystal structure prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import gcd
from numbers import Real

SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg "
    "Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
"""Chemical symbols by atomic number; number 0 is no element."""

ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number > 0}
ISOTOPE_MASSES = {"D": 2.01410178, "T": 3.01604928}
"""Deuterium and tritium (u), the isotopes with symbols of their own; to every model here they are hydrogen."""
IUPAC_ORDER = (
    "Og Rn Xe Kr Ar Ne He Fr Cs Rb K Na Li Ra Ba Sr Ca Mg Be Lr No Md Fm Es Cf Bk Cm Am Pu Np U Pa Th Ac Lu Yb Tm Er Ho "
    "Dy Tb Gd Eu Sm Pm Nd Pr Ce La Y Sc Rf Hf Zr Ti Db Ta Nb V Sg W Mo Cr Bh Re Tc Mn Hs Os Ru Fe Mt Ir Rh Co Ds Pt Pd Ni "
    "Rg Au Ag Cu Cn Hg Cd Zn Nh Tl In Ga Al B Fl Pb Sn Ge Si C Mc Bi Sb As P N H Lv Po Te Se S O Ts At I Br Cl F"
).split()
"""Chemical symbols as formulas order them: table VI of IUPAC's Nomenclature of Inorganic Chemistry (2005)."""
MAX_ATOMS = 10_000
"""More atoms than this in one cell is taken for a slip of the keyboard."""

_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_HYDRATE = re.compile(r"([.·•⋅∙*]\s*[\d.½]*|\s[\d.]+)\s*\(?H[2₂]O\)?\s*$")
_WATER = "write its water in brackets, like 'CuSO4(H2O)5'"
_APART = re.compile(r"(?<=[\d.])\s+\.?\d|\s+\d+\s*\(?H2O\)?$")
"""A number that a space parts from the one before, or from a salt whose water it counts: MgCl2 6H2O is no MgCl26H2O."""
_TOKEN = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)|(\()|\)(\d*\.?\d*)")


@dataclass(frozen=True)
class Composition:
    """How many atoms of each element one cell holds, in the order in which the formula names them.

    >>> Composition.parse("Mg(OH)2")
    Composition(counts=(('Mg', 1), ('O', 2), ('H', 2)))
    >>> Composition.parse("Mg(OH)2").reduced_formula, Composition.parse("Zr16Rh8O4").formula_units
    ('MgO2H2', 4)
    """

    counts: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not self.counts:
            raise ValueError("a composition needs at least one element, for example 'CsV3Sb5'")
        for symbol, count in self.counts:
            if symbol not in ATOMIC_NUMBERS:
                raise ValueError(f"{symbol!r} is not the symbol of an element")
            if count < 1:
                raise ValueError(f"the count of {symbol} is {count}; it must be at least 1")
        if self.num_atoms > MAX_ATOMS:
            raise ValueError(f"{self.num_atoms} atoms in one cell; at most {MAX_ATOMS} are allowed")

    @classmethod
    def parse(cls, formula: str | Mapping | Composition) -> Composition:
        """The composition of a formula, a mapping element → count, or a pymatgen ``Composition``."""
        if isinstance(formula, Composition):
            return formula
        if isinstance(formula, Mapping):
            amounts: dict[str, float] = {}
            for element, amount in formula.items():  # pymatgen's elements have symbols, also those with a charge
                symbol = str(getattr(element, "symbol", element))
                if not isinstance(amount, Real):
                    raise TypeError(f"the count of {symbol} is {amount!r}; give a number")
                amounts[symbol] = amounts.get(symbol, 0) + float(amount)
            return cls.from_counts(amounts)
        if not isinstance(formula, str):
            raise TypeError(f"a formula is a string or a mapping of elements to counts, not {type(formula).__name__}")
        return cls.from_counts(_parse_formula(formula), formula)

    @classmethod
    def from_counts(cls, amounts: Mapping[str, float], shown_as: str | None = None) -> Composition:
        """The composition of element → count, D and T being hydrogen; counts must be positive whole numbers."""
        shown = shown_as if shown_as is not None else "".join(f"{s}{a:g}" for s, a in amounts.items())
        counts = []
        for symbol, amount in _of_elements(amounts).items():
            if symbol not in ATOMIC_NUMBERS:
                raise ValueError(f"{shown!r} contains {symbol!r}, which is not the symbol of an element")
            if not 0 < amount < float("inf"):
                raise ValueError(f"{shown!r} has {amount:g} atoms of {symbol}; counts must be at least 1")
            if abs(amount - round(amount)) > 1e-8:
                remedy = _remedy(shown, "multiply the formula until they are")
                raise ValueError(f"{shown!r} has {amount:g} atoms of {symbol}; counts must be whole numbers: {remedy}")
            counts.append((symbol, round(amount)))
        return cls(tuple(counts))

    @classmethod
    def from_atomic_numbers(cls, atomic_numbers) -> Composition:
        """The composition of a list of atomic numbers, elements in order of first appearance."""
        amounts: dict[str, int] = {}
        for number in atomic_numbers:
            symbol = SYMBOLS[int(number)]
            amounts[symbol] = amounts.get(symbol, 0) + 1
        return cls.from_counts(amounts)

    @property
    def num_atoms(self) -> int:
        """The number of atoms in the cell."""
        return sum(count for _, count in self.counts)

    @property
    def formula_units(self) -> int:
        """The greatest common divisor of the counts (Z of the cell)."""
        return reduce(gcd, (count for _, count in self.counts))

    @property
    def atomic_numbers(self) -> list[int]:
        """One atomic number for each atom, element after element."""
        return [ATOMIC_NUMBERS[symbol] for symbol, count in self.counts for _ in range(count)]

    @property
    def formula(self) -> str:
        """The formula as counted, for example ``Zr16Rh8O4``."""
        return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in self.counts)

    @property
    def reduced_formula(self) -> str:
        """The formula of one formula unit, elements in the order given."""
        return self.reduced.formula

    @property
    def reduced(self) -> Composition:
        """One formula unit."""
        z = self.formula_units
        return Composition(tuple((symbol, count // z) for symbol, count in self.counts))

    @property
    def in_iupac_order(self) -> Composition:
        """The same atoms, elements in `IUPAC_ORDER`: one composition for all formulas of a content."""
        return Composition(tuple(sorted(self.counts, key=lambda pair: IUPAC_ORDER.index(pair[0]))))

    def __mul__(self, formula_units: int) -> Composition:
        return Composition(tuple((symbol, count * formula_units) for symbol, count in self.counts))

    def __str__(self) -> str:
        return self.formula


def reduced_key(atomic_numbers) -> tuple[tuple[int, int], ...]:
    """A hashable reduced formula, independent of order: ((atomic number, count), ...)."""
    numbers = sorted(int(number) for number in atomic_numbers)
    counts = {number: numbers.count(number) for number in set(numbers)}
    divisor = reduce(gcd, counts.values())
    return tuple(sorted((number, count // divisor) for number, count in counts.items()))


def element_of(symbol: str) -> str:
    """The symbol of the element that a symbol is of, also where it is that of an isotope.

    >>> element_of("D"), element_of("Dy")
    ('H', 'Dy')
    """
    return "H" if symbol in ISOTOPE_MASSES else symbol


def _of_elements(amounts: Mapping[str, float]) -> dict[str, float]:
    """Counts by element, those of isotopes added up."""
    found: dict[str, float] = {}
    for symbol, amount in amounts.items():
        element = element_of(symbol)
        found[element] = found.get(element, 0) + amount
    return found


def _parse_formula(formula: str) -> dict[str, float]:
    spaced = formula.translate(_SUBSCRIPTS).strip()
    if apart := _APART.search(spaced):
        raise ValueError(f"cannot read {formula!r} at {spaced[apart.start() :].strip()!r}; {_remedy(formula)}")
    text = "".join(spaced.split()).replace("[", "(").replace("]", ")")
    if not text:
        raise ValueError("the formula is empty; write it like 'CsV3Sb5'")
    stack: list[dict[str, float]] = [{}]
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or token.group(0) == "":
            raise ValueError(f"cannot read {formula!r} at {text[position:]!r}; {_remedy(formula)}")
        symbol, amount, opening, group_amount = token.groups()
        if opening:
            stack.append({})
        elif symbol:
            stack[-1][symbol] = stack[-1].get(symbol, 0) + _number(amount, formula)
        else:
            if len(stack) == 1:
                raise ValueError(f"{formula!r} closes a bracket that it never opened")
            group = stack.pop()
            for element, count in group.items():
                stack[-1][element] = stack[-1].get(element, 0) + count * _number(group_amount or "", formula)
        position = token.end()
    if len(stack) > 1:
        raise ValueError(f"{formula!r} opens a bracket that it never closes")
    return stack[0]


def _number(text: str, formula: str) -> float:
    if text == "":
        return 1.0
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"cannot read the count {text!r} in {formula!r}; {_remedy(formula)}") from None


def _remedy(formula: str, otherwise: str = "write it like 'CsV3Sb5' or 'Mg(OH)2'") -> str:
    return _WATER if _HYDRATE.search(formula) else otherwise
