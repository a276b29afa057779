"""Work spread over processes, in order, with little waiting in memory; and work that is not done twice."""

from __future__ import annotations

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dao_ase.spawning import end_with_parent, without_main
from dao_ase.whole_files import write_json


def parallel_map(function: Callable[..., Any], calls: Iterable[tuple], workers: int) -> Iterator[Any]:
    """``function(*call)`` for each call, in order, in ``workers`` processes; with one, in this process.

    Processes are spawned, not forked: a fork of a process in which torch has threads may hang.
    """
    if workers <= 1:
        yield from (function(*call) for call in calls)
        return
    try:
        yield from _in_processes(function, calls, workers)
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was killed, perhaps for lack of memory; what is finished is kept: run the command again, "
            "with fewer workers if need be"
        ) from error


def _in_processes(function: Callable[..., Any], calls: Iterable[tuple], workers: int) -> Iterator[Any]:
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        pending: deque[Future] = deque()
        for call in calls:
            with without_main():
                pending.append(pool.submit(function, *call))
            while pending and pending[0].done():
                yield pending.popleft().result()
            # What is done may wait for a slow one before it; what is not done holds its arguments in memory.
            if len(waiting := [future for future in pending if not future.done()]) > 2 * workers:
                wait(waiting, return_when=FIRST_COMPLETED)
        while pending:
            yield pending.popleft().result()


@contextmanager
def one_thread() -> Iterator[None]:
    """In this block torch takes one thread: as many processes as there are cores work beside each other.

    A process that works alone, for its caller, has its threads back afterwards.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def once(path: Path | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """The JSON-able result of a function, kept in a file, if one is named, from which a second call reads it."""
    if path is None:
        return function(*arguments)
    if path.is_file():
        return json.loads(path.read_text())
    result = function(*arguments)
    write_json(path, result)
    return result
