"""Crystals that DAO-G draws and DAO-P judges: what they are, what they are compared with, resuming."""

import numpy as np
import pytest
from click.testing import CliRunner

from dao_ase import drawn
from dao_ase.calculator import load_potential
from dao_ase.cli import main
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.data.store import CrystalStore
from dao_ase.derivatives import predict_crystals
from dao_ase.drawn import DrawRules, draw_crystals
from generation import write_rock_salts


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> CrystalStore:
    """Four rock salts; one is unstable, one of unknown energy."""
    folder = tmp_path_factory.mktemp("salts")
    write_rock_salts(folder / "salt.npz", 4)
    np.savez(folder / "known.npz", **np.load(folder / "salt.npz"), e_above_hull=np.array([0.0, 0.05, 0.3, np.nan]))
    return build(
        [open_source(folder / "known.npz")], folder / "store", BuildRules(1, deduplicate=False, max_e_hull=None)
    )


def test_energies_are_those_of_dao_p_above_the_parent(store, tmp_path):
    count = draw_crystals(store, tmp_path / "drawn.npz", DrawRules(each=3, highest=10.0), progress=False)
    new = build(
        [open_source(tmp_path / "drawn.npz")], tmp_path / "store", BuildRules(1, deduplicate=False, niggli=False)
    )
    ids, above = new.ids.tolist(), new.labels["e_above_hull"]
    assert len(new) == count > 0 and list(tmp_path.glob(".*")) == []
    assert {one.rpartition("/")[0] for one in ids} <= set(store.ids[:2])  # of stable crystals alone
    crystals, parents = new.batch(np.arange(count)), store.batch(np.arange(2))
    potential = load_potential()
    own, known = (predict_crystals(potential, one).energy / one.num_atoms for one in (crystals, parents))
    for energy, label, name in zip(own.tolist(), above.tolist(), ids, strict=True):
        place = store.ids.tolist().index(name.rpartition("/")[0])
        assert label == pytest.approx(max(energy - float(known[place]) + (0.0, 0.05)[place], 0.0), abs=2e-3)


def test_an_interrupted_run_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "PART", 1)
    rules, draw_part, calls = DrawRules(each=1), drawn._draw_part, []

    def stop_at_the_second(*arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(arguments)
        return draw_part(*arguments)

    monkeypatch.setattr(drawn, "_draw_part", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        draw_crystals(store, tmp_path / "drawn.npz", rules, progress=False)
    monkeypatch.setattr(drawn, "_draw_part", lambda *arguments: calls.append(arguments) or draw_part(*arguments))
    draw_crystals(store, tmp_path / "drawn.npz", rules, progress=False)
    assert [arguments[1] for arguments in calls] == [[0], [1]]
    draw_crystals(store, tmp_path / "at_once.npz", rules, progress=False)
    one, two = (np.load(tmp_path / name) for name in ("drawn.npz", "at_once.npz"))
    assert all((one[name] == two[name]).all() for name in one.files)


def test_parents_of_which_nothing_passes_the_gates(store, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "PART", 1)
    refused = iter(["distance", None])
    monkeypatch.setattr(drawn, "refusal", lambda structure: next(refused, "volume"))
    assert draw_crystals(store, tmp_path / "one.npz", DrawRules(each=1), progress=False) == 1
    with pytest.raises(ValueError, match=r"nothing was drawn .* gates refused all"):
        draw_crystals(store, tmp_path / "none.npz", DrawRules(each=1), progress=False)


def test_what_cannot_be_drawn_is_said(store, tmp_path):
    (tmp_path / "there.npz").touch()
    for arguments, message in (
        (["there.npz"], "is there already"),
        (["new.txt"], "must end in .npz"),
        (["new.npz", "--max-atoms", "1"], "nothing was drawn"),
        (["new.npz", "--each", "0"], "at least 1"),
    ):
        output, *others = arguments
        result = CliRunner().invoke(main, ["data", "draw", str(store.path), "-o", str(tmp_path / output), *others])
        assert result.exit_code == 1 and message in result.output
