"""A file with one structure that cannot be read gives the others, under the names that their places give them."""

import os
from io import StringIO

import ase.io
import click
import pytest
from ase.build import bulk
from monty.serialization import dumpfn
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

from dao_ase.cli.inputs import read_structure, read_structures
from dao_ase.data.sources import open_source, read


@pytest.fixture
def broken_in_the_middle(tmp_path):
    """Three frames, the second with a position that is no number."""
    texts = []
    for element, a in (("Cu", 3.6), ("Ag", 4.1), ("Au", 4.2)):
        text = StringIO()
        ase.io.write(text, bulk(element, a=a), format="extxyz")
        texts.append(text.getvalue())
    *head, last = texts[1].splitlines()
    texts[1] = "\n".join([*head, last.replace("0.00000000", "none", 1)]) + "\n"
    file = tmp_path / "three.extxyz"
    file.write_text("".join(texts))
    return file


def test_other_frames_of_an_xyz_file_are_read(broken_in_the_middle):
    inputs, problems = read_structures([broken_in_the_middle])
    assert [(one.name, str(one.atoms.symbols)) for one in inputs] == [
        (f"{broken_in_the_middle}#0", "Cu"),
        (f"{broken_in_the_middle}#2", "Au"),
    ]
    assert len(problems) == 1 and problems[0].startswith(f"{broken_in_the_middle}#1: not a structure that ASE reads")


def test_an_index_counts_what_cannot_be_read(broken_in_the_middle):
    assert str(read_structure(broken_in_the_middle, 2).atoms.symbols) == "Au"
    assert str(read_structure(broken_in_the_middle, -1).atoms.symbols) == "Au"
    with pytest.raises(click.ClickException, match=r"(?s)#1: not a structure.*has no structure 1"):
        read_structure(broken_in_the_middle, 1)


def test_the_last_frame_is_the_last_that_can_be_read(broken_in_the_middle, capsys):
    first, second = broken_in_the_middle.read_text().split("1\n", 3)[1:3]
    broken_in_the_middle.write_text(f"1\n{first}1\n{second}")
    assert str(read_structure(broken_in_the_middle, -1).atoms.symbols) == "Cu"
    assert "#1: not a structure that ASE reads" in capsys.readouterr().err


def test_entries_of_pymatgen_are_read_as_their_structures(tmp_path):
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    entry, bare = ComputedStructureEntry(salt, -27.0, entry_id="mp-22862"), ComputedEntry("NaCl", -6.8)
    dumpfn(entry, tmp_path / "one.json")
    assert read_structure(tmp_path / "one.json").atoms.get_chemical_formula() == "Cl4Na4"
    dumpfn([bare, entry, salt, Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]])], tmp_path / "many.json")
    inputs, problems = read_structures([tmp_path / "many.json"])
    assert [one.name for one in inputs] == [f"{tmp_path / 'many.json'}#{place}" for place in (1, 2)]
    assert [problem.split(": ")[1].split(";")[0] for problem in problems] == [
        "a ComputedEntry holds no structure",
        "a Molecule holds no structure",
    ]


def test_a_cif_that_was_cut_is_remarked_on(tmp_path, capsys):
    file = tmp_path / "salt.cif"
    ase.io.write(file, bulk("NaCl", "rocksalt", a=5.6, cubic=True))
    assert len(read_structure(file).atoms) == 8 and not capsys.readouterr().err
    file.write_text("".join(file.read_text().rstrip().splitlines(keepends=True)[:-2]))
    assert len(read_structure(file).atoms) == 6
    assert capsys.readouterr().err == (
        f"{file}: may have been cut off: its atoms are Na3 Cl3, its formula is Na4 Cl4; complete the list of atoms, with "
        "which it ends, or mend its _chemical_formula_sum\n"
    )


def test_a_name_may_hold_an_at_sign(tmp_path):
    """ASE takes what follows it for a choice of frames, also where a file has this name."""
    file = tmp_path / "NaCl@300K.vasp"
    bulk("NaCl", "rocksalt", a=5.6).write(tmp_path / "salt.vasp")
    (tmp_path / "salt.vasp").rename(file)
    assert len(read_structure(file).atoms) == 2
    (tmp_path / "table.csv").write_text(f"id,file\nsalt,{file.name}\n")
    for source in (file, tmp_path / "table.csv"):
        (record,) = read(open_source(source))
        assert len(record.atomic_numbers) == 2
    two = tmp_path / "two.xyz"
    ase.io.write(two, [bulk("Cu"), bulk("Ag")], format="extxyz")
    assert str(read_structure(tmp_path / "two.xyz@1").atoms.symbols) == "Ag"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_called_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    inputs, (problem,) = read_structures([tmp_path / "pipe"])
    assert not inputs and "a pipe or a device" in problem


def test_a_file_without_any_frame_is_one_problem(tmp_path):
    file = tmp_path / "none.xyz"
    file.write_text("not\na\nfile\n")
    inputs, problems = read_structures([file])
    assert not inputs and len(problems) == 1 and problems[0].startswith(f"{file}: not a structure file that ASE reads")
