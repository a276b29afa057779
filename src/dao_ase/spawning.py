"""Worker processes that do not run the caller's script again, and do not outlive it.

Python's new processes import the script that started them, so that a script which calls us outside of
``if __name__ == "__main__":`` would start itself without end. Our workers need nothing of it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that are started in this block know nothing of the caller's script; what they run must be importable."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end_with_parent() -> None:
    """In a worker, as the initializer of its pool: it ends when the process that started it does, also where that is killed.

    A worker of ProcessPoolExecutor would wait for its next call for good, with all that it has in memory.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
