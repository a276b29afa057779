"""Runs a program that must not outlive another: ``python -m dao_ase.screen.lifeline PID PROGRAM ARGUMENT ...``.

Parsl's interchange and worker pool stay when the process that started them is killed, and go on computing what nobody will
receive. Under this program they end within a second of process PID.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

INTERVAL = 0.5
"""Seconds between two looks."""


def main(arguments: list[str]) -> int:
    """Runs the program until it ends or the process is gone; gives its exit status."""
    watched, command = int(arguments[0]), arguments[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process PID, which then ends the program in order
    child = subprocess.Popen(command)

    def pass_on(number: int, frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    while True:
        try:
            return child.wait(INTERVAL)
        except subprocess.TimeoutExpired:
            if not is_alive(watched):
                end_with_children(child.pid)
                return 1


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number that still runs."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_with_children(pid: int) -> None:
    """Kills a process and all that it started."""
    import psutil

    try:
        top = psutil.Process(pid)
        family = [*top.children(recursive=True), top]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
