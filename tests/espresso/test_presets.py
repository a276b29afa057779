"""Presets as data: cutoffs by kind of pseudopotential, k-points by length, spin by element."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from dao_ase.espresso.calculation import Calculation, write_input
from dao_ase.espresso.presets import PRESETS, load_preset
from dao_ase.espresso.pseudopotentials import find, read
from pseudo import write_upf


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_complete(name, tmp_path):
    preset = load_preset(name)
    for kind in ("NC", "USPP", "PAW"):
        wave, density, raised = preset.cutoffs([read(write_upf(tmp_path / "Si.UPF", "Si", kind))])
        assert density >= 4 * wave > 0 and not raised


def test_presets_get_better():
    fast, standard, tight = map(load_preset, PRESETS)
    assert fast.kspacing > standard.kspacing > tight.kspacing
    assert fast.conv_thr > standard.conv_thr > tight.conv_thr
    assert fast.degauss > standard.degauss > tight.degauss


def test_unknown_preset():
    with pytest.raises(ValueError, match="'sloppy' is none of fast, standard, tight"):
        load_preset("sloppy")


def test_stated_cutoffs_raise_those_of_the_preset(tmp_path):
    soft, hard = (read(write_upf(tmp_path / f"{e}.UPF", e, "USPP", ecutwfc=w, ecutrho=r)) for e, w, r in
                  (("Si", 20, 90), ("Fe", 63.9, 781.7)))  # fmt: skip
    wave, density, raised = load_preset("fast").cutoffs([soft, hard])
    assert (wave, density) == (64, 782)
    assert len(raised) == 1 and "Fe.UPF needs a cutoff of 64 Ry" in raised[0]


def test_grid_follows_reciprocal_lengths():
    preset = load_preset("fast")
    lattice = np.diag([4.0, 8.0, 40.0])
    assert preset.grid(lattice) == (4, 2, 1)  # 2π/4 = 1.57, /0.5 = 3.1
    assert preset.grid(bulk("Si").cell.array) == preset.grid(bulk("Si").cell.array * (1 - 1e-9))


@pytest.mark.parametrize("kspacing", [0.0, -1.0, float("nan"), float("inf")])
def test_k_spacing_that_is_none(kspacing):
    with pytest.raises(ValueError, match="k-spacing is"):
        replace(load_preset("fast"), kspacing=kspacing)


def test_grid_that_nobody_means():
    with pytest.raises(ValueError, match=r"k-spacing of 0\.001 1/Å means 1849 × 1849 × 1849 k-points"):
        replace(load_preset("fast"), kspacing=0.001).grid(bulk("Si", a=5.886).cell.array)


def input_of(atoms, tmp_path, preset="standard", **settings) -> str:
    folder = tmp_path / "upf"
    for element in set(atoms.get_chemical_symbols()):
        write_upf(folder / f"{element}.UPF", element)
    calculation = Calculation(
        atoms,
        settings.pop("task", "scf"),
        load_preset(preset),
        find(set(atoms.get_chemical_symbols()), [folder]),
        **settings,
    )
    write_input(calculation, tmp_path / "run", 60, False)
    return (tmp_path / "run" / "espresso.pwi").read_text()


def test_input_names_no_folder_of_this_machine(tmp_path):
    text = input_of(bulk("Si"), tmp_path, task="vc-relax")
    assert str(tmp_path) not in text
    assert "calculation      = 'vc-relax'" in text and "Si.UPF" in text and "press_conv_thr" in text
    assert "nspin" not in text


def test_magnetic_elements_start_with_a_moment(tmp_path):
    text = input_of(bulk("FeO", "rocksalt", a=4.3), tmp_path)
    assert "nspin            = 2" in text
    assert "starting_magnetization(1) = 0.4" in text and "starting_magnetization(2) = 0.0" in text
    assert text.index("Fe.UPF") < text.index(" O.UPF")  # the species in this order
    assert "starting_magnetization(1) = 0.23" in input_of(bulk("Fe"), tmp_path)  # ASE's iron has a moment of its own
    assert "nspin" not in input_of(bulk("Fe"), tmp_path, preset="fast")


def test_keywords_of_the_user_win_and_change_the_key(tmp_path):
    folder = tmp_path / "upf"
    write_upf(folder / "Si.UPF", "Si")
    found = find(["Si"], [folder])
    plain = Calculation(bulk("Si"), "scf", load_preset("fast"), found)
    other = Calculation(bulk("Si"), "scf", load_preset("fast"), found, {"ecutwfc": 30})
    assert other.keywords["ecutwfc"] == 30 and plain.keywords["ecutwfc"] == 90
    assert other.keywords["ecutrho"] == 120 and plain.keywords["ecutrho"] == 360, "the density's goes with it"
    both = Calculation(bulk("Si"), "scf", load_preset("fast"), found, {"ecutwfc": 30, "ecutrho": 240})
    assert both.keywords["ecutrho"] == 240
    moved = bulk("Si")
    moved.positions += 1e-4
    keys = [one.key for one in (plain, other, Calculation(moved, "scf", load_preset("fast"), found))]
    assert len(set(keys)) == 3
    assert Calculation(bulk("Si"), "scf", load_preset("fast"), found).key == keys[0]
    write_upf(folder / "Si.UPF", "Si", ecutwfc=10)
    assert Calculation(bulk("Si"), "scf", load_preset("fast"), find(["Si"], [folder])).key != keys[0]


def test_task_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="task 'md' is none of scf, relax, vc-relax"):
        input_of(bulk("Si"), tmp_path, task="md")
