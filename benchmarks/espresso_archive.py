"""What pw.x printed, kept in the repository, so that DAO-P is measured again without an hour of pw.x.

A calculation is found again by its content, pseudopotentials included: these have to be at hand, pw.x need not be.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

ARCHIVE = Path(__file__).parent / "references" / "espresso.tar.xz"
KEPT = ("result.json", "espresso.pwi", "espresso.err", "*_espresso.pwo")


def unpack(folder: Path, archive: Path = ARCHIVE) -> None:
    """Puts what is archived into the folder of calculations; what is there already stays."""
    if not archive.exists():
        return
    with tarfile.open(archive) as packed:
        there = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
        new = [member for member in packed if member.name.partition("/")[0] not in there]
        packed.extractall(folder, new, filter="data")


def pack(folder: Path, archive: Path = ARCHIVE) -> None:
    """Archives every calculation that has an energy, and what DAO proposed, beside what is in the archive already."""
    unpack(folder, archive)
    partial = archive.with_suffix(".part")
    with tarfile.open(partial, "w:xz") as packed:
        for file in sorted(_files(folder)):
            packed.add(file, str(file.relative_to(folder)), filter=_anonymous)
    partial.replace(archive)


def _files(folder: Path) -> Iterable[Path]:
    yield from folder.glob("proposed-*.json")
    for result in folder.glob("*/result.json"):
        if any("!    total energy" in printed.read_text() for printed in result.parent.glob(KEPT[-1])):
            for pattern in KEPT:
                yield from result.parent.glob(pattern)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes whoever packs it, and whenever."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
