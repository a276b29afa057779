"""A file is there whole, or as it was before."""

import errno
import os

import pytest

from dao_ase.whole_files import only_one, replacing, replacing_together, write_json, write_text


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


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*a\.png"), replacing(tmp_path / "a.png") as temporary:
        temporary.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_the_temporary_name_keeps_the_ending(tmp_path):
    with replacing(tmp_path / "a.cif") as temporary:
        assert temporary.suffix == ".cif" and temporary.parent == tmp_path
        temporary.touch()
    assert (tmp_path / "a.cif").exists()


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path, monkeypatch):
    def write(text: str, fault: type[BaseException] | None = None) -> None:
        with replacing_together(tmp_path, last="model") as place:
            write_text(place / "zeta", text)
            write_text(place / "model", text)
            if fault is not None:
                raise fault

    def contents() -> dict[str, str]:
        return {file.name: file.read_text() for file in tmp_path.iterdir()}

    write("old")
    with pytest.raises(KeyboardInterrupt):
        write("new", KeyboardInterrupt)
    assert contents() == {"model": "old", "zeta": "old"}
    monkeypatch.setattr(os, "replace", fails_at("zeta", os.replace))
    with pytest.raises(OSError, match="killed"):
        write("new")
    assert contents() == {"zeta": "old"}  # the mark of a whole is gone before anything is new
    monkeypatch.undo()
    write("new")
    assert contents() == {"model": "new", "zeta": "new"}


def fails_at(name, replace):
    """As ``os.replace``, but a file of this name does not move out of a temporary folder."""

    def replaced(source, target) -> None:
        if source.name == name:
            raise OSError("killed")
        replace(source, target)

    return replaced


def test_only_one_holds_a_lock_and_it_is_free_afterwards(tmp_path):
    for _ in range(2):
        with (
            only_one(tmp_path / ".lock", "another is at it"),
            pytest.raises(ValueError, match="another is at it; wait for it"),
            only_one(tmp_path / ".lock", "another is at it"),
        ):
            pass
