"""Worker processes that do not run the caller's script again.

Python's new processes import the script that started them, so that a script which calls us outside of
``if __name__ == "__main__":`` would start itself without end. Our workers need nothing of it.
"""

from __future__ import annotations

import sys
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
