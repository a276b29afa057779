"""Which pseudopotential is taken, what its header says, and what is said when there is none."""

import pytest

from dao_ase.espresso import pseudopotentials
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.pseudopotentials import find, read
from pseudo import write_upf, write_upf_1


def test_header_of_version_2(tmp_path):
    found = read(write_upf(tmp_path / "Fe.pbe-spn-rrkjus_psl.UPF", "Fe", kind="USPP", ecutwfc=63.9, ecutrho=781.7))
    assert (found.element, found.kind, found.functional) == ("Fe", "ultrasoft", "PBE")
    assert (found.ecutwfc, found.ecutrho, found.fully_relativistic) == (63.9, 781.7, False)


def test_header_of_version_1(tmp_path):
    found = read(write_upf_1(tmp_path / "Si.pz.UPF", "Si", "SLA  PZ   NOGX NOGC   PZ"))
    assert (found.element, found.kind, found.functional, found.ecutwfc) == ("Si", "norm-conserving", "LDA", 24.0)


@pytest.mark.parametrize("words", ["PBE", " SLA  PW   PBE  PBE", "SLA  PW   PBX  PBC", "SLA-PW-PBX-PBC"])
def test_pbe_has_several_names(tmp_path, words):
    assert read(write_upf(tmp_path / "O.UPF", "O", functional=words)).functional == "PBE"


def test_first_folder_scalar_relativistic_and_stated_cutoffs_win(tmp_path):
    own, shared = tmp_path / "own", tmp_path / "shared"
    write_upf(shared / "Si.UPF", "Si", ecutwfc=40)
    write_upf(shared / "C.a.UPF", "C")
    write_upf(shared / "C.b.UPF", "C", ecutwfc=40)
    write_upf(shared / "C.rel.UPF", "C", ecutwfc=50, relativistic="full")
    write_upf(shared / "Cs.UPF", "Cs")
    write_upf(own / "Si_ONCV_PBE_sr.upf", "Si")
    found = find(["Si", "C", "Si"], [own, shared])
    assert {one: potential.file.name for one, potential in found.items()} == {
        "C": "C.b.UPF",
        "Si": "Si_ONCV_PBE_sr.upf",
    }


def test_functionals_are_not_mixed(tmp_path):
    write_upf(tmp_path / "Mg.pz.UPF", "Mg", functional="SLA PZ NOGX NOGC")
    with pytest.raises(EspressoError, match=r"no PBE pseudopotential of Mg.*Mg.pz.UPF \(LDA\).*--pseudo-dir") as error:
        find(["Mg"], [tmp_path])
    assert error.value.kind == "no pseudopotential"


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(EspressoError, match="there is no folder"):
        find(["Si"], [tmp_path / "nowhere", tmp_path])


def test_where_is_looked(monkeypatch, tmp_path):
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(tmp_path))
    assert pseudopotentials.directories(["mine"]) == [type(tmp_path)("mine"), tmp_path, pseudopotentials.DEBIAN]
