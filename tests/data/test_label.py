"""Labels: frames are what the rules say, labels are the teacher's, and a run that is killed continues to the same file."""

from subprocess import CalledProcessError

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

import dao_ase.data.label as label_module
from crystals import write_npz
from dao_ase.cli import main
from dao_ase.data.build import BuildRules, build
from dao_ase.data.label import (
    Distortion,
    Label,
    LabelRules,
    Squeeze,
    ase_teacher,
    chgnet_teacher,
    find_teacher,
    label_store,
)
from dao_ase.data.sources import open_source

METALS = {name: Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [name], [[0, 0, 0]]) for name, a in
          {"Cu": 3.61, "Al": 4.05, "Ni": 3.52, "Ag": 4.09}.items()}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    rules = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)
    return build([open_source(write_npz(tmp_path / "metals.npz", METALS))], tmp_path / "store", rules)


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_labels_are_the_teachers(store, tmp_path):
    rules = LabelRules(5, max_force=1e6)
    counts = label_store(store, lambda: ase_teacher(EMT()), tmp_path / "labels.npz", rules, progress=False)
    found = arrays(tmp_path / "labels.npz")
    assert counts == {"kept": 20, "left out": 0} and set(found["kind"]) == {0, 1, 2}
    ends = np.cumsum(found["n_atoms"])
    for frame, (start, end) in enumerate(zip(ends - found["n_atoms"], ends, strict=True)):
        atoms = Atoms(
            found["numbers"][start:end],
            scaled_positions=found["frac_coords"][start:end],
            cell=found["lattice"][frame],
            pbc=True,
            calculator=EMT(),
        )
        assert atoms.get_potential_energy() / len(atoms) == pytest.approx(found["energy_per_atom"][frame], abs=1e-4)
        np.testing.assert_allclose(atoms.get_forces(), found["forces"][start:end], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), found["stress"][frame], rtol=1e-3, atol=1e-4)


def test_mild_frames_are_near_rest(store, tmp_path):
    arguments = [
        "data",
        "label",
        str(store.path),
        "-o",
        str(tmp_path / "out.npz"),
        "--teacher",
        "emt",
        "--frames",
        "12",
        "--mild",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert set(arrays(tmp_path / "out.npz")["kind"]) == {0, 1}


def test_squeezed_frames_have_one_short_bond(tmp_path):
    salt = {"NaCl": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0, 0]])}
    rules = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)
    store = build([open_source(write_npz(tmp_path / "salt.npz", METALS | salt))], tmp_path / "store", rules)
    rules = LabelRules(4, max_force=1e6, distortion=Squeeze(share=(0.6, 0.6), displacement=(1e-3, 1e-3), strain=(0.0,)))
    teacher = lambda: lambda frames: [Label(0.0, np.zeros((len(atoms), 3)), np.eye(3)) for atoms in frames]  # noqa: E731
    label_store(store, teacher, tmp_path / "labels.npz", rules, progress=False)
    found = arrays(tmp_path / "labels.npz")
    assert set(found["kind"][found["n_atoms"] == 1]) <= {1} and set(found["kind"][found["n_atoms"] > 1]) == {3}
    ends = np.cumsum(found["n_atoms"])
    for frame in np.flatnonzero(found["kind"] == 3):
        span = slice(ends[frame] - found["n_atoms"][frame], ends[frame])
        atoms = Atoms(found["numbers"][span], cell=found["lattice"][frame], pbc=True)
        atoms.set_scaled_positions(found["frac_coords"][span])
        distances = np.sort(atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)])
        whole = 5.69 / 2 if 17 in atoms.numbers else min(distances[1:].max(), 4.09 / np.sqrt(2))
        assert distances[0] == pytest.approx(0.6 * whole, rel=0.15)


def test_squeezed_and_mild_are_two_kinds(store, tmp_path):
    done = CliRunner().invoke(
        main, ["data", "label", str(store.path), "-o", str(tmp_path / "out.npz"), "--mild", "--squeeze"]
    )
    assert done.exit_code == 2 and "give one of them" in done.output


def test_what_is_done_is_not_done_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(label_module, "PART", 3)
    label_store(store, lambda: ase_teacher(EMT()), tmp_path / "whole.npz", LabelRules(2), progress=False)
    calls = []

    def dies(frames):
        calls.append(len(frames))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ase_teacher(EMT())(frames)

    with pytest.raises(KeyboardInterrupt):
        label_store(store, lambda: dies, tmp_path / "again.npz", LabelRules(2), progress=False)
    label_store(store, lambda: dies, tmp_path / "again.npz", LabelRules(2), progress=False)
    assert calls == [3, 3, 3, 2]
    for name, column in arrays(tmp_path / "whole.npz").items():
        np.testing.assert_array_equal(column, arrays(tmp_path / "again.npz")[name])
    with pytest.raises(ValueError, match="a run with other rules, frames"):
        label_store(store, lambda: dies, tmp_path / "again.npz", LabelRules(3), progress=False)


def test_what_the_teacher_refuses_is_counted(store, tmp_path):
    def refuses(frames):
        return [None if "Al" in atoms.symbols else Label(0.0, 99.0 * atoms.positions, np.eye(3)) for atoms in frames]

    rules = LabelRules(distortion=Distortion(kept=1.0))
    assert label_store(store, lambda: refuses, tmp_path / "a.npz", rules, progress=False) == {"kept": 0, "left out": 4}


def test_what_a_calculator_cannot_do_stops_nothing(tmp_path):
    crystals = METALS | {"Na": Structure.from_spacegroup("Im-3m", Lattice.cubic(4.2), ["Na"], [[0, 0, 0]])}
    rules = BuildRules(min_atoms=1, max_atoms=1000, max_e_hull=None, deduplicate=False)
    store = build([open_source(write_npz(tmp_path / "metals.npz", crystals))], tmp_path / "store", rules)
    rules = LabelRules(max_force=1e6)  # EMT does not know sodium
    counts = label_store(store, "ase.calculators.emt:EMT", tmp_path / "labels.npz", rules, progress=False)
    assert counts == {"kept": 4, "left out": 1}
    with pytest.raises(ValueError, match="there is no 'nobody' to call in a module 'ase'"):
        label_store(store, "ase:nobody", tmp_path / "other.npz", progress=False)


@pytest.mark.parametrize("error", [RuntimeError("no convergence"), CalledProcessError(1, "pw.x"), KeyError("Ag")])
def test_a_calculation_that_fails_costs_one_frame(store, tmp_path, caplog, error):
    class Fails(EMT):
        def calculate(self, atoms, properties, system_changes):
            if "Ag" in atoms.symbols:
                raise error
            super().calculate(atoms, properties, system_changes)

    rules = LabelRules(2, max_force=1e6)
    counts = label_store(store, lambda: ase_teacher(Fails()), tmp_path / "a.npz", rules, progress=False)
    assert counts == {"kept": 6, "left out": 2}
    (said,) = caplog.messages
    assert said.startswith("Ag4 gets no label: ") and str(error) in said


def test_stresses_that_are_no_numbers_are_left_out(store, tmp_path):
    def breaks(frames):
        stresses = [np.full((3, 3), np.nan), *([np.eye(3)] * (len(frames) - 1))]
        return [Label(0.0, np.zeros((4, 3)), stress) for stress in stresses]

    rules = LabelRules(distortion=Distortion(kept=1.0))
    counts = label_store(store, lambda: breaks, tmp_path / "a.npz", rules, progress=False)
    assert counts == {"kept": 3, "left out": 1}


@pytest.mark.slow
def test_crystals_that_are_refused_spoil_no_other():
    salt, copper = (
        Atoms(f"{kind}2", positions=[[0, 0, 0], [2, 2, 2]], cell=[4] * 3, pbc=True) for kind in ("Na", "Cu")
    )
    found = ase_teacher(EMT())([salt, salt.copy(), copper, salt.copy(), copper.copy()])  # EMT keeps what it refuses
    assert [label is None for label in found] == [True, True, False, True, False]
    assert found[2].energy_per_atom == found[4].energy_per_atom


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nobody", "there is no calculator 'nobody'"),
        ("json:loads", "there is no 'loads' to call in a module 'json'"),
        ("os:getpid", "os:getpid makes [0-9]+, no calculator of ASE"),
    ],
)
def test_teachers_that_are_none_are_named(name, reason):
    with pytest.raises(ValueError, match=reason):
        find_teacher(name)


def test_a_calculator_of_this_package_may_teach():
    (label,) = find_teacher("dao")([Atoms("Cu", cell=np.full((3, 3), 1.8) - 1.8 * np.eye(3), pbc=True)])
    assert np.isfinite(label.energy_per_atom)


def test_processes_make_the_same_file(store, tmp_path, monkeypatch):
    monkeypatch.setattr(label_module, "PART", 4)
    for workers in (1, 2):
        label_store(store, "emt", tmp_path / f"{workers}.npz", LabelRules(2), workers=workers, progress=False)
    alone, together = arrays(tmp_path / "1.npz"), arrays(tmp_path / "2.npz")
    assert set(alone) == set(together)
    for name, column in alone.items():
        np.testing.assert_array_equal(column, together[name])


def test_distortions_stay_within_their_bounds():
    rng, atoms = np.random.default_rng(0), Atoms("Cu4", cell=[4, 4, 4], pbc=True, scaled_positions=np.eye(4, 3) / 2)
    for _ in range(200):
        frame, kind = Distortion()(atoms, rng)
        ratio = frame.get_volume() / atoms.get_volume()
        assert {0: ratio == 1.0, 1: 0.9 < ratio < 1.1, 2: 0.5 < ratio < 1.8}[kind]


@pytest.mark.filterwarnings("ignore::UserWarning")  # CHGNet's own
def test_chgnet_in_batches_equals_its_calculator():
    dynamics = pytest.importorskip("chgnet.model.dynamics")
    atoms = Atoms(
        "NaCl", cell=np.full((3, 3), 2.82) - 2.82 * np.eye(3), pbc=True, scaled_positions=[[0] * 3, [0.48] * 3]
    )
    lonely = Atoms("He", cell=[20, 20, 20], pbc=True)
    label, nothing = chgnet_teacher()([atoms, lonely])
    atoms.calc = dynamics.CHGNetCalculator(use_device="cpu")
    assert nothing is None
    assert label.energy_per_atom == pytest.approx(atoms.get_potential_energy() / 2, abs=1e-4)
    np.testing.assert_allclose(label.forces, atoms.get_forces(), atol=1e-4)
    np.testing.assert_allclose(label.stress, atoms.get_stress(voigt=False), atol=1e-5)


def test_command_line(store, tmp_path):
    output = tmp_path / "labels.npz"
    result = CliRunner().invoke(main, ["data", "label", str(store.path), "-o", str(output), "--teacher", "emt"])
    assert result.exit_code == 0 and f"frames in {output}" in result.output
    result = CliRunner().invoke(main, ["data", "label", str(store.path), "-o", str(output), "--teacher", "nonsense"])
    assert result.exit_code == 1 and "other teacher" in result.output, "labels of two teachers in one file"
    output.with_suffix(".parts").joinpath("00000000.npz").unlink()
    result = CliRunner().invoke(main, ["data", "label", str(store.path), "-o", str(output), "--teacher", "nonsense"])
    assert result.exit_code == 1 and "no calculator 'nonsense'" in result.output
    result = CliRunner().invoke(main, ["data", "label", str(store.path), "-o", str(output), "--teacher", "emt"])
    assert result.exit_code == 0, "a teacher that labelled nothing stands in nobody's way"
    result = CliRunner().invoke(main, ["data", "label", str(store.path), "-o", str(output), "--seed", "-1"])
    assert result.exit_code == 2 and "'--seed': -1 is not in the range" in result.output
    result = CliRunner().invoke(
        main, ["data", "label", str(store.path), "-o", str(tmp_path / "labels"), "--teacher", "emt"]
    )
    assert result.exit_code == 1 and "no name of an .npz file" in result.output


def test_crystals_may_be_asked_for_by_their_elements(tmp_path):
    alloy = Structure(Lattice.cubic(3.2), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    file = write_npz(tmp_path / "metals.npz", {**METALS, "CuAu": alloy})
    rules = BuildRules(min_atoms=1, max_atoms=8, max_e_hull=None, deduplicate=False)
    store = build([open_source(file)], tmp_path / "store", rules)

    def parents(*elements):
        rules = LabelRules(distortion=Distortion(mild=1.0), elements=elements)
        label_store(store, "emt", tmp_path / f"{elements}.npz", rules, progress=False)
        return set(arrays(tmp_path / f"{elements}.npz")["parent_id"].tolist())

    assert parents() == {*METALS, "CuAu"}
    assert parents("Cu") == {"Cu", "CuAu"}
    assert parents("Cu", "Au") == {"CuAu"}
    with pytest.raises(ValueError, match="no crystal of at most 32 atoms with Ag, Au"):
        parents("Ag", "Au")
    with pytest.raises(ValueError, match="Q: not the symbol of an element"):
        parents("Q")


def test_nothing_to_label_is_said(store, tmp_path):
    with pytest.raises(ValueError, match="no crystal of at most 0 atoms"):
        label_store(store, "emt", tmp_path / "labels.npz", LabelRules(max_atoms=0), progress=False)
