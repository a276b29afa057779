"""Files that appear under their name only when they are complete: a reader, or a kill, never meets half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` with its ending; what was written there takes its name when the block ends well.

    >>> with replacing("out/note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> Path("out/note.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # its name ends as the other: what is written may depend on .cif.gz, or on CONTCAR
    temporary = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_together(folder: str | Path, last: str) -> Iterator[Path]:
    """A temporary folder, whose files take their names in ``folder`` when the block ends well, that named ``last`` last.

    While they do so there is no ``last``: a folder that holds one is all old or all new, whenever the process ends.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as name:
        yield Path(name)
        (folder / last).unlink(missing_ok=True)
        for file in sorted(Path(name).iterdir(), key=lambda one: one.name == last):
            os.replace(file, folder / file.name)


@contextmanager
def only_one(lock: str | Path, busy: str) -> Iterator[None]:
    """Holds the file ``lock``, which stays as it is; where it is held already, an error that begins with ``busy``.

    The system gives it free when the process ends, however it ends. On Windows, and where files have no locks, nothing is
    held.
    """
    with open(lock, "a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{busy}; wait for it, or write elsewhere") from error
        except (ImportError, OSError):
            pass
        yield


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Writes a JSON-able value."""
    return write_text(path, json.dumps(value, indent=1))


def _flush(path: Path) -> None:
    """Puts the bytes on the disk before the name, so that a crash of the machine leaves no empty file either."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
