"""Tasks and their report: methods beside each other, and what fails leaves the rest in place.

Forces come from potentials that are computed in no time; pw.x is a script that prints what the real one printed.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from dao_ase.compare import espresso_method
from dao_ase.compare.comparison import Settings, compare_all, write
from dao_ase.compare.methods import DaoPotential
from dao_ase.compare.plots import line_plot
from dao_ase.compare.search import SPHERES, SearchSettings, _to_refine, random_cell
from dao_ase.compare.tasks import Crystal, polymorphs
from dao_ase.espresso import pseudopotentials
from dao_ase.espresso.output import parse
from dao_ase.espresso.running import Machine
from dao_ase.radii import COVALENT_RADII
from pseudo import LIST, write_upf

PRINTED = Path(__file__).parent.parent / "espresso" / "printed"
EMT = "ase.calculators.emt:EMT"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A pw.x that prints a relaxation when asked for one, else a single calculation; and a pseudopotential."""
    program = tmp_path / "bin" / "pw.x"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nif grep -q vc-relax espresso.pwi; then cat {PRINTED}/vc_relax.pwo; else cat {PRINTED}/scf.pwo; fi\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    for package in ("DEBIAN", "CP2K"):
        monkeypatch.setattr(pseudopotentials, package, tmp_path / "none")
    write_upf(tmp_path / "upf" / "Si.UPF", "Si")
    return tmp_path


def settings(folder, task, **more):
    return Settings(task, folder / "report", pseudo_dirs=[folder / "upf"], **more)


SILICON = Crystal("silicon", bulk("Si", a=5.5))


def test_one_geometry(folder):
    report = compare_all([SILICON], settings(folder, "scf"))
    row = report["rows"][0]["methods"]
    assert row["pw.x"]["times"]["scf_iterations"] == 4
    against = row["DAO-P"]["against pw.x"]
    assert against["forces"]["largest"] < 1e-3 and abs(against["stress"]["pressure"]) < 5
    assert against["times_faster_processor"] == pytest.approx(1.08 / row["DAO-P"]["times"]["processor"])
    assert against["times_faster_moved"] == pytest.approx(1.08 / row["DAO-P"]["notes"]["moved"]["processor"])
    assert report["problems"] == [] and report["versions"]["pw.x"] == "6.7MaX"
    assert "K_POINTS" in next(iter(report["inputs"].values()))


def test_beside_a_gpu_all_are_timed_on_the_processor(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # one that cannot be used
    assert DaoPotential(0.01).evaluate(SILICON.atoms).notes["moved"]["processor"] > 0


def test_relaxation_and_its_page(folder):
    report = compare_all([Crystal("silicon", bulk("Si", a=5.6))], settings(folder, "vc-relax"))
    row = report["rows"][0]["methods"]
    assert row["pw.x"]["converged"] and row["pw.x"]["cell"]["volume"] == pytest.approx(41.1, abs=0.1)
    assert row["DAO-P"]["converged"] and row["DAO-P"]["energies"][-1] < 0
    assert 0 < row["pw.x"]["notes"]["pressure"] < 0.01 and report["remarks"] == []
    against = row["DAO-P"]["against pw.x"]
    assert against["rmse"] < 0.01 and abs(against["volume"]) < 0.04
    page = (folder / "report" / "report.html").read_text()
    assert json.loads((folder / "report" / "report.json").read_text())["rows"] == report["rows"]
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is loaded"
    for words in ("Relaxation of atoms and cell", "the way down", "relaxed by DAO-P", "Si.UPF", "sha256"):
        assert words in page


def test_energy_of_a_relaxed_cell_is_that_of_its_own_plane_waves(folder):
    report = compare_all([Crystal("silicon", bulk("Si", a=5.6))], settings(folder, "vc-relax"))
    steps = parse((PRINTED / "vc_relax.pwo").read_text()).steps
    assert steps[-1].energy != steps[-2].energy, "the way keeps the plane waves of the cell from which it began"
    row = report["rows"][0]["methods"]["pw.x"]
    assert row["energy_per_atom"] == steps[-1].energy / 2
    assert row["energies"][-1] == pytest.approx((steps[-2].energy - steps[0].energy) / 2)


def test_pressure_that_is_left_is_a_remark(folder, monkeypatch):
    monkeypatch.setattr(espresso_method, "ENOUGH", 0.001)
    report = compare_all([Crystal("silicon", bulk("Si", a=5.6))], settings(folder, "vc-relax"))
    assert "GPa are left at the end; ecutwfc is too low" in report["remarks"][0]


def test_gth_pseudopotentials_are_a_remark(folder):
    (folder / "upf" / "Si.UPF").unlink()
    (folder / "upf" / "GTH_POTENTIALS").write_text(LIST)
    (remark,) = compare_all([SILICON], settings(folder, "scf"))["remarks"]
    assert remark.startswith("Si_GTH-PBE-q4.gth is a GTH pseudopotential") and "trust neither its stresses" in remark


def test_equation_of_state_of_a_peer(folder):
    report = compare_all([Crystal("copper", bulk("Cu"))], settings(folder, "eos", peers=[EMT]))
    copper = report["rows"][0]["methods"][EMT]
    assert copper["volume"] == pytest.approx(11.6, abs=0.3) and copper["bulk_modulus"] == pytest.approx(134, rel=0.1)
    assert min(copper["energies"]) == 0
    problem = report["rows"][0]["methods"]["pw.x"]["problem"]
    assert "no PBE pseudopotential of Cu" in problem and len(report["problems"]) == 1


def test_equation_of_state_without_a_minimum_is_a_problem(folder):
    stretched = Crystal("copper", bulk("Cu", a=4.4))
    report = compare_all([stretched], settings(folder, "eos", peers=[EMT]))
    assert report["rows"][0]["methods"][EMT]["volume"] is None
    (said,) = [problem for problem in report["problems"] if EMT in problem]
    assert "no minimum between 0.94 and 1.06 times the volume" in said and "nearer to rest" in said


def test_without_the_program_the_rest_is_reported(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    report = compare_all([SILICON], settings(folder, "scf"))
    assert len(report["problems"]) == 1 and "pw.x is not on the PATH; install it" in report["problems"][0]
    assert "forces" in report["rows"][0]["methods"]["DAO-P"]
    assert "not on the PATH" in (folder / "report" / "report.html").read_text()
    report = compare_all([SILICON, Crystal("other", bulk("Si", a=5.5))], settings(folder, "scf"), left_out=["x: none"])
    assert [one.partition(": ")[0] for one in report["problems"]] == ["x", "silicon, pw.x; other, pw.x"]


def test_untrained_element_has_no_energy(folder):
    report = compare_all([Crystal("polonium", bulk("Po", "sc", a=3.3))], settings(folder, "scf"))
    assert "Po, which is outside" in report["rows"][0]["methods"]["DAO-P"]["problem"]


class WithoutStress(LennardJones):
    """A calculator that has no stress and says so by an error of its own."""

    def calculate(self, *arguments):
        super().calculate(*arguments)
        del self.results["stress"]


class Unfinished(LennardJones):
    """A calculator that cannot be made without settings."""

    def __init__(self):
        raise RuntimeError("no parameters for it")


def test_whatever_a_peer_raises_leaves_the_rest(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "their_calculators", sys.modules[__name__])
    peers = ["their_calculators:WithoutStress"]
    report = compare_all([SILICON], settings(folder, "scf", peers=peers))
    methods = report["rows"][0]["methods"]
    assert "KeyError: 'stress'" in methods[peers[0]]["problem"] and "times" in methods["DAO-P"]
    assert [one.partition(":")[0] for one in report["problems"]] == ["silicon, their_calculators"]
    with pytest.raises(ValueError, match=r"--with .*: no parameters for it"):
        compare_all([SILICON], settings(folder, "scf", peers=["their_calculators:Unfinished"]))


def test_walltime_begins_nothing_more_and_continues(folder):
    report = compare_all([SILICON], settings(folder, "scf", walltime=0.0))
    assert "walltime is used up" in report["problems"][0]
    assert compare_all([SILICON], settings(folder, "scf"))["problems"] == []
    assert compare_all([SILICON], settings(folder, "scf", walltime=0.0))["problems"] == [], "finished ones are read"


def test_polymorphs_are_ordered_by_each_method(folder):
    diamond, beta_tin = SILICON, Crystal("β-tin", bulk("Si", "bct", a=4.8, c=2.6))
    report = compare_all([diamond, beta_tin], settings(folder, "scf", machine=Machine(timeout=60)))
    groups = {one["method"]: one for one in report["polymorphs"][0]["methods"]}
    assert [place["structure"] for place in groups["DAO-P"]["order"]] == ["silicon", "β-tin"]
    assert polymorphs([report["rows"][0]]) == []


def test_names_are_escaped(folder):
    report = compare_all([Crystal("<script>alert(1)</script>", bulk("Si", a=5.5))], settings(folder, "scf"))
    write(report, folder / "again")
    assert "<script>alert(1)" not in (folder / "again" / "report.html").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"task": "md"},
        {"walltime": float("nan")},
        {"extra": {"ecutwfc": "abc"}},
        {"kspacing": -1.0},
        {"preset": "sloppy"},
    ],
)
def test_wrong_settings(folder, change):
    with pytest.raises(ValueError, match=r"is none of|must"):
        settings(folder, **{"task": "scf"} | change)


@pytest.mark.parametrize("name", ["no_such_module:Calculator", "os:path", "guess"])
def test_unknown_peer(folder, name):
    with pytest.raises(ValueError, match="--with"):
        compare_all([SILICON], settings(folder, "scf", peers=[name]))


def test_random_cells_have_room_and_follow_the_seed():
    numbers = [11, 17, 17, 8]
    radii = np.array([COVALENT_RADII[number] for number in numbers])
    one, again, other = (random_cell(numbers, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.positions, again.positions)
    assert not np.allclose(one.cell.lengths(), other.cell.lengths())
    distance = one.get_all_distances(mic=True) + 9 * np.eye(4)
    assert (distance > 0.79 * (radii[:, None] + radii[None])).all()


def test_random_cells_of_many_atoms_are_no_larger_than_those_of_few():
    radii = np.array([COVALENT_RADII[number] for number in [55, 23, 23, 23, 51, 51, 51, 51, 51]])
    volumes = [
        random_cell([55, 23, 23, 23, 51, 51, 51, 51, 51], np.random.default_rng(n)).get_volume() for n in range(5)
    ]
    assert np.mean(volumes) < 1.2 * SPHERES * (4 / 3 * np.pi * radii**3).sum()


def test_search_reports_both_ways(folder):
    known = {"Si2": bulk("Si", a=5.43)}
    from dao_ase.convert import structure_from_atoms

    search = SearchSettings(number=3, refine=1, budget=3.0)
    report = compare_all(
        [Crystal("Si2", bulk("Si"))],
        settings(folder, "search", search=search),
        {name: structure_from_atoms(atoms) for name, atoms in known.items()},
    )
    row = report["rows"][0]
    assert len(row["DAO"]["candidates"]) == 3
    energies = [one["energy_per_atom"] for one in row["DAO"]["candidates"]]
    assert energies[0] < min(energies) + 0.1, "the likeliest is among the lowest"
    assert len(row["refined"]) == 1 and row["random"] and row["pw.x on the known structure"]["rmse"] < 0.05
    assert set(row["best"]) == {"DAO, then pw.x", "pw.x alone", "pw.x on the known structure"}
    found = row["best"]["DAO, then pw.x"]
    assert found["matched"] == found["converged"] == found["calculations"] == 1
    assert found["processor"] == pytest.approx(18.97 + row["DAO"]["times"]["processor"])
    page = (folder / "report" / "report.html").read_text()
    assert "Search: Si2" in page and "the way down" in page and "convergence of pw.x, rank 1" in page


@pytest.fixture
def looking(folder):
    """What a search for silicon reports; ``pw.x`` is the shell script given, or the one of ``folder``."""

    def look(script=None, **more):
        if script is not None:
            (folder / "bin" / "pw.x").write_text(f"#!/bin/sh\n{script}\n")
        chosen = {"number": 3, "refine": 2, "budget": 30.0} | more.pop("search", {})
        changed = settings(folder, "search", search=SearchSettings(**chosen), **more)
        return compare_all([Crystal("Si2", bulk("Si"))], changed)

    return look


def test_search_refines_only_structures_that_differ(looking):
    row = looking(search={"number": 6, "refine": 6, "budget": 0.0})["rows"][0]
    ranks = [one["rank"] for one in row["refined"]]
    assert ranks == sorted(set(ranks)) and ranks[0] == 1 and len(ranks) < 6, "two atoms have not six crystals"


def test_of_equal_candidates_the_most_symmetric_is_refined():
    from pymatgen.core import Lattice, Structure

    cubic = Structure(Lattice.cubic(2.9), ["Cs", "Cl"], [[0] * 3, [0.5] * 3])
    strained = Structure(Lattice.from_parameters(2.9, 2.91, 2.93, 90.3, 90, 89.5), cubic.species, cubic.frac_coords)
    other = Structure(Lattice.from_parameters(3.6, 3.6, 3.6, 60, 60, 60), cubic.species, cubic.frac_coords)
    assert _to_refine([strained, cubic, other], [-3.0005, -3.0, -2.9]) == [1, 2]
    assert _to_refine([strained, cubic, other], [-3.01, -3.0, -2.9]) == [0, 2], (
        "a symmetry that costs energy is another matter"
    )
    assert _to_refine([cubic, strained], [None, None]) == [0]


def test_search_keeps_what_was_proposed_and_repeats_nothing(looking, monkeypatch):
    first = looking()["rows"][0]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # no pw.x any more
    again = looking(walltime=0.0)["rows"][0]
    assert again["DAO"] == first["DAO"] and again["refined"] == first["refined"] and again["random"] == first["random"]


def test_relaxing_the_atoms_alone_keeps_the_cell(looking):
    row = looking(f"cat {PRINTED}/unrelaxed.pwo; exit 3", search={"task": "relax", "budget": 0.0})["rows"][0]
    assert row["refined by"] == "relax" and not row["refined"][0]["converged"] and row["random"] == []
    assert "not relaxed after" in row["problems"][0]


def test_random_cell_that_does_not_converge_costs_its_time(looking):
    row = looking(f"cat {PRINTED}/unconverged.pwo; exit 2", search={"budget": 2.0})["rows"][0]
    assert row["random"][0]["times"]["processor"] == 0.2 and row["best"]["pw.x alone"]["energy"] is None
    assert len(row["random"]) in (5, 6), "until not more than a second is left"
    assert all(one["kind"] == "not converged" for one in row["random"])


def test_random_search_ends_when_all_fails(looking):
    report = looking(f"cat {PRINTED}/failed.pwo; exit 1")
    assert len(report["rows"][0]["random"]) == 3
    assert any("pw.x alone used" in one and "of its 30 s" in one for one in report["problems"])
    assert any("smearing nonsense unknown" in one for one in report["problems"])


def test_random_cell_that_was_cut_off_gets_no_second_budget(looking):
    script = f"echo x >> ../../../calls; cat {PRINTED}/stopped.pwo; mkdir -p state; exit 255"
    row = looking(script, search={"refine": 1, "budget": 2.0})["rows"][0]
    attempts = [one["notes"]["attempts"] for one in row["random"]]
    assert row["random"][0]["notes"]["end"] == "cut off after 2 ionic steps, when the time was spent"
    assert attempts == [2] and row["random"][0]["times"]["processor"] == pytest.approx(2 * 0.52), (
        "it goes on until then"
    )
    again = looking(script, search={"refine": 1, "budget": 2.0})["rows"][0]
    assert again["random"] == row["random"], "the candidate goes on, the random cell does not"
    assert again["refined"][0]["notes"]["attempts"] == 2


def test_search_without_the_program_keeps_the_candidates(looking, monkeypatch):
    monkeypatch.setenv("PATH", "")
    report = looking()
    assert len(report["rows"][0]["DAO"]["candidates"]) == 3 and len(report["problems"]) == 1
    assert "pw.x is not on the PATH; install it" in report["problems"][0]


def test_search_that_can_not_begin_leaves_the_others(folder):
    crystals = [Crystal("Si2", bulk("Si")), Crystal("Po2", bulk("Po", "sc", a=3.3))]
    report = compare_all(crystals, settings(folder, "search", search=SearchSettings(number=1, budget=0.0)))
    assert "best" in report["rows"][0] and "Po" in report["problems"][-1]
    assert "Search: Po2" in (folder / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    "change", [{"number": 0}, {"refine": 0}, {"seed": -1}, {"budget": -1.0}, {"budget": float("nan")}]
)
def test_wrong_settings_of_a_search(change):
    with pytest.raises(ValueError, match="must"):
        SearchSettings(**change)


def test_plot_has_a_line_for_each_series():
    drawn = line_plot({"a<b": [(1, 1.0), (2, 0.1)], "zero": [(1, 0.0), (2, 1e-3)]}, "x", "y", logarithmic=True)
    assert drawn.count("<polyline") == 2 and "a&lt;b" in drawn and "1e-2" in drawn
    assert line_plot({"none": []}, "x", "y") == ""
