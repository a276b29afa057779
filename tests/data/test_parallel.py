"""Work in processes: in order, done once; and a worker that dies is an error with a remedy."""

import operator
import os

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
