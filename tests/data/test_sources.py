"""Sources: every format gives the crystal that was written; what is broken is named and the rest is kept."""

import csv
import gzip
import json
import re
import zipfile

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.cif import CifWriter

from crystals import CRYSTALS, SHARED, needs_shared, write_csv, write_npz
from dao_ase.data.records import Record
from dao_ase.data.sources import open_source, read


def read_all(path):
    rejected = []
    return list(read(open_source(path), rejected.append)), rejected


def assert_same_crystals(records):
    assert [record.id for record in records] == list(CRYSTALS)
    for record, expected in zip(records, CRYSTALS.values(), strict=True):
        found = Structure(record.lattice, record.atomic_numbers.tolist(), record.frac_coords)
        assert found.matches(expected, scale=False) and len(found) == len(expected)
        assert found.volume == pytest.approx(expected.volume, rel=1e-6)


def test_npz(tmp_path):
    file = write_npz(tmp_path / "a.npz", CRYSTALS, energy=[1, 2, 3, np.nan])
    records, rejected = read_all(file)
    assert_same_crystals(records)
    assert not rejected and [record.labels["energy"] for record in records[:3]] == [1, 2, 3]
    assert [(record.source, record.row) for record in records] == [("a.npz", row) for row in range(4)]


@pytest.mark.parametrize("column", [7, [1, 2, 3]])
def test_npz_with_an_array_that_is_of_no_crystals_names_it(tmp_path, column):
    file = write_npz(tmp_path / "a.npz", CRYSTALS, remarks=column)
    with pytest.raises(ValueError, match=r"the array 'remarks' has the shape .* 4 crystals"):
        read_all(file)


@pytest.mark.parametrize("symprec", [None, 0.01])
@pytest.mark.parametrize("packed", [False, True])
def test_csv(tmp_path, symprec, packed):
    file = write_csv(tmp_path / "a.csv", CRYSTALS, symprec, e_above_hull=[0, 0.1, 0.2, 0.3])
    if packed:
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
        file = tmp_path / "a.csv.gz"
    records, rejected = read_all(file)
    assert_same_crystals(records)
    assert not rejected and records[2].labels["e_above_hull"] == 0.2 and records[2].texts["pretty_formula"] == "TiO2"


@pytest.mark.parametrize("packing", [".gz", ".zip", ".GZ"])
def test_a_packed_table_has_the_identifiers_of_the_plain_one(tmp_path, packing):
    texts = {
        "a.csv": SOURCE_TEXTS["a.csv"].replace("material_id", "remark"),
        "a.jsonl": json.dumps({"lattice": np.eye(3).tolist(), "sites": [[[["H", 1]], [0, 0, 0]]]}),
        "a.json": json.dumps(
            [{"atoms": {"lattice_mat": np.eye(3).tolist(), "coords": [[0, 0, 0]], "elements": ["H"]}}]
        ),
    }
    for name, text in texts.items():
        packed = tmp_path / f"{name}{packing}"
        if packing == ".zip":
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr(name, text)
        else:
            packed.write_bytes(gzip.compress(text.encode()))
        records, rejected = read_all(packed)
        assert [record.id for record in records] == ["a/0"] and not rejected


def test_json_of_pymatgen(tmp_path):
    """Structures, computed entries, and what the Materials Project sends."""
    structure = CRYSTALS["salt"].as_dict()
    entries = {
        "a/0": structure | {"properties": {"energy": -27.0}},
        "mp-22862": {"material_id": "mp-22862", "energy": -27.0, "structure": structure},
        "mp-1": ComputedStructureEntry(CRYSTALS["salt"], -27.0, entry_id="mp-1").as_dict(),
    }
    for identifier, entry in entries.items():
        texts = {"a.json": json.dumps([entry]), "a.jsonl": json.dumps(entry)}
        texts |= {"one/a.json": json.dumps(entry)} if "@module" in entry else {}
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
            (record,), rejected = read_all(tmp_path / name)
            assert not rejected and record.id == identifier and record.labels["energy"] == -27
            np.testing.assert_allclose(record.frac_coords, CRYSTALS["salt"].frac_coords)
            assert record.atomic_numbers.tolist() == list(CRYSTALS["salt"].atomic_numbers)


def test_json_without_a_structure_says_what_is_needed(tmp_path):
    molecule = Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]).as_dict()
    for name, text in (("a.json", json.dumps([molecule])), ("a.jsonl", json.dumps(molecule))):
        (tmp_path / name).write_text(text)
        _, (rejected,) = read_all(tmp_path / name)
        assert rejected.rule == "broken" and "structure of pymatgen's" in rejected.reason
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    slab = Structure(Lattice(np.eye(3) * 9, pbc=(True, True, False)), ["Fe"], [[0, 0, 0]])
    (tmp_path / "a.json").write_text(json.dumps([mixed.as_dict(), slab.as_dict()]))
    records, rejected = read_all(tmp_path / "a.json")
    assert not records and [one.rule for one in rejected] == ["partial occupancy", "not periodic"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path, name):
    (tmp_path / name).write_text("[" * 100_000 + "]" * 100_000)
    try:
        records, (rejected,) = read_all(tmp_path / name)
        reason = rejected.reason
        assert not records
    except ValueError as error:
        reason = str(error)
    assert "nested too deeply" in reason


@pytest.mark.parametrize("fmt", ["cif", "poscar", "json"])
def test_a_table_may_hold_other_texts_than_cifs(tmp_path, fmt):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        rows = [[name, structure.to(fmt=fmt)] for name, structure in CRYSTALS.items()]
        csv.writer(file).writerows([["id", "cif"], *rows])
    records, rejected = read_all(tmp_path / "a.csv")
    assert not rejected
    assert_same_crystals(records)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("salt\n1\n4 0 0\n0 4 0\n0 0 4\n1 1\ndirect\n0 0 0\n.5 .5 .5\n", "POSCAR without the symbols of its elements"),
        ("{'lattice': 3}", "JSON of a structure, but is none"),
        ('{"atoms": 3}', "no structure of pymatgen's"),
        ("[" * 9, "begins no CIF, nor a POSCAR"),
        ("NaCl", "'NaCl' begins no CIF, nor a POSCAR or pymatgen's JSON"),
    ],
)
def test_texts_that_are_no_crystal_say_what_they_lack(tmp_path, text, reason):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "cif"], ["salt", text]])
    _, (rejected,) = read_all(tmp_path / "a.csv")
    assert rejected.rule == "broken" and reason in rejected.reason


HYDRIDE = Structure(Lattice.cubic(3.9), ["Li", "H"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("isotope", ["D", "T"])
@pytest.mark.parametrize("name", ["a.cif", "a.vasp", "a.xyz", "a.jsonl", "a.json", "a.csv"])
def test_isotopes_are_hydrogen(tmp_path, name, isotope):
    texts = {
        "a.cif": HYDRIDE.to(fmt="cif"),
        "a.vasp": HYDRIDE.to(fmt="poscar"),
        "a.xyz": '2\nLattice="3.9 0 0 0 3.9 0 0 0 3.9" Properties=species:S:1:pos:R:3\nLi 0 0 0\nH 1.95 1.95 1.95\n',
        "a.jsonl": json.dumps(
            {"lattice": np.diag([3.9] * 3).tolist(), "sites": [[[["Li", 1]], [0] * 3], [[["H", 1]], [0.5] * 3]]}
        ),
        "a.json": json.dumps([HYDRIDE.as_dict()]),
        "a.csv": "id,file\nhydride,a.vasp\n",
    }
    heavy = {file: re.sub(r"\bH(?=[ 0-9\"\n])", isotope, text) for file, text in texts.items() if file != "a.csv"}
    assert all(text != texts[file] for file, text in heavy.items())
    for file, text in {**heavy, "a.csv": texts["a.csv"]}.items():
        (tmp_path / file).write_text(text)
    (record,), rejected = read_all(tmp_path / name)
    assert not rejected and sorted(record.atomic_numbers.tolist()) == [1, 3]
    np.testing.assert_allclose(np.diag(record.lattice), 3.9)


def test_csv_that_is_cut_keeps_the_rest(tmp_path):
    file = write_csv(tmp_path / "a.csv", CRYSTALS)
    text = file.read_text()
    # the second cut leaves a CIF that can be read, of a crystal that lacks its last atom
    for end in (text.rindex("_atom_site_fract_x"), text.rindex("\n", 0, text.rindex('"') - 1)):
        file.write_text(text[:end])
        records, rejected = read_all(file)
        assert [record.id for record in records] == list(CRYSTALS)[:3]
        assert [(one.id, one.row, one.rule) for one in rejected] == [("quartz", 3, "broken")]
    file.write_text("material_id,structure\n1,2\n")
    with pytest.raises(ValueError, match="no column 'cif'"):
        read_all(file)


def test_a_table_that_ends_within_an_identifier_names_what_there_is_of_it(tmp_path):
    (tmp_path / "a.csv").write_text('cif,id\nx,"mp-1')
    _, (rejected,) = read_all(tmp_path / "a.csv")
    assert rejected.id.strip() == "mp-1" and "the file ends within this row" in rejected.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_tables_as_spreadsheets_save_them(tmp_path, encoding, line_end):
    (tmp_path / "rutile.cif").write_text(SOURCE_TEXTS["a.cif"])
    text = line_end.join(["material_id;file;Härte (GPa)", "Zürich-1;rutile.cif;12.5", ""])
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode(encoding)))
    for name in ("a.csv", "a.csv.gz"):
        (record,), rejected = read_all(tmp_path / name)
        assert record.id == "Zürich-1" and record.labels["Härte (GPa)"] == 12.5 and not rejected


@pytest.mark.parametrize("name", ["ID", "Id", "Material_ID"])
def test_identifiers_are_found_whatever_the_case_of_their_column(tmp_path, name):
    (tmp_path / "rutile.cif").write_text(SOURCE_TEXTS["a.cif"])
    (tmp_path / "a.csv").write_text(f"{name},file\nmp-2657,rutile.cif\n")
    (tmp_path / "both.csv").write_text("ID,id,file\n7,mp-2657,rutile.cif\n")
    for file in ("a.csv", "both.csv"):
        (record,), _ = read_all(tmp_path / file)
        assert record.id == "mp-2657"


def test_compounds_that_read_as_numbers_are_formulas(tmp_path):
    (tmp_path / "rutile.cif").write_text(SOURCE_TEXTS["a.cif"])
    (tmp_path / "a.csv").write_text("file,Formula,gap\nrutile.cif,InF,NaN\nrutile.cif,NaN,1\n")
    entry = {"lattice": np.eye(3).tolist(), "sites": [[[["H", 1]], [0, 0, 0]]]}
    lines = [json.dumps({**entry, "Formula": formula, "gap": gap}) for formula, gap in (("InF", "NaN"), ("NaN", 1))]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for name in ("a.csv", "a.jsonl"):
        records, _ = read_all(tmp_path / name)
        assert [record.texts["Formula"] for record in records] == ["InF", "NaN"]
        assert all(set(record.labels) == {"gap"} for record in records) and np.isnan(records[0].labels["gap"])


def test_letters_in_an_older_encoding_are_not_replaced_in_silence(tmp_path):
    (tmp_path / "rutile.cif").write_text(SOURCE_TEXTS["a.cif"])
    file = tmp_path / "a.csv"
    file.write_bytes("material_id,file\nRutil,rutile.cif\nZürich-1,rutile.cif\n".encode("latin-1"))
    (record,), (one,) = read_all(file)
    assert record.id == "Rutil" and one.row == 1 and "save the table in UTF-8" in one.reason
    file.write_bytes("material_id,file,Härte\nRutil,rutile.cif,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="save the table in UTF-8"):
        read_all(file)


def test_folder_of_cif_and_poscar(tmp_path):
    (tmp_path / "inner").mkdir()
    CRYSTALS["salt"].to(str(tmp_path / "POSCAR_salt"), fmt="poscar")
    CRYSTALS["rutile"].to(str(tmp_path / "inner" / "rutile.cif"))
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 1\n")
    (tmp_path / "notes.txt").write_text("not a structure")
    records, rejected = read_all(tmp_path)
    assert {record.id: len(record.atomic_numbers) for record in records} == {"POSCAR_salt": 8, "inner/rutile": 6}
    assert [record.source for record in records] == [
        f"{tmp_path.name}/POSCAR_salt",
        f"{tmp_path.name}/inner/rutile.cif",
    ]
    assert [one.rule for one in rejected] == ["broken"] and "broken.cif" in rejected[0].reason


def test_packed_files_and_capital_endings(tmp_path):
    CRYSTALS["rutile"].to(str(tmp_path / "rutile.cif"))
    (tmp_path / "packed.cif.gz").write_bytes(gzip.compress((tmp_path / "rutile.cif").read_bytes()))
    (tmp_path / "windows.CIF").write_bytes((tmp_path / "rutile.cif").read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "cut.cif.gz").write_bytes((tmp_path / "packed.cif.gz").read_bytes()[:60])
    (tmp_path / "frames.xyz.gz").write_bytes(gzip.compress(SOURCE_TEXTS["a.xyz"].encode()))
    records, rejected = read_all(tmp_path)
    assert [record.id for record in records] == ["frames", "packed", "rutile", "windows"]
    assert all(np.array_equal(record.frac_coords, records[2].frac_coords) for record in records[1:])
    assert len(rejected) == 1 and "cut.cif.gz" in rejected[0].reason and "cannot be unpacked" in rejected[0].reason
    for name in ("packed.cif.gz", "windows.CIF", "frames.xyz.gz"):
        (record,), _ = read_all(tmp_path / name)
        assert record.id == name.split(".")[0]
    (tmp_path / "table.csv").write_text("material_id,file\nx,packed.cif.gz\n")
    (record,), _ = read_all(tmp_path / "table.csv")
    assert len(record.atomic_numbers) == 6


def test_each_block_of_a_cif_is_a_crystal(tmp_path):
    text = "data_global\n_journal_year 2020\n" + "\n".join(
        str(CifWriter(CRYSTALS[name])) for name in ("salt", "rutile")
    )
    (tmp_path / "both.cif").write_text(text)
    for place in (tmp_path, tmp_path / "both.cif"):
        records, rejected = read_all(place)
        assert {record.id: len(record.atomic_numbers) for record in records} == {
            "both": 8,
            "both/1": 6,
        } and not rejected


def frames():
    images = []
    for number, a in enumerate([3.5, 3.6, 3.7]):
        atoms = bulk("Cu", "fcc", a, cubic=True)
        forces, stress = np.full((4, 3), 0.1 * number), np.array([1.0, 2, 3, 4, 5, 6])
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * number, forces=forces, stress=stress)
        atoms.info["material_id"] = f"frame-{number}"
        images.append(atoms)
    return images


def test_extxyz_with_energies_forces_and_stress(tmp_path):
    write(tmp_path / "a.extxyz", frames())
    records, rejected = read_all(tmp_path / "a.extxyz")
    assert not rejected and [record.id for record in records] == ["frame-0", "frame-1", "frame-2"]
    assert records[2].labels["energy"] == -2
    np.testing.assert_allclose(records[2].atom_labels["forces"], 0.2)
    np.testing.assert_allclose(records[2].labels["stress"], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_a_broken_frame_does_not_hide_the_next(tmp_path):
    write(tmp_path / "a.xyz", frames(), format="extxyz")
    lines = (tmp_path / "a.xyz").read_text().splitlines(keepends=True)
    lines[8] = "Cu  nonsense\n"
    (tmp_path / "a.xyz").write_text("".join([*lines, "4\n", lines[1]]))
    records, rejected = read_all(tmp_path / "a.xyz")
    assert [record.id for record in records] == ["frame-0", "frame-2"]
    assert [one.row for one in rejected] == [1, 3] and "truncated" in rejected[1].reason


def test_a_database_that_is_none_is_named(tmp_path):
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + bytes(200))
    records, (rejected,) = read_all(tmp_path / "a.db")
    assert not records and rejected.rule == "broken" and "ASE cannot read on: DatabaseError" in rejected.reason


def test_ase_database_and_trajectory(tmp_path):
    with connect(tmp_path / "a.db") as database:
        for atoms in frames():
            database.write(atoms, gap=1.5, family="metal")
    records, rejected = read_all(tmp_path / "a.db")
    assert not rejected and [record.labels["energy"] for record in records] == [0, -1, -2]
    assert records[0].labels["gap"] == 1.5 and records[0].texts["family"] == "metal"
    write(tmp_path / "a.traj", frames())
    assert len(read_all(tmp_path / "a.traj")[0]) == 3


@pytest.mark.parametrize("packed", [False, True])
def test_ase_databases_in_json_keep_what_was_written_beside_the_atoms(tmp_path, packed):
    file = tmp_path / "a.json"
    with connect(file) as database:
        for atoms in frames():
            database.write(atoms, gap=1.5, family="metal")
    if packed:
        (tmp_path / "a.json.gz").write_bytes(gzip.compress(file.read_bytes()))
        file = tmp_path / "a.json.gz"
    records, rejected = read_all(file)
    assert not rejected and [record.labels["energy"] for record in records] == [0, -1, -2]
    assert {(record.labels["gap"], record.texts["family"]) for record in records} == {(1.5, "metal")}
    (tmp_path / "other.json").write_text('{"gap": 1.5}')
    assert "ASE cannot read on: UnknownFileTypeError" in read_all(tmp_path / "other.json")[1][0].reason


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_every_number_of_a_calculator_is_a_label(tmp_path, name):
    atoms = bulk("Fe")
    atoms.calc = SinglePointCalculator(atoms, energy=-8.2, free_energy=-8.3, magmom=2.2, forces=np.zeros((1, 3)))
    write(tmp_path / name, atoms)
    ((record,), _) = read_all(tmp_path / name)
    assert [record.labels[one] for one in ("energy", "free_energy", "magmom")] == [-8.2, -8.3, 2.2]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"pbc": [True, True, False]}, "not periodic"),
        ({"cell": [[4, 0, 0], [4, 0, 0], [0, 0, 4]]}, "singular cell"),
        ({"cell": [0.9, 0.9, 0.9]}, "singular cell"),  # in other units
        ({"numbers": [0, 6]}, "unknown element"),
        ({"positions": [[0, 0, np.nan], [1, 1, 1]]}, "not finite"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, change, rule):
    atoms = Atoms(**{"numbers": [6, 6], "positions": [[0, 0, 0], [1, 1, 1]], "cell": [4, 4, 4], "pbc": True, **change})
    write(tmp_path / "a.traj", [bulk("Cu"), atoms, bulk("Si")])
    records, rejected = read_all(tmp_path / "a.traj")
    assert len(records) == 2 and [(one.row, one.rule) for one in rejected] == [(1, rule)]


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv"):
        open_source("nothing.csv")


SOURCE_TEXTS = {
    "a.cif": str(CifWriter(CRYSTALS["rutile"])),
    "a.xyz": '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 pbc="T T T"\nNa 0 0 0\nCl 2 2 2\n',
    "POSCAR": CRYSTALS["salt"].to(fmt="poscar"),
    "a.csv": 'material_id,cif\nx,"' + str(CifWriter(CRYSTALS["rutile"])) + '"\n',
}


@pytest.mark.parametrize("name", sorted(SOURCE_TEXTS))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_readers_survive_damage(tmp_path_factory, name, data):
    """Whatever the damage: a checked record, a named rejection, or a ValueError about the file as a whole."""
    text = SOURCE_TEXTS[name]
    place, width = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 60))
    text = text[:place] + data.draw(st.text(max_size=8)) + text[place + width :]
    file = tmp_path_factory.mktemp("fuzz") / name
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        records, rejected = read_all(file)
    except ValueError as error:
        assert "has no column 'cif'" in str(error) or "no text in UTF-8" in str(error)
        return
    assert all(isinstance(record, Record) and np.isfinite(record.frac_coords).all() for record in records)
    assert all(one.reason for one in rejected)


@needs_shared
@pytest.mark.parametrize("file", ["perov5_val", "dft_mattersim_a", "jarvis_supercon3d", "pes_chgnet_0"])
def test_reference_data(file):
    source = open_source(SHARED / f"{file}.npz")
    records = [record for record, _ in zip(read(source), range(50), strict=False)]
    assert len({record.id for record in records}) == 50
    if file in ("dft_mattersim_a", "pes_chgnet_0"):
        assert records[0].atom_labels["forces"].shape == (len(records[0].atomic_numbers), 3)
        assert records[0].labels["stress"].shape == (3, 3)
