"""The database of a screening: each composition once, rows that ASE reads, and nothing of a transaction that was cut."""

import sqlite3

import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from dao_ase.database import Outcome, ScreenDatabase


def outcome(formula: str, count: int = 2) -> Outcome:
    structures = []
    for rank in range(1, count + 1):
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.calc = SinglePointCalculator(atoms, energy=-6.0 + 0.1 * rank, forces=atoms.positions * 0)
        atoms.info = {"rank": rank, "energy_per_atom": -3.0 + 0.05 * rank, "space_group": "Fm-3m", "seed": 0}
        structures.append(atoms)
    return Outcome(formula, structures, provenance={"versions": {"dao-ase": "0"}}, seconds=1.5)


def test_rows_are_as_ase_reads_them(tmp_path):
    ScreenDatabase(tmp_path / "screen.db", "run").write([outcome("NaCl"), Outcome("Xx", error="no element")])
    rows = list(connect(tmp_path / "screen.db").select(composition="NaCl"))
    assert [row.rank for row in rows] == [1, 2] and rows[0].energy == pytest.approx(-5.9)
    assert rows[0].data["provenance"]["versions"] == {"dao-ase": "0"}
    assert rows[0].toatoms().get_chemical_formula() == "ClNa" and rows[0].forces.shape == (2, 3)
    (bad,) = connect(tmp_path / "screen.db").select("error")
    assert bad.error == "no element" and bad.composition == "Xx" and bad.natoms == 0


def test_what_stands_there_stays(tmp_path):
    database = ScreenDatabase(tmp_path / "screen.db", "run")
    database.write([outcome("NaCl", 1)])
    database.write([outcome("NaCl", 3), outcome("KCl", 1)])
    assert {line.composition: line.structures for line in database.done()} == {"NaCl": 1, "KCl": 1}
    assert len(list(database.rows())) == 2


def test_a_second_line_is_refused_by_the_database_itself(tmp_path):
    ScreenDatabase(tmp_path / "screen.db", "run").write([outcome("NaCl")])
    with sqlite3.connect(tmp_path / "screen.db") as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO dao_ase_done SELECT * FROM dao_ase_done")


def test_an_error_half_way_leaves_nothing(tmp_path):
    database = ScreenDatabase(tmp_path / "screen.db", "run")
    bad = outcome("KCl")
    bad.structures[1].info["space_group"] = [1, 2]  # ASE refuses a list among the values
    with pytest.raises(ValueError, match="space_group"):
        database.write([outcome("NaCl"), bad])
    assert database.done() == [] and list(database.rows()) == []
    database.write([outcome("NaCl")])
    assert len(list(database.rows())) == 2


def test_runs_share_a_database(tmp_path):
    first, second = (ScreenDatabase(tmp_path / "screen.db", run) for run in ("first", "second"))
    first.write([outcome("NaCl", 1)])
    second.write([outcome("NaCl", 2)])
    assert len(list(first.rows())) == 1 and len(list(second.rows())) == 2


@pytest.mark.parametrize("formula", ["InF", "NaN", "INF"])
def test_formulas_that_read_as_numbers(tmp_path, formula):
    database = ScreenDatabase(tmp_path / "screen.db", "run")
    database.write([outcome(formula, 1)])
    assert [line.composition for line in database.done()] == [formula]


@pytest.mark.parametrize("text", ["123", "1e5", "True"])
def test_what_is_no_formula_and_reads_as_another_value_is_a_row_with_its_error(tmp_path, text):
    database = ScreenDatabase(tmp_path / "screen.db", "run")
    database.write([outcome("NaCl", 1), Outcome(text, error="is no formula")])
    assert [line.composition for line in database.done() if line.error] == [text]
    (row,) = (row for row in database.rows() if "error" in row)
    assert row.composition == repr(text)


def test_best_of_each_composition_comes_first(tmp_path):
    database = ScreenDatabase(tmp_path / "screen.db", "run")
    far, near = outcome("KCl"), outcome("NaCl")
    for shift, one in ((0.3, far), (0.0, near)):
        for atoms in one.structures:
            atoms.info["e_above_hull"] = shift + 0.1 * atoms.info["rank"]
    database.write([far, Outcome("Xx", error="no element"), near])
    found = database.structures()
    assert [(one.properties["composition"], one.properties["rank"]) for one in found] == [
        ("NaCl", 1), ("KCl", 1), ("NaCl", 2), ("KCl", 2),
    ]  # fmt: skip
    assert found[0].properties["file"].endswith("_NaCl.cif") and len(database.structures(limit=3)) == 3
