"""Pseudopotential files (UPF, both versions, and `gth`), found by element; of each, what its header says."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.gth import LIST, from_list, read_gth

DEBIAN = Path("/usr/share/espresso/pseudo")
"""Where the Debian package ``quantum-espresso-data`` keeps its pseudopotentials: about 25 elements, functionals mixed."""
CP2K = Path("/usr/share/cp2k")
"""Where the Debian package ``cp2k-data`` keeps CP2K's list, which has all elements up to radon in PBE."""
KINDS = ("norm-conserving", "ultrasoft", "paw")
HEADER = 65_536
"""Bytes of a file in which its header ends."""
TRAILER = 1024
"""Bytes before the end in which a file of version 2 closes."""
WHERE_TO_GET = (
    "PseudoDojo (pseudo-dojo.org) and SSSP (materialscloud.org/sssp) have PBE sets to download: name their folder with "
    "--pseudo-dir or ESPRESSO_PSEUDO"
)
OR_CP2K = "; or apt-get install cp2k-data, which has every element up to radon"
RADON = 86


@dataclass(frozen=True)
class Pseudopotential:
    """One file: its element, kind, functional, and the cutoffs (Ry) that it needs, 0 where it states none.

    ``taken`` are name and text of the file for pw.x, where ``file`` is a list of many.
    """

    file: Path
    element: str
    kind: str
    functional: str
    fully_relativistic: bool
    ecutwfc: float
    ecutrho: float
    taken: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """The name under which pw.x finds it."""
        return self.file.name if self.taken is None else self.taken[0]

    @property
    def is_gth(self) -> bool:
        """Whether it is of Goedecker, Teter and Hutter's form, alone in a file or from CP2K's list."""
        return self.name.endswith(".gth")

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell this file from others."""
        content = self.file.read_bytes() if self.taken is None else self.taken[1].encode()
        return hashlib.sha256(content).hexdigest()[:16]

    def put(self, folder: Path) -> None:
        """Into the folder under its name, as a link to the file or as what was taken from it."""
        place = folder / self.name
        place.unlink(missing_ok=True)
        if self.taken is None:
            place.symlink_to(self.file.resolve())
        else:
            place.write_text(self.taken[1], encoding="utf-8")


def directories(given: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """Where pseudopotentials are looked for: ``given``, then ``ESPRESSO_PSEUDO``, then those of Debian's packages."""
    named = os.environ.get("ESPRESSO_PSEUDO")
    folders = [*map(Path, given), *([Path(named)] if named else []), DEBIAN, CP2K]
    return list(dict.fromkeys(folders))


def find(elements: Iterable[str], folders: Sequence[Path], functional: str = "PBE") -> dict[str, Pseudopotential]:
    """One pseudopotential for each element, from the first folder that has one of this functional.

    Where a folder has several: scalar relativistic before spin-orbit, UPF before ``.gth``, stated cutoffs before none, then
    by name; CP2K's list of all elements is last.
    """
    from ase.data import atomic_numbers

    missing = [str(folder) for folder in folders if folder not in (DEBIAN, CP2K) and not folder.is_dir()]
    if missing:
        raise EspressoError(
            "no pseudopotential", f"there is no folder {', '.join(missing)}; mend --pseudo-dir or ESPRESSO_PSEUDO"
        )
    chosen = {}
    for element in sorted(set(elements)):
        candidates = [one for folder in folders for one in sorted(_of_element(folder, element), key=_preference)]
        fitting = [one for one in candidates if one.functional == functional]
        if not fitting:
            others = ", ".join(f"{one.name} ({one.functional})" for one in candidates)
            raise EspressoError(
                "no pseudopotential",
                f"no {functional} pseudopotential of {element} in {', '.join(map(str, folders))}"
                + (f" (there is {others}, but functionals must not be mixed)" if others else "")
                + f"; {WHERE_TO_GET}"
                + (OR_CP2K if atomic_numbers[element] <= RADON and not CP2K.is_dir() else ""),
            )
        chosen[element] = fitting[0]
    return chosen


def read(file: Path) -> Pseudopotential | None:
    """What the header of a UPF file, or a whole ``.gth`` file, says; None for a file that has none or was cut off."""
    if file.suffix == ".gth":
        return _gth(file, file.read_text(encoding="utf-8", errors="replace"))
    with file.open("rb") as stream:
        text = stream.read(HEADER).decode("utf-8", errors="replace")
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TRAILER))
        whole = b"</UPF>" in stream.read()
    found = re.search(r"<PP_HEADER(.*?)(/>|</PP_HEADER>)", text, re.DOTALL)
    if found is None or ("<UPF" in text and not whole):
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


def _gth(file: Path, text: str, taken: tuple[str, str] | None = None) -> Pseudopotential | None:
    from ase.data import chemical_symbols

    found = read_gth(text)
    if found is None or not 0 < found.atomic_number < len(chemical_symbols):
        return None
    return Pseudopotential(
        file, chemical_symbols[found.atomic_number], "norm-conserving", "PBE" if found.is_pbe else "not PBE", False,
        found.ecutwfc, 0.0, taken,
    )  # fmt: skip


def _of_element(folder: Path, element: str) -> list[Pseudopotential]:
    """Files named after the element, as in ``Si.pbe-rrkj.UPF`` and ``Si_ONCV_PBE_sr.upf``, whose header agrees; and what
    CP2K's list has.
    """
    if not folder.is_dir():
        return []
    named = [
        file
        for file in folder.iterdir()
        # pw.x knows .gth by small letters alone
        if (file.suffix.lower() == ".upf" or file.suffix == ".gth")
        and re.match(rf"{element}([._-]|$)", file.stem, re.IGNORECASE)
    ]
    found = [read(file) for file in named]
    for file, one in zip(named, found, strict=True):
        if one is None and folder not in (DEBIAN, CP2K):  # who put it there wants it
            raise EspressoError("no pseudopotential", f"{file} holds no whole pseudopotential; replace or remove it")
    found += [_listed(folder / LIST, element)] if (folder / LIST).is_file() else []
    return [one for one in found if one is not None and one.element == element]


def _listed(file: Path, element: str) -> Pseudopotential | None:
    """What CP2K's list has of an element, written as pw.x reads it."""
    from ase.data import atomic_numbers

    taken = from_list(file.read_text(encoding="utf-8", errors="replace"), element, atomic_numbers[element])
    return None if taken is None else _gth(file, taken[1], taken)


def _preference(one: Pseudopotential) -> tuple[bool, bool, bool, bool, str]:
    return one.fully_relativistic, one.taken is not None, one.is_gth, one.ecutwfc == 0, one.name


def _number(text: str | None) -> float:
    try:
        return float((text or "0").lower().replace("d", "e"))
    except ValueError:
        return 0.0
