"""Match rates and validity, on pairs whose answer is known."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystals import CRYSTALS, write_npz
from dao_ase.benchmark import find_benchmark, references, run_benchmark
from dao_ase.evaluate import evaluate, is_charge_neutral, is_valid, match
from dao_ase.gates import refusal
from dao_ase.generator import DAOGenerator

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
BLENDE = Structure.from_spacegroup("F-43m", Lattice.cubic(5.4), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]])
SHAKEN = SALT.copy().perturb(0.05)
CLASH = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.02, 0, 0]])


def test_match_is_blind_to_cell_and_small_displacements():
    assert match(SALT.get_primitive_structure(), SALT) == pytest.approx(0, abs=1e-6)
    assert 0 < match(SHAKEN, SALT) < 0.1
    assert match(CLASH, SALT) is None
    assert match(Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0.5, 0.5, 0.5]]), SALT) is None


def test_report_counts_first_best_and_valid():
    references = [SALT, SALT, SALT]
    report = evaluate([[CLASH, SHAKEN], [SALT, CLASH], [CLASH, CLASH]], references, workers=1)
    assert report.match_rate == pytest.approx(2 / 3)
    assert report.first_match_rate == pytest.approx(1 / 3)
    assert report.valid_share == pytest.approx(1 / 3)
    assert report.match_rate_filtered == pytest.approx(2 / 3)


def test_polymorphs_share_their_predictions():
    caesium_chloride = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    references = [SALT, caesium_chloride, BLENDE]
    report = evaluate([[caesium_chloride], [SALT], [BLENDE]], references, workers=1)
    assert report.match_rate == pytest.approx(1 / 3)
    assert report.metre == 1
    assert report.crmse == pytest.approx(0, abs=1e-6)
    assert report.polymorphs == {"2": 1.0, "3": None, "4": None}
    missed = evaluate([[SALT], [SALT], [CLASH]], references, workers=1)
    assert missed.metre == pytest.approx(1 / 3)
    assert missed.crmse == pytest.approx(2 / 3 * 0.5, abs=1e-6)
    assert missed.polymorphs["2"] == 0


def test_parallel_equals_serial():
    predicted, reference = [[SHAKEN], [CLASH]] * 3, [SALT] * 6
    assert evaluate(predicted, reference, workers=2) == evaluate(predicted, reference, workers=1)


def test_counts_that_do_not_fit():
    with pytest.raises(ValueError, match="2 lists"):
        evaluate([[SALT], [SALT]], [SALT])


@pytest.mark.parametrize(
    ("counts", "neutral"),
    [
        ((("Na", 1), ("Cl", 1)), True),
        ((("Na", 1), ("Cl", 5)), False),
        ((("Fe", 2), ("Al", 3)), True),
        ((("Si", 8),), True),
    ],
)
def test_charge_neutrality(counts, neutral):
    assert is_charge_neutral(counts) is neutral


def test_validity_and_gates():
    assert is_valid(SALT) and not is_valid(CLASH)
    assert refusal(SALT) is None
    assert refusal(CLASH) == "distance"
    assert refusal(Structure(Lattice.orthorhombic(2, 3, 60), ["Na"], [[0, 0, 0]])) == "aspect"
    layers = Lattice.hexagonal(3.19, 39.8)  # four layers of a dichalcogenide under a vacuum, as they are published
    assert (
        refusal(Structure(layers, ["Mo", "S", "S"], [[0, 0, 0], [1 / 3, 2 / 3, 0.04], [1 / 3, 2 / 3, -0.04]])) is None
    )
    assert refusal(Structure(Lattice.cubic(1), ["Na"], [[0, 0, 0]])) == "volume"
    skewed = Lattice.from_parameters(4, 4, 4, 90, 90, 5)  # no edge is short, but one diagonal is
    assert refusal(Structure(skewed, ["Na"], [[0, 0, 0]])) == "distance"


def test_one_structure_for_each_reference_is_enough():
    assert evaluate([SHAKEN, CLASH], [SALT, SALT], workers=1) == evaluate([[SHAKEN], [CLASH]], [SALT, SALT], workers=1)


def test_oxidation_states_do_not_matter():
    charged = SALT.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert match(charged, SALT) == match(SALT, charged) == pytest.approx(0, abs=1e-6)
    assert evaluate([charged], [charged], workers=1) == evaluate([SALT], [SALT], workers=1)


def test_a_thread_may_evaluate():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(evaluate, [SALT], [SALT], workers=1).result().match_rate == 1


def test_the_worker_of_a_pool_may_evaluate():
    with get_context("spawn").Pool(1) as pool:  # its workers may have none of their own
        assert pool.apply(evaluate, ([SALT, CLASH], [SALT, SALT])).match_rate == 0.5


def test_what_cannot_be_compared_is_named():
    alloy = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    for predicted, reference in (([SALT, SALT], [SALT, alloy]), ([SALT, [SALT, alloy]], [SALT, SALT])):
        with pytest.raises(ValueError, match=r"reference 1 .* has partly occupied sites"):
            evaluate(predicted, reference, workers=1)
    for timeout in (0, -1):
        with pytest.raises(ValueError, match=f"timeout is {timeout} s"):
            evaluate([SALT], [SALT], timeout=timeout)


def test_a_script_without_a_main_guard_may_evaluate(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pymatgen.core import Lattice, Structure\n"
        "from dao_ase.evaluate import evaluate\n"
        "salt = Structure.from_spacegroup('Fm-3m', Lattice.cubic(5.6), ['Na', 'Cl'], [[0, 0, 0], [0.5, 0.5, 0.5]])\n"
        "print(evaluate([salt] * 3, [salt] * 3, workers=2).match_rate)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "1.0\n", done.stderr


def test_a_folder_beside_the_user_does_not_hide_the_benchmark_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "mp_20").mkdir()
    (tmp_path / "mp_20" / "test.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert find_benchmark("mp_20", Path()) == Path("mp_20/test.csv")
    with pytest.raises(ValueError, match="no test file of perov_5"):
        find_benchmark("perov_5", Path())


def test_a_refused_run_leaves_the_results_of_earlier_ones_in_their_place(tmp_path):
    (tmp_path / "results.jsonl").write_text("{}\n")
    source = write_npz(tmp_path / "a.npz", {"salt": CRYSTALS["salt"]})
    with pytest.raises(ValueError, match="guidance is nan"):
        run_benchmark(DAOGenerator(), source, tmp_path, guidance=math.nan)
    assert (tmp_path / "results.jsonl").read_text() == "{}\n"


def test_why_no_reference_can_be_read_is_said(tmp_path):
    (tmp_path / "a.cif").write_text(str(CifWriter(CRYSTALS["salt"])).replace("Na0  1  0.0", "Na0  1  nowhere"))
    with pytest.raises(ValueError, match=r"no crystal that can be read; row 0: .*no structures"):
        references(tmp_path / "a.cif", None, 0)
