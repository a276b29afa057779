"""Which pseudopotential is taken, what its header says, and what is said when there is none."""

import pytest

from dao_ase.espresso import pseudopotentials
from dao_ase.espresso.errors import EspressoError
from dao_ase.espresso.presets import load_preset
from dao_ase.espresso.pseudopotentials import find, read
from pseudo import write_list, write_upf, write_upf_1


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
    debian = [pseudopotentials.DEBIAN, pseudopotentials.CP2K]
    assert pseudopotentials.directories(["mine"]) == [type(tmp_path)("mine"), tmp_path, *debian]


def test_list_of_cp2k_is_the_last_to_be_asked(tmp_path):
    write_upf(tmp_path / "O.UPF", "O")
    write_list(tmp_path)
    found = find(["O", "Os"], [tmp_path])
    assert (found["O"].name, found["Os"].name) == ("O.UPF", "Os_GTH-PBE-q16.gth")
    assert (found["Os"].kind, found["Os"].functional) == ("norm-conserving", "PBE")
    assert load_preset("fast").cutoffs(found.values())[::2] == (
        111, ["Os_GTH-PBE-q16.gth needs a cutoff of 111 Ry, above the 90 Ry of preset 'fast': raised"]
    )  # fmt: skip
    found["Os"].put(tmp_path)
    again = find(["Os"], [tmp_path])["Os"]
    assert again.taken is None and again.digest == found["Os"].digest, "a file is before the list"


@pytest.mark.parametrize(
    "text", ["", "one line", "x\n76 16 0\n8 11 0 0 0 0\n", "x\n999 1 0\n10 11 0 0 0 0\n0.2 0\n0\n"]
)
def test_file_that_is_no_pseudopotential(tmp_path, text):
    (tmp_path / "Os.gth").write_text(text)
    with pytest.raises(EspressoError, match=r"Os\.gth holds no whole pseudopotential; replace or remove it"):
        find(["Os"], [tmp_path])


def test_download_that_was_cut_off(tmp_path):
    text = write_upf(tmp_path / "Si.UPF", "Si").read_text()
    (tmp_path / "Si.UPF").write_text(text.replace("</UPF>", "<PP_MESH>\n"))
    with pytest.raises(EspressoError, match=r"Si\.UPF holds no whole pseudopotential"):
        find(["Si"], [tmp_path])


def test_package_is_advised_only_where_it_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudopotentials, "CP2K", tmp_path / "none")
    with pytest.raises(EspressoError, match="apt-get install cp2k-data"):
        find(["Os"], [tmp_path])
    with pytest.raises(EspressoError, match=r"ESPRESSO_PSEUDO$"):
        find(["U"], [tmp_path])
