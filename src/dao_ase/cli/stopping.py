"""A batch system that ends a command, at the limit of its time, is answered as Ctrl-C is: what is done is written."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

CONTINUES = "interrupted: the same command continues"
INTERRUPTED = 130
"""The exit code of what was interrupted, as shells have it."""
AGAIN = 0.1
"""Seconds after which an interruption comes again that came where Python ignores exceptions."""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """In this block SIGTERM raises KeyboardInterrupt, and where this or Ctrl-C does so, worker processes end at once.

    A pool of processes would first finish all that they have been handed.
    """
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGINT] is not signal.default_int_handler:  # ignored, where a shell began this in the background
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, _interrupt)
    ignored, sys.unraisablehook = sys.unraisablehook, _unless_interrupted(sys.unraisablehook)
    try:
        yield
    finally:
        sys.unraisablehook = ignored
        for number, handler in before.items():
            signal.signal(number, handler)


def _unless_interrupted(ignored: Callable[[Any], object]) -> Callable[[Any], None]:
    """A hook for exceptions that Python must ignore, in ``__del__`` and the like: an interruption there comes once more."""

    def hook(unraisable: Any) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN, _once_more).start()
        else:
            ignored(unraisable)

    return hook


def _once_more() -> None:
    if callable(signal.getsignal(signal.SIGTERM)):  # else the block that answers it is over
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def at_the_end() -> Iterator[None]:
    """In a block of `sigterm_as_ctrl_c` one that is done to its end: an interruption within it is answered after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came: list[int] = []
    for number, handler in before.items():
        if handler is _interrupt:
            signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


@contextmanager
def continued_by_the_same_command(message: str = CONTINUES) -> Iterator[None]:
    """As `sigterm_as_ctrl_c`, for work that is found again: the interruption is told, and the exit code is `INTERRUPTED`."""
    try:
        with sigterm_as_ctrl_c():
            yield
    except KeyboardInterrupt:
        click.echo(message, err=True)
        raise SystemExit(INTERRUPTED) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    for worker in multiprocessing.active_children():
        worker.terminate()
    raise KeyboardInterrupt
