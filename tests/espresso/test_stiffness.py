"""Strained frames keep the crystal's axes; their labels are what pw.x printed, less its stress at rest; none is made twice.

The program is a script that prints what the real one printed for silicon, which is why all stresses come out equal.
"""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure

from crystals import rock_salt, write_npz
from dao_ase.cli import main
from dao_ase.data.build import BuildRules, build
from dao_ase.data.sources import open_source
from dao_ase.espresso.labels import KIND, LabelledFrame
from dao_ase.espresso.stiffness import (
    BETWEEN,
    STEP,
    StiffnessRules,
    _between,
    _chosen,
    is_insulator,
    label_stiffness,
    strained_frames,
)
from dao_ase.symmetry import space_group_number
from dao_ase.train.labelled import LabelledCrystals
from pseudo import write_upf

PRINTED = Path(__file__).parent / "printed"
DIAMOND = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0, 0, 0]]).get_primitive_structure()
NICKEL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.5), ["Ni"], [[0, 0, 0]]).get_primitive_structure()


@pytest.fixture
def store(tmp_path):
    crystals = {"silicon": DIAMOND, "nickel": NICKEL, "salt": rock_salt("Ra", "S", 6.6).get_primitive_structure()}
    file = write_npz(tmp_path / "crystals.npz", crystals, formation_energy_per_atom=[0.0, 0.0, -3.0])
    rules = BuildRules(min_atoms=1, max_atoms=8, max_e_hull=None, deduplicate=False)
    return build([open_source(file)], tmp_path / "store", rules)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A pw.x that counts its calls, and a pseudopotential of silicon alone."""
    file = tmp_path / "bin" / "pw.x"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\ncat {PRINTED}/scf.pwo\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")
    write_upf(tmp_path / "upf" / "Si.UPF", "Si")
    return lambda: len((tmp_path / "calls").read_text().splitlines())


def group(atoms):
    return space_group_number(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers, 1e-4)


def test_frames_keep_symmetry_and_say_each_elastic_constant():
    turned = bulk("Si", a=5.43)
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    rest, smaller, larger, stretched, sheared, moved = (frame for _, frame in strained_frames(turned))
    assert [group(one) for one in (rest, smaller, larger)] == [227] * 3
    assert group(stretched) == 141 and group(sheared) == 74, "tetragonal, orthorhombic: the axes are those of the cube"
    assert smaller.cell.volume < rest.cell.volume < larger.cell.volume
    np.testing.assert_allclose(stretched.cell.volume / rest.cell.volume, 1.015, rtol=1e-9)
    np.testing.assert_allclose(moved.positions - rest.positions, [[0, 0, 0], [0, 0, STEP]], atol=1e-9)


def test_an_element_with_one_atom_is_doubled_to_move_one():
    *_, (strain, moved) = strained_frames(bulk("Ca", "fcc", a=5.5))
    assert strain == "moved"
    assert len(moved) == 2 and group(moved) not in (225, 1)


def moves(crystal):
    """Elements that are moved, each with its axis."""
    (_, rest), *frames = strained_frames(crystal.to_ase_atoms())
    steps = [frame.positions - rest.positions for strain, frame in frames if strain == "moved"]
    places = [np.argwhere(abs(step) > 1e-6) for step in steps]
    assert all(len(one) == 1 for one in places)
    return [f"{rest.symbols[place]} {'xyz'[axis]}" for ((place, axis),) in places]


def test_an_atom_of_each_kind_is_moved_but_for_one_that_is_alone():
    thirds = [[0, 0, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0.5]]
    assert moves(Structure.from_spacegroup("F-43m", Lattice.cubic(5.9), ["Ti", "Ni", "Sn"], thirds)) == ["Sn z", "Ni z"]
    layers = Structure.from_spacegroup(
        "P-3m1", Lattice.hexagonal(3.4, 5.7), ["Ti", "S"], [[0, 0, 0], [1 / 3, 2 / 3, 0.25]]
    )
    assert moves(layers) == ["S z", "S x"], "titanium, alone, answers as both of them do"
    perovskite = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4.0), ["K", "Mg", "F"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    assert moves(perovskite) == ["F z", "Mg z"]


def test_cells_are_reduced_and_taken_in_the_order_that_is_asked_for(tmp_path):
    gold = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.1), ["Au"], [[0, 0, 0]])
    crystals = {
        "gold": gold,
        "salt": rock_salt("Ra", "S", 6.6),
        "other": rock_salt("Sr", "S", 6.1),
        "new": rock_salt("Ba", "S", 6.4),
    }
    file = write_npz(tmp_path / "crystals.npz", crystals, formation_energy_per_atom=[np.nan, -2.0, -2.0, np.nan])
    rules = BuildRules(min_atoms=1, max_atoms=8, max_e_hull=None, deduplicate=False)
    store = build([open_source(file)], tmp_path / "store", rules)

    def chosen(**rules):
        return [(str(one.symbols), len(one)) for one in _chosen(store, StiffnessRules(**rules))[1]]

    assert chosen(max_atoms=1) == [("Au", 1)], "an element forms though its energy is not known"
    assert chosen(formulas=("RaS", "Au")) == [("RaS", 2), ("Au", 1)]
    assert chosen(formulas=("BaS",)) == [("BaS", 2)] and ("BaS", 2) not in chosen(), "made up: when it is asked for"
    with pytest.raises(ValueError, match="no crystal of ClNa"):
        chosen(formulas=("NaCl",))


def test_k_points_are_as_many_as_the_bonds_ask_for(tmp_path):
    for element in ("Na", "Cl", "As", "Ga", "Al", "Pd"):
        write_upf(tmp_path / f"{element}.UPF", element)
    crystals = [bulk("NaCl", "rocksalt", a=5.6), bulk("GaAs", "zincblende", a=5.6), bulk("AlPd", "rocksalt", a=5.6)]
    points = [np.prod(StiffnessRules().calculation(one, one, [tmp_path]).k_grid) for one in crystals]
    assert points[0] < points[1] < points[2], "an ionic crystal, a semiconductor, a metal"
    told = StiffnessRules(insulators=True).calculation(crystals[2], crystals[2], [tmp_path])
    assert np.prod(told.k_grid) == points[1] and told.preset.degauss < StiffnessRules.degauss_metal
    assert is_insulator(bulk("Si")) and not is_insulator(bulk("I", "sc", a=2.8)), "iodine under pressure is a metal"


def test_labels_are_relative_to_rest_and_are_not_made_twice(store, program, tmp_path):
    def label(**rules):
        return label_stiffness(
            store, tmp_path / "out.npz", tmp_path / "kept", StiffnessRules(**rules),
            pseudo_dirs=[tmp_path / "upf"], progress=False,
        )  # fmt: skip

    counts = label()
    assert counts == {"crystals": 1, "frames": 12, "left out": 2}, "nickel may be magnetic, salt has no pseudopotential"
    assert program() == 6
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert set(file["parent_id"]) == {"silicon"} and set(file["kind"]) == {KIND}
        assert file["strain"].tolist() == ["rest", *2 * ["volume"], *6 * ["shape"], *3 * ["moved"]]
    frames = LabelledCrystals.load(tmp_path / "out.npz")
    assert len(frames) == 12 and np.isnan(frames.energy).all()
    np.testing.assert_allclose(frames.stress[:10], 0, atol=1e-9)
    assert np.isnan(frames.stress[10:]).all(), "the stress at a part of a displacement is not known"
    coords, forces = frames.frac_coords.reshape(12, 2, 3), frames.forces.reshape(12, 2, 3)
    assert abs(coords[9] - coords[0]).max() > 0.01, "an atom is moved"
    for part, stretched, moved in zip(BETWEEN, (4, 5), (10, 11), strict=True):
        np.testing.assert_allclose(
            frames.lattice[stretched] - frames.lattice[0], part * (frames.lattice[3] - frames.lattice[0]), atol=1e-6
        )
        np.testing.assert_allclose(coords[moved] - coords[0], part * (coords[9] - coords[0]), atol=1e-6)
        np.testing.assert_allclose(forces[moved], forces[0] + part * (forces[9] - forces[0]), atol=1e-6)
    assert label() == counts and program() == 6
    write_upf(tmp_path / "upf" / "Ni.UPF", "Ni")
    assert label() == counts and program() == 6, "nickel is still left out"
    label(nonmagnetic=True)
    assert program() > 6, "unless it is said to carry no moment"


@pytest.mark.parametrize("rules", [StiffnessRules(max_pressure=0.0), StiffnessRules(max_cutoff=20.0)])
def test_too_few_plane_waves_are_no_label(store, program, tmp_path, rules):
    counts = label_stiffness(
        store, tmp_path / "out.npz", tmp_path / "kept", rules, pseudo_dirs=[tmp_path / "upf"], progress=False
    )
    assert counts == {"crystals": 0, "frames": 0, "left out": 3} and not (tmp_path / "out.npz").exists()


def test_command_says_what_is_missing(store, program, tmp_path, monkeypatch):
    arguments = ["data", "stiffness", str(store.path), "--pseudo-dir", str(tmp_path / "upf")]
    wrong = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out.txt")])
    assert wrong.exit_code == 1 and ".npz" in wrong.output
    done = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out.npz")])
    assert done.exit_code == 0 and "12 frames of 1 crystals" in done.output, done.output
    nothing = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "nothing.npz"), "--max-cutoff", "20"])
    assert nothing.exit_code == 1 and "0 frames of 0 crystals, 3 left out" in nothing.output
    unstable = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out.npz"), "--max-formation-energy", "-9"])
    assert unstable.exit_code == 1 and "known to form" in unstable.output
    late = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out.npz"), "--minutes", "0"])
    assert late.exit_code == 2 and "--minutes" in late.output
    monkeypatch.setenv("PATH", "/nowhere")
    none = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "other.npz")])
    assert none.exit_code == 1 and "pw.x is not on the PATH" in none.output


def test_only_an_atom_may_be_moved(store, program, tmp_path):
    rules = StiffnessRules(only_moved=True)
    output = tmp_path / "out.npz"
    label_stiffness(store, output, tmp_path / "kept", rules, pseudo_dirs=[tmp_path / "upf"], progress=False)
    with np.load(output) as columns:
        assert columns["strain"].tolist() == ["rest", "moved", "moved", "moved"]
    assert program() == 2


def test_of_gth_pseudopotentials_only_forces_are_kept(store, program, tmp_path):
    """With them pw.x's stress is not the derivative of its energy."""
    (tmp_path / "gth").mkdir()
    (tmp_path / "gth" / "Si.gth").write_text("Si GTH-PBE-q4, of CP2K\n14 4 0\n10 11 0 0 0 0\n0.44 1 -6.26928833\n0\n")
    output = tmp_path / "out.npz"
    counts = label_stiffness(store, output, tmp_path / "kept", pseudo_dirs=[tmp_path / "gth"], progress=False)
    assert counts["frames"] == 4 and program() == 2, "at rest, moved and between"
    frames = LabelledCrystals.load(output)
    assert np.isnan(frames.stress).all() and np.isfinite(frames.forces).all()


def test_between_rest_and_a_moved_atom_forces_at_rest_stay():
    """Where symmetry leaves a place free, as in a layer of given height, there are forces at rest already."""
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    moved = atoms.copy()
    moved.positions[1, 2] += STEP
    forces = np.array([[0, 0, 0.3], [0, 0, -0.3]])
    rest = LabelledFrame(atoms, forces, np.zeros((3, 3)), "salt", "rest")
    part = _between(rest, LabelledFrame(moved, -forces, np.ones((3, 3)), "salt", "moved"), 0.1)
    np.testing.assert_allclose(part.forces, 0.8 * forces)
    np.testing.assert_allclose(part.atoms.positions[1, 2] - atoms.positions[1, 2], 0.1 * STEP)
    assert np.isnan(part.stress).all()
