"""SIGTERM is answered as Ctrl-C is, by commands and by the processes that work for them."""

import os
import signal
import subprocess
import sys
import time

import pytest
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner

from dao_ase.cli import main
from dao_ase.cli.stopping import continued_by_the_same_command
from generation import write_random_generator

NUMBERS = [signal.SIGINT, signal.SIGTERM]

POOL = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor, wait
from dao_ase.cli.stopping import continued_by_the_same_command

with continued_by_the_same_command():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
        sleeping = [pool.submit(time.sleep, 60) for _ in range(8)]
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        wait(sleeping)
"""


@pytest.fixture(autouse=True)
def ctrl_c():
    """As it is in the foreground; a shell ignores it for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_interruption_where_python_ignores_exceptions_is_not_lost(number, capsys):
    class Closing:
        def __del__(self):
            signal.raise_signal(number)

    with pytest.raises(SystemExit), continued_by_the_same_command():
        Closing()
        time.sleep(10)
        pytest.fail("it went on")
    assert capsys.readouterr().err == "interrupted: the same command continues\n"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_worker_processes_end_at_once(method, number):
    command = [sys.executable, "-c", POOL, method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        workers = [int(text) for text in process.stdout.readline().split()]
        time.sleep(1)  # some begin, some are at work
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said) == (130, "interrupted: the same command continues\n")
    assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Runs a command that gets a signal where a function of the package is called; its end is looked at."""
    (tmp_path / "compositions.txt").write_text("NaCl\nKCl\n")
    write(tmp_path / "salts.extxyz", [bulk(name, "rocksalt", a=5) for name in ("NaCl", "FeSi")])
    weights = str(write_random_generator(tmp_path / "g.safetensors"))

    def run(number: int, where: str, *command: str) -> str:
        monkeypatch.chdir(tmp_path)
        before = [signal.getsignal(one) for one in NUMBERS]
        with monkeypatch.context() as patch:
            patch.setattr(where, lambda *arguments, **options: signal.raise_signal(number))
            done = CliRunner().invoke(main, [weights if word == "WEIGHTS" else word for word in command])
        assert [signal.getsignal(one) for one in NUMBERS] == before
        assert done.exit_code == 130
        return done.stderr.splitlines()[-1]

    return run


@pytest.mark.parametrize("number", NUMBERS)
def test_commands_say_that_they_continue(interrupted, number):
    screen = ["screen", "compositions.txt", "-o", "run", "--workers", "0", "--weights", "WEIGHTS"]
    said = interrupted(number, "dao_ase.screen.work._ranked", *screen)
    assert said == "interrupted: what is done is in run, the same command continues"
    evaluate = ["evaluate", "salts.extxyz", "--weights", "WEIGHTS", "--workers", "1"]
    assert interrupted(number, "dao_ase.benchmark.compare", *evaluate) == "interrupted: the same command continues"
    build = ["data", "build", "salts.extxyz", "-o", "store", "--as-is", "--workers", "1"]
    assert interrupted(number, "dao_ase.data.staging.stage_chunk", *build) == "interrupted: the same command continues"
    assert CliRunner().invoke(main, build).exit_code == 0
    label = ["data", "label", "store", "-o", "labels.npz", "--teacher", "emt"]
    assert interrupted(number, "dao_ase.data.label._label_part", *label) == "interrupted: the same command continues"


@pytest.mark.parametrize("number", NUMBERS)
def test_commands_that_keep_nothing_have_the_same_exit_code(interrupted, number):
    eos = ["eos", "salts.extxyz", "--index", "0"]
    assert interrupted(number, "dao_ase.simulate.equation_of_state.equation_of_state", *eos) == "interrupted"
