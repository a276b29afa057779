"""Pseudopotential files (UPF, both versions), found by element; of each, what its header says."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dao_ase.espresso.errors import EspressoError

DEBIAN = Path("/usr/share/espresso/pseudo")
"""Where the Debian package ``quantum-espresso-data`` keeps its pseudopotentials: about 25 elements, functionals mixed."""
KINDS = ("norm-conserving", "ultrasoft", "paw")
HEADER = 65_536
"""Bytes of a file in which its header ends."""
WHERE_TO_GET = "PseudoDojo (pseudo-dojo.org) and SSSP (materialscloud.org/sssp) have PBE sets to download"


@dataclass(frozen=True)
class Pseudopotential:
    """One file: its element, kind, functional, and the cutoffs (Ry) that it states, 0 where it states none."""

    file: Path
    element: str
    kind: str
    functional: str
    fully_relativistic: bool
    ecutwfc: float
    ecutrho: float

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell this file from others."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()[:16]


def directories(given: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """Where pseudopotentials are looked for: ``given``, then ``ESPRESSO_PSEUDO``, then the Debian package's."""
    named = os.environ.get("ESPRESSO_PSEUDO")
    folders = [*map(Path, given), *([Path(named)] if named else []), DEBIAN]
    return list(dict.fromkeys(folders))


def find(elements: Iterable[str], folders: Sequence[Path], functional: str = "PBE") -> dict[str, Pseudopotential]:
    """One pseudopotential for each element, from the first folder that has one of this functional.

    Where a folder has several: scalar relativistic before spin-orbit, stated cutoffs before none, then by name.
    """
    missing = [str(folder) for folder in folders[:-1] if not folder.is_dir()]
    if missing:
        raise EspressoError("no pseudopotential", f"there is no folder {', '.join(missing)}; mend --pseudo-dir")
    chosen = {}
    for element in sorted(set(elements)):
        candidates = [one for folder in folders for one in sorted(_of_element(folder, element), key=_preference)]
        fitting = [one for one in candidates if one.functional == functional]
        if not fitting:
            others = ", ".join(f"{one.file.name} ({one.functional})" for one in candidates)
            raise EspressoError(
                "no pseudopotential",
                f"no {functional} pseudopotential of {element} in {', '.join(map(str, folders))}"
                + (f" (there is {others}, but functionals must not be mixed)" if others else "")
                + f"; {WHERE_TO_GET}: name their folder with --pseudo-dir or ESPRESSO_PSEUDO",
            )
        chosen[element] = fitting[0]
    return chosen


def read(file: Path) -> Pseudopotential | None:
    """What the header of a UPF file says; None for a file that has none."""
    with file.open("rb") as stream:
        text = stream.read(HEADER).decode("utf-8", errors="replace")
    found = re.search(r"<PP_HEADER(.*?)(/>|</PP_HEADER>)", text, re.DOTALL)
    if found is None:
        return None
    header = found[1]
    fields = dict(re.findall(r"(\w+)\s*=\s*\"\s*(.*?)\s*\"", header, re.DOTALL))
    return _version_2(file, fields) if "z_valence" in fields else _version_1(file, header)


def _version_2(file: Path, fields: dict[str, str]) -> Pseudopotential:
    kind = {"NC": "norm-conserving", "PAW": "paw"}.get(fields.get("pseudo_type", ""), "ultrasoft")
    if fields.get("pseudo_type") == "SL":
        kind = "norm-conserving"
    return Pseudopotential(
        file, fields["element"].strip(), kind, _functional(fields.get("functional", "")),
        fields.get("relativistic") == "full" or fields.get("has_so", "f").lower().startswith("t"),
        _number(fields.get("wfc_cutoff")), _number(fields.get("rho_cutoff")),
    )  # fmt: skip


def _version_1(file: Path, header: str) -> Pseudopotential | None:
    lines = {
        words.strip(): value.strip() for value, words in re.findall(r"^\s*(.*?)\s{2,}([A-Z].*)$", header, re.MULTILINE)
    }
    value = {words.split()[0].rstrip("-"): found for words, found in lines.items() if words.split()}
    functional = re.search(r"^\s*(.*?)\s*Exchange-Correlation", header, re.MULTILINE)
    kinds = {"NC": "norm-conserving", "US": "ultrasoft", "PAW": "paw"}
    kind = next((kinds[word] for word in kinds if re.search(rf"^\s*{word}\s", header, re.MULTILINE)), None)
    cutoffs = re.search(r"^\s*(\S+)\s+(\S+)\s+Suggested", header, re.MULTILINE)
    if "Element" not in value or functional is None or kind is None:
        return None
    wave, density = (_number(cutoffs[1]), _number(cutoffs[2])) if cutoffs else (0.0, 0.0)
    return Pseudopotential(
        file, value["Element"], kind, _functional(functional[1]), ".rel-" in file.name, wave, density
    )


def _functional(words: str) -> str:
    """``SLA PW PBX PBC`` and ``PBE`` are the same; others keep their words."""
    tidy = " ".join(words.upper().split())
    if tidy == "PBE" or re.search(r"SLA[ +-]*PW[ +-]*(PBX[ +-]*PBC|PBE[ +-]*PBE)", tidy):
        return "PBE"
    if tidy.startswith(("SLA PZ", "PZ")):
        return "LDA"
    return tidy


def _of_element(folder: Path, element: str) -> list[Pseudopotential]:
    """Files named after the element, as in ``Si.pbe-rrkj.UPF`` and ``Si_ONCV_PBE_sr.upf``, whose header agrees."""
    if not folder.is_dir():
        return []
    named = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() == ".upf" and re.match(rf"{element}([._-]|$)", file.stem, re.IGNORECASE)
    ]
    found = [read(file) for file in named]
    return [one for one in found if one is not None and one.element == element]


def _preference(one: Pseudopotential) -> tuple[bool, bool, str]:
    return one.fully_relativistic, one.ecutwfc == 0, one.file.name


def _number(text: str | None) -> float:
    try:
        return float((text or "0").lower().replace("d", "e"))
    except ValueError:
        return 0.0
