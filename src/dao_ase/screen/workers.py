"""Where shards are worked on: in this process, in local processes by Parsl, or wherever the user's Parsl configuration says.

Parsl is an extra: ``pip install "dao-ase[screen]"``.
"""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parsl.config import Config

ENVIRONMENT = (
    "export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE "
    "GLIBC_TUNABLES=${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"
)
"""Of local workers: idle threads sleep instead of spinning, see dao_ase.cli, and memory comes in pages of 2 MB. Tensors of
some MB are taken and given back all the time; with pages of 4 kB relaxing took 3 to 10 % more."""
POLL = 200
"""Milliseconds for which Parsl's loops sleep where nothing arrives; what arrives wakes them. Its 10 cost 3 % of a core."""


@dataclass(frozen=True)
class Workers:
    """``submit(function, argument)`` gives the future result; ``window`` calls may wait or run at a time."""

    submit: Callable[[Callable[[Any], Any], Any], Future]
    window: int | None = None


@contextmanager
def workers(count: int, config: str | Path | None, logs: Path) -> Iterator[Workers]:
    """Those who work: ``count`` local processes, this process itself for 0, or what a file that defines ``config`` says."""
    if count < 0:
        raise ValueError(f"{count} workers; give 0 to work in this process, or how many processes")
    if config is None and count == 0:
        yield Workers(_here, window=1)
        return
    try:
        import parsl
    except ImportError as error:
        raise ValueError(
            'screening with workers needs Parsl: pip install "dao-ase[screen]"; --workers 0 screens in one process without'
        ) from error
    chosen = local_config(count) if config is None else read_config(config)
    chosen.run_dir = str(logs)
    chosen.initialize_logging = False
    for executor in chosen.executors:
        if hasattr(executor, "interchange_launch_cmd"):
            executor.interchange_launch_cmd = [*lifeline(), *map(in_this_python, executor.interchange_launch_cmd)]
    kernel = parsl.DataFlowKernel(chosen)
    if config is None:
        kernel.job_status_poller.interval = 2  # the workers are starting; from now on there is little to look after
    try:
        yield Workers(lambda function, argument: parsl.python_app(function, data_flow_kernel=kernel)(argument))
    finally:
        kernel.cleanup()


def local_config(count: int) -> Config:
    """Parsl's HighThroughputExecutor with ``count`` workers on this machine, one thread each."""
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput import executor
    from parsl.providers import LocalProvider

    program, _, options = executor.DEFAULT_LAUNCH_CMD.partition(" ")
    launch = shlex.join([*lifeline(), in_this_python(program)])
    return Config(
        executors=[
            HighThroughputExecutor(
                label="local",
                max_workers_per_node=count,
                cores_per_worker=1e-3,  # as many workers as were asked for, also on fewer cores
                address="127.0.0.1",
                encrypted=False,
                heartbeat_period=2,  # how soon a dead worker is noticed
                poll_period=POLL,
                launch_cmd=f"{launch} {options}",
                provider=LocalProvider(
                    init_blocks=1,
                    min_blocks=1,
                    max_blocks=1,
                    worker_init=ENVIRONMENT,
                ),
            )
        ],
        retries=1,
        strategy="none",
        strategy_period=0.05,  # how soon the first workers start; see `workers`
        usage_tracking=0,
    )


def read_config(path: str | Path) -> Config:
    """The ``config`` that a Python file defines."""
    from parsl.config import Config

    try:
        found = runpy.run_path(str(path)).get("config")
    except Exception as error:  # a file of the user's own may raise anything
        raise ValueError(f"{path}: does not run: {type(error).__name__}: {error}") from error
    if not isinstance(found, Config):
        raise ValueError(f"{path} defines no 'config' of parsl.config.Config; see examples/parsl_slurm.py")
    return found


def worker_died(error: BaseException) -> bool:
    """Whether a call failed because its process did: killed for its memory, crashed, or on a node that went away."""
    return type(error).__module__.startswith("parsl.") and type(error).__name__ in ("WorkerLost", "ManagerLost")


def lifeline() -> list[str]:
    """What stands before a command that must not outlive this process."""
    return [sys.executable, "-m", "dao_ase.screen.lifeline", str(os.getpid())]


def in_this_python(program: str) -> str:
    """The full path of a program that was installed beside this Python, which need not be on the path."""
    beside = Path(sys.executable).parent / program
    return str(beside) if beside.is_file() else program


def _here(function: Callable[[Any], Any], argument: Any) -> Future:
    """Works at once, in this process."""
    future: Future = Future()
    try:
        future.set_result(function(argument))
    except Exception as error:  # as a worker of a pool would hand it back
        future.set_exception(error)
    return future
