"""A file is there whole, or as it was before."""

import pytest

from dao_ase.whole_files import replacing, write_json, write_text


def test_the_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path):
    write_text(tmp_path / "new folder" / "note.txt", "first")
    write_text(tmp_path / "new folder" / "note.txt", "second, Å")
    assert [(file.name, file.read_text(encoding="utf-8")) for file in (tmp_path / "new folder").iterdir()] == [
        ("note.txt", "second, Å")
    ]


def test_a_failure_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "note.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "note.json", object())
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "note.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("note.json", "[\n 1\n]")]


def test_the_temporary_name_keeps_the_ending(tmp_path):
    with replacing(tmp_path / "a.cif") as temporary:
        assert temporary.suffix == ".cif" and temporary.parent == tmp_path
        temporary.touch()
    assert (tmp_path / "a.cif").exists()
