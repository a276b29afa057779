"""Hulls of chemical systems against pymatgen, and the files that phases come from."""

import gzip
import json
from functools import partial

import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner
from monty.serialization import dumpfn
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from dao_ase.cli import main
from dao_ase.database import Outcome, ScreenDatabase
from dao_ase.hull_plot import plot_hull
from dao_ase.phase_diagram import Hull, Phase, missing_elements, phases_of, read_phases, systems_of
from dao_ase.rank import relax_structures
from dao_ase.runs import RunWriter

ELEMENTS = [Phase("Na", -1.3), Phase("Cl2", -1.8), Phase("K", -1.1)]
SALTS = [Phase("NaCl", -3.3, "salt"), Phase("KCl", -3.2, "sylvite"), Phase("Na2Cl", -2.0, "wrong", True)]


def test_heights_equal_pymatgen():
    hull = Hull(["Na", "Cl", "K"], [*ELEMENTS, *SALTS, Phase("MgO", -6)])
    entries = [
        PDEntry(Composition(p.formula), p.energy_per_atom * Composition(p.formula).num_atoms) for p in hull.phases
    ]
    diagram = PhaseDiagram(entries)
    assert len(entries) == 6, "what is not of the system is left out"
    for phase, entry in zip(hull.phases, entries, strict=True):
        assert hull.above(phase) == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-6)
    assert hull.ordered()[-1][0].source == "wrong"


def test_what_is_below_the_hull_is_negative():
    hull = Hull(["Na", "Cl"], ELEMENTS + SALTS[:1])
    assert hull.above(Phase("NaCl", -3.4)) == pytest.approx(-0.1)
    assert hull.above(Phase("Na3Cl", -4.0)) < 0


def test_every_element_needs_a_phase():
    assert missing_elements("Na Cl Br".split(), ELEMENTS) == ["Br"]
    with pytest.raises(ValueError, match=r"Cl-Na.*no phase of Na alone.*screen it"):
        Hull(["Na", "Cl"], [ELEMENTS[1]])


def test_systems_are_the_largest():
    assert systems_of([*ELEMENTS, *SALTS]) == [frozenset({"Na", "Cl"}), frozenset({"K", "Cl"})] or systems_of(
        [*ELEMENTS, *SALTS]
    ) == [frozenset({"K", "Cl"}), frozenset({"Na", "Cl"})]


def test_phases_of_a_table(tmp_path):
    (tmp_path / "phases.csv").write_text("composition,energy_per_atom\nNaCl,-3.3\nCl2,-1.8\n")
    assert [(p.formula, p.energy_per_atom) for p in read_phases([tmp_path / "phases.csv"])] == [
        ("NaCl", -3.3), ("Cl2", -1.8),
    ]  # fmt: skip
    (tmp_path / "bad.csv").write_text("composition,energy_per_atom\nNaCl,low\n")
    with pytest.raises(ValueError, match=r"bad\.csv:2.*energy_per_atom"):
        read_phases([tmp_path / "bad.csv"])


def test_phases_of_pymatgen_entries(tmp_path):
    dumpfn([ComputedEntry("Na2Cl2", -13.2, entry_id="mp-1"), ComputedEntry("Na", -1.3)], tmp_path / "entries.json")
    first, second = read_phases([tmp_path / "entries.json"])
    assert (first.formula, first.source) == ("Na2Cl2", "mp-1") and first.energy_per_atom == pytest.approx(-3.3)
    assert second.energy_per_atom == pytest.approx(-1.3)


def test_structures_bring_their_energy_or_get_that_of_dao_p(tmp_path):
    known, bare = bulk("NaCl", "rocksalt", a=5.64), bulk("Na", "bcc", a=4.2)
    known.calc = SinglePointCalculator(known, energy=-6.6)
    write(tmp_path / "phases.extxyz", [known, bare])
    salt, metal = read_phases([tmp_path / "phases.extxyz"])
    assert salt.energy_per_atom == pytest.approx(-3.3) and metal.formula == "Na" and -2 < metal.energy_per_atom < -0.5
    again, _ = read_phases([tmp_path / "phases.extxyz"], recompute=True)
    assert again.energy_per_atom != pytest.approx(-3.3, abs=1e-3)


def test_references_that_are_not_relaxed_are_named(tmp_path, monkeypatch, caplog):
    stretched = bulk("Na", "bcc", a=4.6)
    write(tmp_path / "Na.extxyz", stretched)
    monkeypatch.setattr("dao_ase.rank.relax_structures", partial(relax_structures, steps=1))
    read_phases([tmp_path / "Na.extxyz"])
    assert "Na.extxyz: Na is not at rest after 1 steps, its energy is too high" in caplog.text
    stretched.info["energy_per_atom"] = -9.0  # of another scale
    write(tmp_path / "Na.extxyz", stretched)
    monkeypatch.setattr("dao_ase.rank.relax_structures", list)  # nothing can be relaxed
    with pytest.raises(ValueError, match=r"Na\.extxyz: DAO-P has no energy for Na"):
        read_phases([tmp_path / "Na.extxyz"])


def test_tables_of_spreadsheets_and_packed_ones(tmp_path):
    rows = "Composition;Energy_per_atom;note\nNaCl;-3.3;a, b\n;;\nCl2;-1.8\n"
    (tmp_path / "SHEET.CSV").write_text(rows)
    with gzip.open(tmp_path / "tabs.csv.gz", "wt") as file:
        file.write(rows.replace(";", "\t"))
    for name in ("SHEET.CSV", "tabs.csv.gz"):
        found = read_phases([tmp_path / name])
        assert found == [Phase("NaCl", -3.3, f"{name}:2"), Phase("Cl2", -1.8, f"{name}:4")]
    with pytest.raises(ValueError, match=r"SHEET\.CSV: --recompute needs structures"):  # the scales would be mixed
        read_phases([tmp_path / "SHEET.CSV"], recompute=True)


def test_decimal_commas_and_tables_with_tabs(tmp_path):
    (tmp_path / "sheet.csv").write_text("composition;energy_per_atom\nNaCl;-3,25\n")
    (tmp_path / "sheet.tsv").write_text("composition\tenergy_per_atom\nNaCl\t-3.25\n")
    for name in ("sheet.csv", "sheet.tsv"):
        assert read_phases([tmp_path / name]) == [Phase("NaCl", -3.25, f"{name}:2")]


def test_formulas_stand_in_the_columns_of_the_materials_project(tmp_path):
    (tmp_path / "mp.csv").write_text("material_id,formula_pretty,energy_per_atom\nmp-1,NaCl,-3.3\n")
    assert read_phases([str(tmp_path / "mp.csv")]) == [Phase("NaCl", -3.3, "mp.csv:2")]


def test_json_of_pymatgen_in_every_shape(tmp_path):
    entry = ComputedEntry("Na2Cl2", -13.2, entry_id="mp-1")
    dumpfn([entry], tmp_path / "entries.json.gz")
    dumpfn(entry, tmp_path / "one.json")
    for name in ("entries.json.gz", "one.json"):
        assert read_phases([tmp_path / name]) == [Phase("Na2Cl2", entry.energy_per_atom, "mp-1")]
    Structure(Lattice.cubic(4.2), ["Na", "Na"], [[0] * 3, [0.5] * 3]).to(filename=str(tmp_path / "Na.json"))
    (metal,) = read_phases([tmp_path / "Na.json"])
    assert metal.formula == "Na2" and -2 < metal.energy_per_atom < -0.5
    dumpfn([ComputedEntry({"Na": 0.5}, -0.6)], tmp_path / "half.json")
    with pytest.raises(ValueError, match=r"half\.json: 'Na0.5' has 0.5 atoms"):
        read_phases([tmp_path / "half.json"])


def test_partly_occupied_sites_are_no_reference(tmp_path):
    alloy = Structure(Lattice.cubic(3.8), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    alloy.to(filename=str(tmp_path / "alloy.cif"))
    with pytest.raises(ValueError, match=r"alloy\.cif: sites are partly occupied"):
        read_phases([tmp_path / "alloy.cif"])


def test_folders_of_runs_are_references(tmp_path):
    with RunWriter(tmp_path / "generated") as run:
        run.write(
            [Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0] * 3, [0.5] * 3], properties={"energy_per_atom": -3.3})]
        )
    (tmp_path / "screened").mkdir()
    (tmp_path / "screened" / "screen.json").write_text('{"run": "test", "database": "screen.db"}')
    potassium = bulk("K", "bcc", a=5.3)
    potassium.info = {"rank": 1, "energy_per_atom": -1.1, "converged": False}
    rows = [Outcome("K", [potassium]), Outcome("Xx", error="no element")]
    ScreenDatabase(tmp_path / "screened" / "screen.db", "test").write(rows)
    found = read_phases([tmp_path / "generated", tmp_path / "screened"])
    assert [(one.formula, one.energy_per_atom, one.candidate) for one in found] == [
        ("NaCl", -3.3, False),
        ("K", -1.1, False),
    ]
    assert found[0].source == "generated/001_NaCl.cif"
    assert found[1].source == "screened:1"  # a row of the database; there is no file
    done = CliRunner().invoke(main, ["hull", str(tmp_path / "screened")])
    assert done.exit_code == 0 and "screened:1, not at rest" in done.stdout
    (row,) = json.loads(CliRunner().invoke(main, ["hull", str(tmp_path / "screened"), "--json"]).stdout)
    assert row["converged"] is False
    with pytest.raises(ValueError, match="no folder of 'dao-ase screen'"):
        read_phases([tmp_path])


def test_files_that_are_no_entries_are_named(tmp_path):
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(ValueError, match=r"cut\.json: is no JSON"):
        read_phases([tmp_path / "cut.json"])
    with pytest.raises(ValueError, match="'Xx' is not the symbol"):
        Hull(["Na", "Xx"], ELEMENTS)


def test_a_file_of_molecules_is_named(tmp_path):
    write(tmp_path / "water.xyz", molecule("H2O"))
    with pytest.raises(ValueError, match=r"water\.xyz: the cell .* has no volume"):
        read_phases([tmp_path / "water.xyz"])


def test_candidates_without_an_energy_are_counted(tmp_path):
    properties = ({"energy_per_atom": -1.3}, {})
    with RunWriter(tmp_path / "run") as run:
        run.write([Structure(Lattice.cubic(3), ["Na"], [[0, 0, 0]], properties=one) for one in properties])
    done = CliRunner().invoke(main, ["hull", f"{tmp_path}/run"])
    assert "at rest" not in done.stdout, "none of them was to be relaxed"
    assert done.exit_code == 0 and "run: 1 of 2 structures are left out, they have no energy" in done.stderr
    assert "*Na" in done.stdout
    done = CliRunner().invoke(main, ["hull", f"{tmp_path}/run", "--plot", f"{tmp_path}/run/summary.json/hull.png"])
    assert done.exit_code == 1 and "*Na" in done.stdout, "a picture that cannot be written hides no table"


def test_candidates_are_structures_with_an_energy():
    salt = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    salt.properties = {"energy_per_atom": -3.0, "file": "001.cif"}
    (phase,) = phases_of([salt, Structure(Lattice.cubic(3), ["Na"], [[0, 0, 0]])])
    assert phase == Phase("NaCl", -3.0, "001.cif", True)


@pytest.mark.parametrize("elements", [["Na", "Cl"], ["Na", "Cl", "K"], ["Na", "Cl", "K", "Br"]])
def test_pictures(tmp_path, elements):
    phases = [*ELEMENTS, *SALTS, Phase("Br", -1.6), Phase("NaKClBr", -2.9, "double", True)]
    picture = plot_hull(Hull(elements, phases), tmp_path / "hull.png")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


def test_a_table_from_excel_and_rows_that_are_wrong(tmp_path):
    file = tmp_path / "references.csv"
    file.write_text("composition,energy_per_atom\nNa,-1.3\n", encoding="utf-8-sig")
    assert read_phases([file]) == [Phase("Na", -1.3, "references.csv:2")]
    for text, reason in (
        ("composition,energy_per_atom\nNa,nan\n", r"references.csv:2: .*the energy of Na is nan eV/atom"),
        ("composition,energy_per_atom\n,-1\n", "references.csv:2: .*no composition"),
        ("composition,energy_per_atom\nNa,-1,\nNa,-1,3\n", "references.csv:3: .*more cells than there are columns"),
        ("formula,energy\nNa,-1\n", "there are: formula, energy"),
        ("", "there are: none"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_phases([file])
