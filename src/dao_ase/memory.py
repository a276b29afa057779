"""How much memory there is, so that a calculation that does not fit is refused before it starts, and what is kept in it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

GIB = 1024**3
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of a container, in the second and in the first version of Linux's control groups."""
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables that bound them: oneDNN's own cache, and that of torch's use of it."""
SHAPES_KEPT = 64
"""Compiled operations that oneDNN keeps, those of several sizes of cells; each takes about half a megabyte."""


class TooLargeError(ValueError):
    """A calculation needs more memory than there is."""


def bound_compiled_operations() -> None:
    """Lets oneDNN forget what it compiled for shapes of long ago; without effect in a process that has already used it.

    In bfloat16 each product of matrices is compiled for its shape, and by default a thousand are kept, twice over: several
    megabytes for each new number of atoms. What a user has set in the environment is left.
    """
    for name in CACHES:
        os.environ.setdefault(name, str(SHAPES_KEPT))


def free_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that a calculation on this device may take; None where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    found = [_of_the_machine(), *(_of_the_container(Path(limit), Path(used)) for limit, used in CGROUPS)]
    known = [amount for amount in found if amount is not None]
    return min(known) if known else None


def refuse_too_large(
    needed: float, what: str, device: torch.device | str = "cpu", *, remedy: str = "use a smaller cell, float32"
) -> None:
    """An error if ``needed`` bytes are not to be had on a device; ``what`` begins the sentence, ``remedy`` ends it."""
    free = free_memory(device)
    if free is not None and needed > free:
        raise TooLargeError(
            f"{what} need about {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free on {device}; "
            f"{remedy}, or a machine with more memory"
        )


def _of_the_machine() -> int | None:
    """What Linux calls available: free, or held by caches that it would give up. Elsewhere, all that is built in."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_the_container(limit: Path, used: Path) -> int | None:
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # there is none, or its limit is "max"
        return None
