"""``dao-ase generate`` and ``evaluate``: files, order, refusals, interruption, resuming."""

import csv
import errno
import json
import os
import signal
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

from dao_ase.cli import main
from dao_ase.data.sources import open_source
from dao_ase.gallery import read_run
from dao_ase.relax import Frame, Relaxation
from dao_ase.runs import RunWriter
from dao_ase.whole_files import only_one, write_text
from generation import write_random_generator, write_rock_salts


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(write_random_generator(tmp_path_factory.mktemp("weights") / "g.safetensors"))


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_files_and_summary_agree(tmp_path, weights):
    (tmp_path / "list.txt").write_text("FeO  # wüstite\n\nH2O\n")
    out = tmp_path / "out"
    result = run("generate", "NaCl", "-f", str(tmp_path / "list.txt"), "-n", "2", "-o", str(out), "--weights", weights)
    assert result.exit_code == 0, result.output
    records = json.loads((out / "summary.json").read_text())["structures"]
    images = read(out / "structures.extxyz", index=":")
    assert [record["formula"] for record in records] == ["NaCl", "NaCl", "FeO", "FeO", "H2O", "H2O"]
    for record, atoms in zip(records, images, strict=True):
        structure = Structure.from_file(out / record["file"])
        assert atoms.info["file"] == record["file"]
        np.testing.assert_allclose(structure.volume, atoms.get_volume(), rtol=1e-4)
    assert not list(out.glob(".*"))


def test_json_goes_to_stdout(tmp_path, weights):
    result = run("generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights, "--json")
    assert json.loads(result.stdout)["structures"][0]["file"] == "001_NaCl.cif"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["Xx2O"], "'Xx'"),
        (["NaCl", "Fe0"], "0 atoms of Fe"),
        (["Fe-1"], "cannot read"),
        (["Fe1000000"], "at most"),
        (["Fe31"], "(what DAO-G was trained on; --max-atoms lifts the limit)"),
        (["NaCl", "-n", "0"], "at least one"),
        (["NaCl", "-n", "1000000000000"], "several seeds"),
        (["NaCl", "-z", "two"], "--formula-units"),
        (["NaCl", "--device", "abacus"], "device"),
        (["NaCl", "--seed", "99999999999999999"], "seed is"),
        ([], "at least one formula"),
        (["NaCl", "--weights", "nothing.safetensors"], "no weight file"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, weights, arguments, reason):
    if "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    result = run("generate", "-o", str(tmp_path / "out"), *arguments)
    assert result.exit_code != 0
    assert reason in result.output
    assert not (tmp_path / "out").exists()


def test_what_is_done_survives_an_interruption(tmp_path, weights, monkeypatch):
    from dao_ase.generator import DAOGenerator

    numbered = DAOGenerator.numbered

    def interrupted(self, *arguments, **options):
        yield from numbered(self, "NaCl", n=2)
        raise KeyboardInterrupt

    monkeypatch.setattr(DAOGenerator, "numbered", interrupted)
    result = run("generate", "NaCl", "-n", "9", "-o", str(tmp_path), "--weights", weights)
    assert result.exit_code == 130
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"] and len(summary["structures"]) == 2
    assert len(read(tmp_path / "structures.extxyz", index=":")) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_sampled_survives_an_interruption_of_the_relaxation(tmp_path, weights, monkeypatch, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background

    def interrupted(structures, **options):
        signal.raise_signal(number)

    monkeypatch.setattr("dao_ase.rank.relax_structures", interrupted)
    result = run("generate", "NaCl", "FeO", "-n", "2", "--relax", "-o", str(tmp_path), "--weights", weights)
    assert result.exit_code == 130
    assert "4 structures are still ranked and written, 4 of them not at rest; dao-ase relax goes on" in result.stderr
    records = json.loads((tmp_path / "summary.json").read_text())["structures"]
    assert [record["formula"] for record in records] == ["NaCl", "NaCl", "FeO", "FeO"]
    assert not any(record["converged"] or record["relax_steps"] for record in records)
    assert result.stdout.count(", not at rest\n") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_relaxations_that_have_ended_survive_an_interruption(tmp_path, weights, monkeypatch, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    still = Frame(salt.cart_coords, np.array(salt.lattice.matrix), -24.0, np.zeros((8, 3)), np.zeros((3, 3)))

    def interrupted(crystals, potential, on_done, **options):
        on_done(2, Relaxation(True, 7, "converged", still, still))
        on_done(0, Relaxation(False, 3, "interrupted after 3 steps", still, still))
        signal.raise_signal(number)

    monkeypatch.setattr("dao_ase.rank.relax", interrupted)
    common = ["-n", "2", "--relax", "-o", str(tmp_path), "--weights", weights]
    result = run("generate", "Na4Cl4", "Cs4Cl4", *common)
    assert (
        result.exit_code == 130 and "4 structures are still ranked and written, 3 of them not at rest" in result.stderr
    )
    records = json.loads((tmp_path / "summary.json").read_text())["structures"]
    assert [record["formula"] for record in records] == ["Na4Cl4", "Na4Cl4", "Cs4Cl4", "Cs4Cl4"]
    assert sorted((record["relax_steps"], record["converged"]) for record in records) == [
        (0, False), (0, False), (3, False), (7, True)
    ]  # fmt: skip
    (rested,) = (record for record in records if record["converged"])
    assert rested["formula"] == "Cs4Cl4" and rested["energy_per_atom"] == -3.0
    np.testing.assert_allclose(Structure.from_file(tmp_path / rested["file"]).volume, salt.volume, rtol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["dao_ase.rank.space_group", "dao_ase.runs.write_text"])
def test_what_is_sampled_survives_interruptions_of_ranking_and_writing(tmp_path, weights, monkeypatch, number, where):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module, name = where.rsplit(".", 1)
    function = getattr(sys.modules[module], name)

    def interrupted(*arguments):
        signal.raise_signal(number)  # again and again
        return function(*arguments)

    monkeypatch.setattr(where, interrupted)
    result = run("generate", "NaCl", "-n", "3", "-o", str(tmp_path), "--weights", weights)
    assert result.exit_code == 130 and "interrupted: the 3 structures made so far" in result.output
    assert len(files_and_end(tmp_path)[0]) == len(read(tmp_path / "structures.extxyz", index=":")) == 3
    assert files_and_end(tmp_path)[1]


def test_many_formulas_are_sampled_together_and_written_as_if_each_were_alone(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("dao_ase.cli.generate.RANKED", 5)
    formulas = ["FeO", "NaCl", "H2O", "NaCl", "SiO2"]
    common = ["-n", "2", "--weights", weights, "--json"]
    together = json.loads(run("generate", *formulas, "-o", str(tmp_path / "all"), *common).stdout)["structures"]
    alone = [
        record
        for formula in formulas
        for record in json.loads(run("generate", formula, "-o", str(tmp_path / "one"), *common).stdout)["structures"]
    ]
    assert [record["seed"] for record in together] == [record["seed"] for record in alone]
    assert [record["energy_per_atom"] for record in together] == pytest.approx(
        [record["energy_per_atom"] for record in alone], abs=1e-3
    )


def test_files_of_formulas_from_other_programs(tmp_path, weights):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfNaCl\r\nFeO\r\n")
    common = ["-n", "1", "-o", str(tmp_path / "out"), "--weights", weights, "--json"]
    records = json.loads(run("generate", "-f", str(tmp_path / "list.txt"), *common).stdout)["structures"]
    assert [record["formula"] for record in records] == ["NaCl", "FeO"]
    (tmp_path / "list.txt").write_text("FeO\n", encoding="utf-16")
    records = json.loads(run("generate", "-f", str(tmp_path / "list.txt"), *common).stdout)["structures"]
    assert [record["formula"] for record in records] == ["FeO"]
    (tmp_path / "list.txt").write_bytes(b"NaCl\n\xff\xfe")
    result = run("generate", "-f", str(tmp_path / "list.txt"), *common)
    assert result.exit_code == 1 and "not a text file of formulas" in result.output


@pytest.mark.parametrize("text", ["{}", "no json"])
def test_a_folder_of_another_program_is_refused(tmp_path, weights, text):
    (tmp_path / "summary.json").write_text(text)
    result = run("generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights)
    assert result.exit_code == 1 and "give another folder" in result.output
    assert (tmp_path / "summary.json").read_text() == text


def test_the_folder_of_a_screening_is_refused(tmp_path, weights):
    (tmp_path / "screen.json").write_text("{}")
    result = run("generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights)
    assert result.exit_code == 1 and "holds a screening" in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["screen.json"]


@pytest.mark.parametrize("name", ["structures.extxyz", "001_NaCl.cif"])
def test_files_of_another_program_are_not_overwritten(tmp_path, weights, name):
    (tmp_path / name).write_text("mine")
    (tmp_path / "paper.cif").write_text("mine, under a name that no run gives")
    result = run("generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights)
    assert result.exit_code == 1 and "give another folder" in result.output and name in result.output
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "summary.json").exists()


def test_a_copy_beside_an_earlier_run_is_not_overwritten(tmp_path, weights):
    arguments = ["generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights]
    assert run(*arguments).exit_code == 0
    (tmp_path / "002_NaCl.cif").write_text("mine")
    assert run(*arguments).exit_code == 1 and (tmp_path / "001_NaCl.cif").exists()


def test_a_run_is_read_once_though_it_has_its_structures_twice(tmp_path, weights):
    assert run("generate", "NaCl", "-n", "2", "-o", str(tmp_path / "run"), "--weights", weights).exit_code == 0
    there = [file.name for file in open_source(tmp_path).files()]
    assert there == ["001_NaCl.cif", "002_NaCl.cif"]
    (tmp_path / "run" / "001_NaCl.cif").unlink()
    assert len(open_source(tmp_path).files()) == 2, "the extxyz has what the other no longer has"


def test_a_killed_run_leaves_a_folder_that_says_what_is_in_it(tmp_path):
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with RunWriter(tmp_path) as run:
        run.write([salt, salt])
    killed = RunWriter(tmp_path).__enter__()
    # until there is something in their place
    assert files_and_end(tmp_path) == (["001_Na4Cl4.cif", "002_Na4Cl4.cif"], False)
    killed.write([salt])
    assert files_and_end(tmp_path) == (["001_Na4Cl4.cif"], True)
    with pytest.raises(ValueError, match="another run is writing into"):  # while it is not yet killed
        RunWriter(tmp_path).__enter__()
    assert files_and_end(tmp_path) == (["001_Na4Cl4.cif"], True)
    assert len(read(tmp_path / "structures.extxyz", index=":")) == 1
    del killed
    with RunWriter(tmp_path):
        pass
    assert files_and_end(tmp_path) == ([], False)


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError("no cell")])
def test_a_run_that_ends_before_its_first_structure_leaves_the_earlier_one(tmp_path, weights, monkeypatch, end):
    from dao_ase.generator import DAOGenerator

    def ends(self, *arguments, **options):
        raise end
        yield

    common = ["generate", "NaCl", "-n", "2", "-o", str(tmp_path), "--weights", weights]
    assert run(*common, "--gallery").exit_code == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    monkeypatch.setattr(DAOGenerator, "numbered", ends)
    result = run(*common)
    assert result.exit_code == (130 if end is KeyboardInterrupt else 1)
    assert "nothing was written" in result.output or "no cell" in result.output
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_of_a_run_that_was_killed_as_it_wrote_them_go_with_the_next(tmp_path, monkeypatch):
    def killed(path, text):
        if "002" in path.name:
            raise SystemExit
        write_text(path, text)

    polonium = Structure(Lattice.cubic(4), ["Po"], [[0, 0, 0]])
    with monkeypatch.context() as patch:
        patch.setattr("dao_ase.runs.write_text", killed)
        patch.setattr(RunWriter, "__exit__", lambda run, *_: run._alone.close())
        with pytest.raises(SystemExit), RunWriter(tmp_path) as run:
            run.write([polonium, polonium])
    assert [file.name for file in tmp_path.glob("*.cif")] == ["001_Po.cif"]
    assert json.loads((tmp_path / "summary.json").read_text())["structures"] == read_run(tmp_path) == []
    with RunWriter(tmp_path):
        pass
    assert files_and_end(tmp_path) == ([], False)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_that_finds_no_room_to_begin_is_not_in_the_way_of_the_next(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("dao_ase.runs.write_json", full)
        RunWriter(tmp_path).__enter__()
    with RunWriter(tmp_path):
        pass
    assert json.loads((tmp_path / "summary.json").read_text())["structures"] == []


def test_a_run_that_ends_with_an_error_did_not_reach_its_end(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"), RunWriter(tmp_path) as run:
        patch.setattr("dao_ase.runs.write_text", full)
        run.write([Structure(Lattice.cubic(4), ["Po"], [[0, 0, 0]])])
    assert json.loads((tmp_path / "summary.json").read_text())["interrupted"]


def test_the_gallery_of_an_earlier_run_goes_with_its_structures(tmp_path, weights):
    page = tmp_path / "gallery.html"
    common = ["generate", "-n", "1", "-o", str(tmp_path), "--weights", weights]
    page.write_text("of no run")
    assert run(*common, "NaCl").exit_code == 0
    assert page.read_text() == "of no run"  # nothing here was made by dao-ase
    assert run(*common, "NaCl", "--gallery").exit_code == 0
    assert "Structures of NaCl" in page.read_text("utf-8")
    assert run(*common, "FeO", "-z", "two").exit_code != 0
    assert page.exists()  # what is refused touches nothing
    assert run(*common, "FeO").exit_code == 0
    assert not page.exists()


def test_a_gallery_goes_before_the_structures_that_it_shows(tmp_path, monkeypatch):
    with RunWriter(tmp_path):
        (tmp_path / "gallery.html").write_text("made of this run")
    with pytest.raises(OSError, match="No space left"), RunWriter(tmp_path):
        monkeypatch.setattr("dao_ase.runs.write_json", full)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["structures.extxyz", "summary.json"]


def test_a_full_disk_leaves_an_earlier_run_whole(tmp_path, monkeypatch):
    with RunWriter(tmp_path):
        (tmp_path / "gallery.html").write_text("made of this run")
    monkeypatch.setattr("dao_ase.runs.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        RunWriter(tmp_path).__enter__()
    assert (tmp_path / "gallery.html").exists()


def files_and_end(folder) -> tuple[list[str], bool]:
    """The CIF files of a folder, which are those of its summary, and whether the run was interrupted."""
    summary = json.loads((folder / "summary.json").read_text())
    files = sorted(file.name for file in folder.glob("*.cif"))
    assert files == [record["file"] for record in summary["structures"]]
    return files, summary["interrupted"]


def test_what_is_made_is_told_where_the_gallery_cannot_be_written(tmp_path, weights):
    (tmp_path / "gallery.html").mkdir()
    common = ["generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights]
    result = run(*common, "--gallery", "--json")
    assert result.exit_code == 1 and "but without gallery.html" in result.stderr
    assert [record["file"] for record in json.loads(result.stdout)["structures"]] == ["001_NaCl.cif"]


def test_nothing_made_is_a_failure(tmp_path, weights, monkeypatch):
    monkeypatch.setattr("dao_ase.generator.refusal", lambda structure: "distance")
    result = run("generate", "NaCl", "-n", "1", "-o", str(tmp_path), "--weights", weights, "--gallery")
    assert result.exit_code == 1 and "no structure could be made" in result.output
    assert json.loads((tmp_path / "summary.json").read_text())["refused"] == {"distance": 5}


def test_evaluate_writes_a_report_and_resumes(tmp_path, weights, monkeypatch):
    salts = [bulk(name, "rocksalt", a=5) for name in ("NaCl", "CsCl", "NaCl", "FeSi", "HCl", "NaCl")]
    write(tmp_path / "salts.extxyz", salts)
    monkeypatch.setattr("dao_ase.benchmark.PART", 2)
    arguments = ["evaluate", str(tmp_path / "salts.extxyz"), "--samples", "2", "--weights", weights, "--workers", "1"]
    arguments += ["-o", str(tmp_path / "out"), "--json"]
    first = json.loads(run(*arguments).stdout)
    assert first["references"] == 6 and first["samples"] == 2
    assert first["by_atoms"] == {"1-8": {"references": 6, "match_rate": first["match_rate"]}}
    log = tmp_path / "out" / "results.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:2]) + '{"half a li')
    again = json.loads(run(*arguments).stdout)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    parts = [json.loads(line)["results"] for line in log.read_text().splitlines()[1:]]
    assert len(parts) > 1
    others = {one["composition"]: len(one["others"]) for part in parts for one in part}
    assert others == {"NaCl": 4, "CsCl": 0, "FeSi": 0, "HCl": 0}  # no border parts polymorphs
    assert (tmp_path / "out" / "match.png").exists()
    kept = log.read_text()
    run(*arguments, "--seed", "1")
    assert (tmp_path / "out" / "results.before.jsonl").read_text() == kept != log.read_text()
    other = log.read_text()
    run(*arguments)
    assert (tmp_path / "out" / "results.before.2.jsonl").read_text() == other, "neither is overwritten"


def test_two_evaluations_do_not_write_into_one_folder(tmp_path, weights):
    write(tmp_path / "salt.cif", bulk("NaCl", "rocksalt", a=5.6))
    common = [
        "evaluate",
        str(tmp_path / "salt.cif"),
        "--weights",
        weights,
        "--workers",
        "1",
        "-o",
        str(tmp_path / "out"),
    ]
    assert run(*common).exit_code == 0
    with only_one(tmp_path / "out" / ".lock", "a test"):
        done = run(*common)
    assert done.exit_code == 1 and "another process is evaluating into" in done.output
    assert run(*common).exit_code == 0


def test_evaluate_counts_rows_that_cannot_be_read(tmp_path, weights):
    cif = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]]).to(fmt="cif")
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["material_id", "cif"], ["salt", cif], ["broken", "no crystal"]])
    arguments = ["--weights", weights, "--workers", "1", "-o", str(tmp_path / "out")]
    told = run("evaluate", str(tmp_path / "table.csv"), *arguments)
    assert "left out: 1 with a row that cannot be read (broken)" in told.stdout
    assert "1 references" in told.stdout


def test_evaluate_continues_with_the_same_crystals_alone(tmp_path, weights):
    """Benchmarks keep their crystals in files of one name; results of one are none of the other."""
    for place, salt in (("one", "NaCl"), ("two", "CsCl")):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "test.extxyz", bulk(salt, "rocksalt", a=5))
        arguments = ["evaluate", str(tmp_path / place / "test.extxyz"), "--weights", weights, "--workers", "1"]
        assert run(*arguments, "-o", str(tmp_path / "out")).exit_code == 0
        _, part = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
        assert [one["composition"] for one in json.loads(part)["results"]] == [salt]


@pytest.mark.parametrize(
    ("options", "has_a_say"), [([], False), (["--samples", "2"], True), (["--guidance", "1"], True)]
)
def test_evaluate_names_dao_p_where_it_has_a_say(tmp_path, options, has_a_say):
    """So that a run is not continued with another one."""
    write(tmp_path / "salt.extxyz", bulk("NaCl", "rocksalt", a=5))
    arguments = ["evaluate", str(tmp_path / "salt.extxyz"), "--workers", "1", "--json", "-o", str(tmp_path / "out")]
    arguments += ["--tries", "1", "--no-prototypes", *options]
    assert ("chosen by" in json.loads(run(*arguments).stdout)["settings"]) == has_a_say


def test_evaluate_leaves_out_what_was_trained_on(tmp_path, weights):
    write_rock_salts(tmp_path / "salt.npz")
    write_rock_salts(tmp_path / "train.npz", 3)
    arguments = ["evaluate", str(tmp_path / "salt.npz"), "--weights", weights, "--workers", "1", "--json"]
    arguments += ["-o", str(tmp_path / "out"), "--unseen-by", str(tmp_path / "train.npz")]
    report = json.loads(run(*arguments).stdout)
    assert report["references"] == 2 and report["settings"]["unseen by"] == "train.npz"


def test_identifiers_made_of_a_files_name_are_no_identifiers_of_what_was_trained_on(tmp_path, weights):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        salts = [Atoms("NaCl", cell=[a, a, a], scaled_positions=[[0, 0, 0], [0.5] * 3], pbc=True) for a in (4, 5)]
        write(tmp_path / folder / "all.extxyz", salts)
    arguments = ["evaluate", str(tmp_path / "test" / "all.extxyz"), "--weights", weights, "-o", str(tmp_path / "out")]
    result = run(*arguments, "--unseen-by", str(tmp_path / "train" / "all.extxyz"))
    assert result.exit_code == 1 and "have no identifiers" in result.output


def test_evaluate_counts_what_it_can_not_make(tmp_path, weights):
    salts = [Atoms("NaCl", cell=[4, 4, 4], scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], pbc=True) for _ in range(2)]
    write(tmp_path / "some.extxyz", [*salts, Atoms("XeCl", cell=[4, 4, 4], positions=[[0, 0, 0], [2, 2, 2]], pbc=True)])
    arguments = ["evaluate", str(tmp_path / "some.extxyz"), "--weights", weights, "--workers", "1", "--json"]
    report = json.loads(run(*arguments, "-o", str(tmp_path / "out")).stdout)
    assert report["references"] == 2 and report["left_out"] == {"untrained elements Xe": 1}


def test_evaluate_names_what_is_missing(tmp_path, weights):
    result = run("evaluate", "mp_20", "--data", str(tmp_path), "--weights", weights)
    assert result.exit_code == 1 and "mp20_test.csv" in result.output
    assert "neither a file" in run("evaluate", "mp_21", "--weights", weights).output


def test_rank_and_guidance_are_options(tmp_path, weights):
    result = run(
        "generate",
        "NaCl",
        "-n",
        "2",
        "-o",
        str(tmp_path),
        "--weights",
        weights,
        "--no-prototypes",
        "--rank",
        "none",
        "--json",
    )
    assert "energy_per_atom" not in json.loads(result.stdout)["structures"][0]
    result = run("generate", "NaCl", "-n", "2", "-o", str(tmp_path), "--weights", weights, "--guidance", "2")
    assert result.exit_code == 1 and "standardises lattices otherwise" in result.output
