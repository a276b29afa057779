"""Screening: what is killed goes on, nothing is done twice, one bad composition is a row."""

import errno
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

import screening
from dao_ase.cli import main
from dao_ase.database import Outcome, ScreenDatabase, open_screen
from dao_ase.phase_diagram import Phase
from dao_ase.screen.run import parts, read_compositions, screen, small_ones_last, unique
from dao_ase.screen.work import ScreenSettings, Shard, screen_shard
from dao_ase.screen.workers import ENVIRONMENT, read_config, workers


def test_compositions_of_a_table_and_of_lines(tmp_path):
    (tmp_path / "table.csv").write_text("id,composition\n1,NaCl\n2, CsV3Sb5 # kagome\n\n3,\n")
    assert read_compositions(tmp_path / "table.csv") == ["NaCl", "CsV3Sb5"]
    (tmp_path / "lines.txt").write_text("# salts\nNaCl\nKCl\n")
    assert read_compositions(tmp_path / "lines.txt") == ["NaCl", "KCl"]
    (tmp_path / "sheet.csv").write_text("\nid;Formula;note\n1;NaCl;a, b\n2;KCl;\n", encoding="utf-8-sig")
    assert read_compositions(tmp_path / "sheet.csv") == ["NaCl", "KCl"]
    (tmp_path / "notes.csv").write_text("composition,note\nNaCl,a; b\tc\n")
    assert read_compositions(tmp_path / "notes.csv") == ["NaCl"]
    (tmp_path / "quoted.csv").write_text(
        'note,composition\n"no, #1",NaCl # salt\n"two\n#2",KCl\nc #,Si\n5" #,Si\n"4"" #4",MgO\n'
    )
    assert read_compositions(tmp_path / "quoted.csv") == ["NaCl", "KCl", "MgO"]
    (tmp_path / "mp.csv").write_text("material_id,pretty_formula\nmp-1,NaCl\n")
    assert read_compositions(str(tmp_path / "mp.csv")) == ["NaCl"]
    for encoding in ("utf-16", "utf-16-le"):
        (tmp_path / "wide.csv").write_bytes("composition;note\r\nNaCl;ä\r\n".encode(encoding))
        assert read_compositions(tmp_path / "wide.csv") == ["NaCl"]
    (tmp_path / "old_mac.txt").write_bytes(b"NaCl # salt\rKCl\r")
    assert read_compositions(tmp_path / "old_mac.txt") == ["NaCl", "KCl"]
    (tmp_path / "row.txt").write_text("NaCl, MgO,\nKCl\n")
    with pytest.raises(ValueError, match=r"row.txt has several formulas in a line .*; write one formula a line"):
        read_compositions(tmp_path / "row.txt")
    (tmp_path / "bare.csv").write_text("NaCl,-3.4,\nMgO,I,\n")
    assert read_compositions(tmp_path / "bare.csv") == ["NaCl", "MgO"]
    for empty in ("\n", "composition\n", "id,formula\n1,\n", "number,salt\n1,NaCl\n"):
        (tmp_path / "empty.csv").write_text(empty)
        with pytest.raises(ValueError, match="names no composition"):
            read_compositions(tmp_path / "empty.csv")
    (tmp_path / "table.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ValueError, match=r"table.xlsx is no text in UTF-8; save the table as CSV"):
        read_compositions(tmp_path / "table.xlsx")


def test_each_content_of_a_cell_once_and_nonsense_stays():
    assert unique(["NaCl", " ClNa", "Na2Cl2", "NaXx", "Mg(OH)2", "MgO2H2"]) == ["NaCl", "Na2Cl2", "NaXx", "MgO2H2"]


@pytest.mark.parametrize(
    ("total", "largest", "count"), [(0, 8, 2), (1, 8, 4), (24, 8, 2), (1000, 8, 2), (30, 4, 1), (9, 2, 0)]
)
def test_shards_hold_each_composition_once_and_shrink_for_several_workers(total, largest, count):
    wanted = [f"Na{number}Cl" for number in range(total)]
    sizes = [len(part) for part in parts(wanted, largest, count)]
    assert [one for part in parts(wanted, largest, count) for one in part] == wanted
    assert all(0 < size <= largest for size in sizes)
    if count > 1:
        assert sizes == sorted(sizes, reverse=True) and sizes[-1:] in ([], [1])
    else:
        assert sizes[:-1] == [largest] * len(sizes[:-1])


def test_the_smallest_cells_are_last_and_nothing_is_lost():
    wanted = ["Na3", "NaXx", "Na9", "Na1", "Na8", "K8", "Na2"]
    assert small_ones_last(wanted, 0) == wanted
    assert small_ones_last(wanted, 4) == ["Na9", "Na8", "K8", "Na3", "Na2", "Na1", "NaXx"]
    assert small_ones_last(wanted, 99) == ["Na9", "Na8", "K8", "Na3", "Na2", "Na1", "NaXx"]
    assert small_ones_last([f"Na{number}" for number in range(1, 9)], 2) == [
        "Na3", "Na4", "Na5", "Na6", "Na7", "Na8", "Na2", "Na1",
    ]  # fmt: skip


@pytest.fixture
def quick_screen(tmp_path, monkeypatch):
    """A screening by the stand-in, in this process."""
    monkeypatch.setenv("WORKED", str(tmp_path / "worked.txt"))
    return lambda wanted, **options: screen(wanted, tmp_path, count=0, work=screening.quick, **options)


def test_more_compositions_may_come_later(tmp_path, quick_screen):
    quick_screen(["NaCl"])
    found = quick_screen(["KCl", "ClNa", "LiCl"])
    assert (found.compositions, found.done, found.structures) == (3, 3, 9)
    assert (tmp_path / "worked.txt").read_text().split() == ["NaCl", "KCl", "LiCl"]


def test_another_run_wants_another_folder(quick_screen):
    quick_screen(["NaCl"])
    with pytest.raises(ValueError, match="other samples, seed; continue it as it was begun"):
        quick_screen(["NaCl"], settings=ScreenSettings(samples=3, seed=1, device="cuda"))
    with pytest.raises(ValueError, match="other prototypes"):
        quick_screen(["NaCl"], settings=ScreenSettings(prototypes=False))
    with pytest.raises(ValueError, match="other weights or references"):
        quick_screen(["NaCl"], phases=[Phase("Na", -1.3)])


def test_what_was_begun_without_a_result_binds_to_nothing(tmp_path, quick_screen):
    """After a slip in an option, the right command may use the folder."""
    with pytest.raises(RuntimeError, match="wrong weights"):
        screen(["NaCl"], tmp_path, ScreenSettings(samples=3), count=0, work=wrong_weights)
    assert quick_screen(["NaCl"]).done == 1
    assert json.loads((tmp_path / "screen.json").read_text())["settings"]["samples"] == ScreenSettings().samples
    with pytest.raises(ValueError, match="other samples"):
        quick_screen(["KCl"], settings=ScreenSettings(samples=3))


def wrong_weights(shard: Shard) -> list[Outcome]:
    raise RuntimeError("wrong weights")


def test_a_folder_of_an_earlier_version_is_read_but_not_continued(tmp_path, quick_screen):
    quick_screen(["NaCl"])
    said = json.loads((tmp_path / "screen.json").read_text())
    del said["settings"]["prototypes"]
    (tmp_path / "screen.json").write_text(json.dumps({**said, "run": "screen-earlier"}))
    ScreenDatabase(tmp_path / "screen.db", "screen-earlier").write([Outcome("LiCl", error="none")])
    with pytest.raises(ValueError, match=r"earlier dao-ase, which knew no prototypes.*another folder"):
        quick_screen(["KCl"])
    assert [line.composition for line in open_screen(tmp_path).done()] == ["LiCl"]
    (tmp_path / "screen.json").write_text(json.dumps(said))
    assert [line.composition for line in open_screen(tmp_path).done()] == ["NaCl"]


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_settings_of_another_program_are_named(tmp_path, quick_screen, text):
    (tmp_path / "screen.json").write_text(text)
    for use in (lambda: quick_screen(["NaCl"]), lambda: open_screen(tmp_path)):
        with pytest.raises(ValueError, match=r"screen\.json' is of no run of dao-ase screen .* give another folder"):
            use()


def test_a_folder_of_generated_structures_is_refused(tmp_path, quick_screen):
    (tmp_path / "summary.json").write_text('{"structures": []}')
    with pytest.raises(ValueError, match="holds structures of dao-ase generate; give another folder"):
        quick_screen(["NaCl"])
    assert not (tmp_path / "screen.json").exists()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"samples": 0}, "at least one structure"),
        ({"fmax": float("nan")}, "fmax is nan"),
        ({"formula_units": (1, 0)}, "must be at least 1"),
        ({"formula_units": "all"}, "'auto'"),
        ({"seed": 2**50}, "must lie within"),
        ({"max_atoms": 0}, "max_atoms is 0; a cell has at least 1"),
    ],
)
def test_settings_that_suit_no_composition_are_refused_at_once(setting, reason):
    with pytest.raises(ValueError, match=reason):
        ScreenSettings(**setting)


def test_workers_in_other_folders_find_the_weights():
    settings = ScreenSettings(weights="mine.safetensors", potential="../yours.safetensors")
    assert Path(settings.weights) == Path.cwd() / "mine.safetensors"
    assert Path(settings.potential) == Path.cwd().parent / "yours.safetensors"


def test_numbers_of_workers_and_of_compositions_that_are_none(tmp_path, quick_screen):
    with pytest.raises(ValueError, match="shards of 0 compositions; give at least 1"):
        quick_screen(["NaCl"], shard=0)
    with pytest.raises(ValueError, match="-1 workers; give 0"):
        screen(["NaCl"], tmp_path, count=-1)
    assert quick_screen(["NaCl"]).done == 1


def test_a_database_that_cannot_be_opened_is_named_and_not_the_folders(tmp_path, quick_screen):
    (tmp_path / "table.csv").write_text("no database\n" * 50)
    with pytest.raises(OSError, match=r"table.csv cannot be used: file is not a database"):
        quick_screen(["NaCl"], database="table.csv")
    with pytest.raises(ValueError, match=r"is no postgresql://"):
        quick_screen(["NaCl"], database="mysql://me@here/name")
    assert quick_screen(["NaCl"]).done == 1


def test_two_at_a_time_are_refused(tmp_path, monkeypatch):
    def nested(shard: Shard) -> list[Outcome]:
        with pytest.raises(ValueError, match="another process is screening"):
            screen(["KCl"], tmp_path, count=0, work=screening.quick)
        return [Outcome(one) for one in shard.compositions]

    assert screen(["NaCl"], tmp_path, count=0, work=nested).done == 1


def test_file_systems_without_locks_will_do(quick_screen, monkeypatch):
    """As Lustre is often mounted."""
    monkeypatch.setattr("fcntl.flock", no_locks)
    assert quick_screen(["NaCl"]).done == 1


def no_locks(file, operation) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_a_fault_of_the_installation_is_no_fault_of_a_composition(tmp_path):
    def broken(shard: Shard) -> list[Outcome]:
        raise ImportError("no module named torch")

    with pytest.raises(ImportError):
        screen(["NaCl"], tmp_path, count=0, work=broken)
    assert open_screen(tmp_path).done() == []


def start(folder: Path, count: int, processes: int) -> subprocess.Popen:
    """The screening process, when it has begun."""
    tests = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, f"{tests}/screening.py", str(folder), str(count), str(processes)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": tests}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begins\n"
    return process


def kill(process: subprocess.Popen, number: int = signal.SIGKILL) -> None:
    with process:
        process.send_signal(number)


def worked(folder: Path) -> list[str]:
    log = folder / "worked.txt"
    return log.read_text().split() if log.exists() else []


def check_books(folder: Path) -> list[str]:
    """The compositions that are done: each has one line, and all of its rows."""
    store = open_screen(folder)
    lines = store.done()
    assert len({line.composition for line in lines}) == len(lines)
    rows = Counter(row.composition for row in store.rows())
    assert rows == {line.composition: max(line.structures, 1) for line in lines}
    return [line.composition for line in lines]


def test_killed_many_times_it_loses_nothing_and_repeats_nothing(tmp_path):
    """SIGKILL at random moments; what was in the database is never worked on again."""
    dice, done, seen, count = random.Random(0), [], 0, 150
    for _ in range(6):
        process = start(tmp_path, count, 0)
        moment = seen + dice.randint(1, 20)  # in compositions, not seconds: the machine may be busy
        while len(worked(tmp_path)) < moment and process.poll() is None:
            time.sleep(0.002)
        kill(process)
        again = set(worked(tmp_path)[seen:]) & set(done)
        assert not again, f"done before and worked on again: {again}"
        seen, done = len(worked(tmp_path)), check_books(tmp_path)
    assert len(done) > 0
    with start(tmp_path, count, 0) as process:
        assert f"done={count}, errors=0, structures={3 * count}" in process.stdout.read()
    assert sorted(check_books(tmp_path)) == sorted(screening.compositions(count))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_parsl_workers_end_with_the_process_and_a_worker_may_die(tmp_path, number):
    """Two workers of Parsl: killed, nothing of it stays; started again, all is done, and what kills a worker is a row."""
    psutil, _ = pytest.importorskip("psutil"), pytest.importorskip("parsl")
    process = start(tmp_path, 60, 2)
    while not worked(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    kill(process, number)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, "Parsl's interchange and workers outlive the process"
    with start(tmp_path, 60, 2) as process:
        assert "done=61, errors=1, structures=180" in process.stdout.read()
    assert len(check_books(tmp_path)) == 61
    (row,) = open_screen(tmp_path).rows(composition=screening.DEADLY)
    assert "worker died" in row.error


def test_lifeline_outlasts_ctrl_c_and_ends_with_its_process():
    """Ctrl-C reaches the whole group, but only the screening itself answers it: Parsl wants to be ended in order."""
    pytest.importorskip("psutil")
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    program = "import time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-m", "dao_ase.screen.lifeline", str(watched.pid), sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as lifeline:
        assert lifeline.stdout is not None and lifeline.stdout.readline() == "up\n"
        os.killpg(lifeline.pid, signal.SIGINT)
        time.sleep(0.2)
        assert lifeline.poll() is None
        kill(watched)
        assert lifeline.wait(timeout=20) == 1
        assert lifeline.stdout.read() == "", "the program's end of the pipe is closed: it is gone"


def test_config_file_must_define_a_config(tmp_path):
    pytest.importorskip("parsl")
    (tmp_path / "parsl.py").write_text("config = 3\n")
    with pytest.raises(ValueError, match="defines no 'config'"):
        read_config(tmp_path / "parsl.py")
    for nonsense in ("config = 1 / 0\n", "config = (\n"):
        (tmp_path / "parsl.py").write_text(nonsense)
        with pytest.raises(ValueError, match=r"parsl.py: does not run: \w+Error"):
            read_config(tmp_path / "parsl.py")


@pytest.mark.filterwarnings("ignore")  # of Parsl about itself
def test_a_config_of_the_users_works_the_largest_cells_first(tmp_path, monkeypatch):
    pytest.importorskip("parsl")
    monkeypatch.setenv("WORKED", str(tmp_path / "worked.txt"))
    (tmp_path / "parsl.py").write_text(
        "from parsl.config import Config\nfrom parsl.executors import ThreadPoolExecutor\n"
        "config = Config(executors=[ThreadPoolExecutor(max_threads=1)], usage_tracking=0)\n"
    )
    wanted = ["NaCl", "Na20Cl20", "Si", "Mg8O8"]
    found = screen(wanted, tmp_path / "run", config=tmp_path / "parsl.py", shard=1, work=screening.quick)
    assert (found.done, found.errors) == (4, 0)
    assert worked(tmp_path) == ["Na20Cl20", "Mg8O8", "NaCl", "Si"]


def test_workers_keep_what_the_user_tunes():
    shell = ["sh", "-c", f"{ENVIRONMENT}; echo $GLIBC_TUNABLES"]
    for tuned, expected in ((None, ""), ("glibc.malloc.check=0", "glibc.malloc.check=0:")):
        environment = {"PATH": os.environ["PATH"], **({"GLIBC_TUNABLES": tuned} if tuned else {})}
        done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}glibc.malloc.hugetlb=1\n"


def test_without_parsl_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "parsl", None)
    with pytest.raises(ValueError, match=r"dao-ase\[screen\]"), workers(2, None, tmp_path):
        pass


@pytest.fixture(scope="module")
def shard():
    phases = (Phase("Na", -1.3), Phase("Cl2", -1.8), Phase("NaCl", -3.3))
    settings = ScreenSettings(samples=3, relax_steps=5)
    return Shard(("NaCl", "NaXx", "KBr", "Og"), settings, phases)


def test_work_on_a_shard_is_a_pure_function(shard):
    salt, nonsense, bromide, untrained = screen_shard(pickle.loads(pickle.dumps(shard)))
    assert [atoms.info["rank"] for atoms in salt.structures] == list(range(1, len(salt.structures) + 1))
    assert sum(atoms.info["copies"] for atoms in salt.structures) == 3
    best = salt.structures[0]
    assert best.get_potential_energy() / 2 == pytest.approx(best.info["energy_per_atom"], abs=1e-4)
    assert best.info["e_above_hull"] == pytest.approx(best.info["energy_per_atom"] + 3.3, abs=1e-6)
    assert bromide.structures[0].info["e_above_hull"] is None, "no reference of K and Br"
    assert "Xx" in nonsense.error and "Og" in untrained.error and not untrained.structures
    assert salt.provenance["settings"]["samples"] == 3
    assert set(salt.provenance["weights"]) == {"dao_g", "dao_g_52", "dao_p", "prototypes"}
    again = screen_shard(shard)[0]
    assert (again.structures[0].positions == best.positions).all()


def test_command(tmp_path):
    (tmp_path / "compositions.csv").write_text("composition\nNaCl\nNa\nCl2\nNaXx\nNa60Cl60\n")
    (tmp_path / "phases.csv").write_text("composition,energy_per_atom\nNa,-1.3\n")
    arguments = ["screen", f"{tmp_path}/compositions.csv", "-o", f"{tmp_path}/run", "-n", "2", "--relax-steps", "1"]
    arguments += ["--references", f"{tmp_path}/phases.csv"]
    done = CliRunner().invoke(main, [*arguments, "--workers", "0"])
    assert done.exit_code == 0, done.output
    assert re.search(r"structures of 5 compositions, 2 with an error", done.output)
    assert "1x, not at rest" in done.output, "in one step"
    errors = {line.composition: line.error for line in open_screen(tmp_path / "run").done() if line.error}
    assert errors.keys() == {"NaXx", "Na60Cl60"} and "--max-atoms lifts the limit" in errors["Na60Cl60"]
    assert "no phase of Cl alone" in done.output
    done = CliRunner().invoke(main, [*arguments, "--workers", "0", "--seed", "5"])
    assert done.exit_code == 1 and "other seed" in done.output
    (tmp_path / "compositions.csv").write_text("composition\nNa\n")
    done = CliRunner().invoke(main, [*arguments, "--workers", "0", "--json"])
    told = json.loads(done.stdout)
    assert told["compositions"] == 1 and [one["composition"] for one in told["best"]] == ["Na"]
    done = CliRunner().invoke(main, ["hull", f"{tmp_path}/run", "--plot", f"{tmp_path}/hull.png"])
    assert done.exit_code == 0, done.output
    assert "Cl-Na" in done.output and "* on the hull" in done.output and (tmp_path / "hull.png").is_file()


@pytest.fixture
def postgresql():
    """The URL of a PostgreSQL server of its own, on a free port of this machine."""
    pytest.importorskip("ase_db_backends", reason='no PostgreSQL backend of ASE: pip install "dao-ase[postgresql]"')
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(shutil.which("initdb") or "/none").parent]
    if not (programs[-1] / "initdb").exists():
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # the server refuses to be root's
    with tempfile.TemporaryDirectory(prefix="pg") as folder, socket.socket() as free:
        if as_user:
            shutil.chown(folder, "postgres")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()

        def call(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs[-1] / program), "-D", f"{folder}/data", *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd=folder)

        (Path(folder) / "password").write_text("secret\n")
        call("initdb", "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={folder}/password", "--no-sync")
        call("pg_ctl", "-w", "-l", f"{folder}/log", "-o", f"-p {port} -k {folder} -h 127.0.0.1 -F", "start")
        try:
            yield f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")


@pytest.mark.filterwarnings("ignore")  # of ASE's backend about itself
def test_postgresql_holds_runs_as_sqlite_does(postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKED", str(tmp_path / "worked.txt"))
    for folder, wanted in (("one", ["NaCl", "InF"]), ("one", ["NaCl", "InF", "KCl"])):
        found = screen(wanted, tmp_path / folder, count=0, work=screening.quick, database=postgresql)
    other = screen(
        ["NaCl"], tmp_path / "two", ScreenSettings(seed=1), count=0, work=screening.quick, database=postgresql
    )
    assert (found.done, found.structures, other.structures) == (3, 9, 3)
    assert (tmp_path / "worked.txt").read_text().split() == ["NaCl", "InF", "KCl", "NaCl"]
    assert "secret" not in (tmp_path / "one" / "screen.json").read_text()
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(OSError, match=r"postgresql://postgres@127.0.0.1:\d+/postgres cannot be used: .*password"):
        open_screen(tmp_path / "one")
    assert len(open_screen(tmp_path / "one", postgresql).done()) == 3
    monkeypatch.setenv("PGPASSWORD", "secret")
    best = open_screen(tmp_path / "one").structures(limit=3)
    assert [one.properties["rank"] for one in best] == [1, 1, 1]
    with pytest.raises(Exception, match="duplicate key"), ScreenDatabase(postgresql, "x")._transaction() as cursor:
        cursor.execute("INSERT INTO dao_ase_done SELECT * FROM dao_ase_done")
