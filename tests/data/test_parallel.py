"""Work in processes: in order, done once; and a worker that dies is an error with a remedy."""

import operator
import os
import subprocess
import sys
import time

import pytest
import torch

from dao_ase.data.parallel import once, one_thread, parallel_map


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    calls = [(number, number) for number in range(20)]
    assert list(parallel_map(operator.mul, calls, workers)) == [number**2 for number in range(20)]


def test_a_worker_that_dies():
    with pytest.raises(OSError, match="a worker process was killed"):
        list(parallel_map(os._exit, [(1,)] * 3, 2))


CALLER = """
import multiprocessing, threading, time
from dao_ase.data.parallel import parallel_map

threading.Thread(target=lambda: list(parallel_map(time.sleep, [(600,)] * 2, 2)), daemon=True).start()
while len(multiprocessing.active_children()) < 2:
    time.sleep(0.1)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


def test_workers_end_with_a_process_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True) as caller:
        workers = [int(pid) for pid in caller.stdout.readline().split()]
        caller.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(worker, 0)
                time.sleep(0.1)


def test_once(tmp_path):
    assert once(tmp_path / "a.json", operator.add, 1, 2) == 3
    assert once(tmp_path / "a.json", operator.add, 5, 5) == 3
    assert once(None, operator.add, 5, 5) == 10


def test_threads_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert one_thread()(torch.get_num_threads)() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
