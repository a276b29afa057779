"""The gallery: what the page says, and what a person does with it in a real browser."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from click.testing import CliRunner
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from dao_ase.cli import main
from dao_ase.gallery import read_run, write_gallery

CSV3SB5 = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"


def diamond(a: float = 5.43) -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(a), ["Si"], [[0, 0, 0]])


def candidates(count: int) -> list[Structure]:
    """Distorted CsV3Sb5 cells; the lowest energy stands last and the second has none."""
    found = []
    for index in range(count):
        structure = Structure.from_file(CSV3SB5)
        structure.relabel_sites()
        structure.scale_lattice(structure.volume * (1 + 0.02 * index))
        energy = None if index == 1 else -4.5 - 0.01 * index
        structure.properties = {"energy_per_atom": energy, "seed": 7, "model": "test"}
        found.append(structure)
    return found


def data_of(page: Path) -> dict:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert block is not None
    return json.loads(block[1])


def write_run(directory: Path, structures: list[Structure]) -> None:
    """What ``dao-ase generate`` leaves behind."""
    records = []
    for index, structure in enumerate(structures, 1):
        structure.to(str(directory / f"{index:03d}.cif"), fmt="cif")
        records.append({"file": f"{index:03d}.cif", "space_group": "P6/mmm", **structure.properties})
    (directory / "summary.json").write_text(json.dumps({"structures": records, "refused": {}}))


def test_page_says_what_the_structures_are(tmp_path):
    reference = Structure.from_file(CSV3SB5)
    page = write_gallery([*candidates(2), diamond()], tmp_path / "new" / "page.html", reference=reference)
    known, first, second, silicon = data_of(page)["structures"]
    assert known["isReference"] and not first["isReference"]
    assert first["formula"] == "CsV3Sb5" and first["energy"] == -4.5 and first["spaceGroupNumber"] == 191
    assert first["rmse"] == pytest.approx(0, abs=1e-6)
    assert second["energy"] is None and second["volume"] == pytest.approx(1.02 * first["volume"])
    assert silicon["rmse"] is None and silicon["spaceGroup"] == "Fd-3m" and len(silicon["species"]) == 8
    assert data_of(page)["elements"]["Cs"]["radius"] > data_of(page)["elements"]["V"]["radius"]


def test_download_is_the_structure(tmp_path):
    structure = diamond()
    (record,) = data_of(write_gallery([structure], tmp_path / "page.html"))["structures"]
    assert Structure.from_str(record["cif"], fmt="cif").matches(structure)


def test_hostile_text_stays_text(tmp_path):
    structure = diamond()
    structure.properties = {"model": "</script><script>alert(1)</script>", "energy_per_atom": float("nan")}
    page = write_gallery([structure], tmp_path / "page.html", title="<b>{{data}}</b>")
    assert data_of(page)["structures"][0]["model"] == structure.properties["model"]
    assert data_of(page)["structures"][0]["energy"] is None
    assert "<title>&lt;b&gt;{{data}}&lt;/b&gt;</title>" in page.read_text("utf-8")
    assert "alert(1)</script>" not in page.read_text("utf-8")


def test_numbers_of_other_programs_are_numbers(tmp_path):
    structure = diamond()
    structure.properties = {"energy_per_atom": np.float32(-5.5), "copies": np.int64(3), "seed": torch.tensor(7)}
    (shown,) = data_of(write_gallery([structure], tmp_path / "page.html"))["structures"]
    assert (shown["energy"], shown["copies"], shown["seed"]) == (-5.5, 3, 7)


def test_page_is_one_file_without_a_network(tmp_path):
    page = write_gallery([diamond()], tmp_path / "page.html").read_text("utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page)
    assert "default-src 'none'" in page
    assert "Copyright (c) 2014, University of Pittsburgh" in page, "3Dmol.js goes with its licence"
    assert os.listdir(tmp_path) == ["page.html"]


def test_200_structures_fit_into_5_megabytes(tmp_path):
    large = diamond() * [2, 2, 1]
    assert write_gallery([large] * 200, tmp_path / "page.html").stat().st_size < 5e6


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no structure to show"):
        write_gallery([], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_structures_may_come_from_an_iterator(tmp_path):
    page = write_gallery(iter(candidates(2)), tmp_path / "page.html", reference=diamond())
    assert [one["isReference"] for one in data_of(page)["structures"]] == [True, False, False]


def test_partly_occupied_sites_are_refused_by_name(tmp_path):
    alloy = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"structure 1 .*partly occupied"):
        write_gallery([diamond(), alloy], tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"the reference .*partly occupied"):
        write_gallery([diamond()], tmp_path / "page.html", reference=alloy)


def test_run_is_read_in_its_order_with_its_properties(tmp_path):
    write_run(tmp_path, candidates(3))
    structures = read_run(tmp_path)
    assert [structure.properties["energy_per_atom"] for structure in structures] == [-4.5, None, -4.52]
    for read, written in zip(structures, candidates(3), strict=True):
        assert read.matches(written, scale=False)


def test_command(tmp_path):
    write_run(tmp_path, candidates(3))
    done = CliRunner().invoke(main, ["gallery", str(tmp_path), "--reference", str(CSV3SB5), "--title", "Kagome"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "gallery.html")
    assert "<title>Kagome</title>" in (tmp_path / "gallery.html").read_text("utf-8")


def test_command_says_which_directory_it_wants(tmp_path):
    done = CliRunner().invoke(main, ["gallery", str(tmp_path)])
    assert done.exit_code == 1
    assert "no summary.json" in done.output and "dao-ase generate" in done.output
    assert done.output.count(str(tmp_path)) == 1


def test_a_damaged_structure_is_named(tmp_path):
    write_run(tmp_path, candidates(2))
    file = tmp_path / json.loads((tmp_path / "summary.json").read_text())["structures"][1]["file"]
    file.write_text("garbage\n")
    done = CliRunner().invoke(main, ["gallery", str(tmp_path)])
    assert done.exit_code == 1 and f"'{file}' is damaged" in done.output


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", "{", '{"structures": 3}', '{"structures": [3]}', '{"structures": [{"file": 3}]}'),
        '{"structures": [{"file": "../elsewhere.cif"}]}',
        '{"structures": [{"file": "001_Si2.cif", "energy_per_atom": "low"}]}',
        '{"structures": [{"file": "001_Si2.cif", "space_group": 227}]}',
    ],
)
def test_a_summary_of_another_thing_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    done = CliRunner().invoke(main, ["gallery", str(tmp_path)])
    assert done.exit_code == 1 and "is of no run of dao-ase generate" in done.output


def test_a_reference_that_cannot_be_compared_is_named(tmp_path):
    write_run(tmp_path, candidates(1))
    alloy = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    (tmp_path / "alloy.cif").write_text(alloy.to(fmt="cif"))
    (tmp_path / "broken.cif").write_text("data_x\n")
    for name, reason in (("alloy.cif", "partly occupied"), ("broken.cif", "not a structure file")):
        done = CliRunner().invoke(main, ["gallery", str(tmp_path), "--reference", str(tmp_path / name)])
        assert done.exit_code == 1 and f"{name}: " in done.output and reason in done.output, done.output


def test_only_structures_that_are_shown_are_read(tmp_path):
    write_run(tmp_path, candidates(3))
    (tmp_path / "003.cif").unlink()
    done = CliRunner().invoke(main, ["gallery", str(tmp_path), "--limit", "2"])
    assert done.exit_code == 0 and "2 of 3 structures" in done.stderr, done.output


def test_a_run_that_has_grown_meanwhile_is_not_cut(tmp_path, monkeypatch):
    write_run(tmp_path, candidates(3))
    monkeypatch.setattr("dao_ase.gallery.run_size", lambda directory: 4)
    done = CliRunner().invoke(main, ["gallery", str(tmp_path)])
    assert done.exit_code == 0 and "structures are shown" not in done.stderr, done.output


def test_a_reference_of_no_element_is_refused(tmp_path):
    write_run(tmp_path, candidates(1))
    text = str(CifWriter(diamond())).replace("Si", "X")
    (tmp_path / "dummy.cif").write_text(text)
    done = CliRunner().invoke(main, ["gallery", str(tmp_path), "--reference", str(tmp_path / "dummy.cif")])
    assert done.exit_code == 1 and "dummy.cif: " in done.output and "is no element" in done.output, done.output


def test_screening_runs_have_galleries_of_the_best(tmp_path, monkeypatch):
    """Of each composition the first, nearest to the hull first; --limit says how many, and no others are converted."""
    from dao_ase import database
    from dao_ase.database import SETTINGS, Outcome, ScreenDatabase

    converted = []
    of_row = database.structure_of
    monkeypatch.setattr(database, "structure_of", lambda row: converted.append(row.id) or of_row(row))
    (tmp_path / SETTINGS).write_text('{"run": "test", "database": "screen.db"}')
    outcomes = []
    for formula, shift in (("NaCl", 0.2), ("KCl", 0.0)):
        salts = [bulk(formula, "rocksalt", a=5.6 + rank / 10) for rank in (1, 2)]
        for rank, atoms in enumerate(salts, 1):
            atoms.info = {"rank": rank, "energy_per_atom": -3 + shift, "e_above_hull": shift * rank, "copies": 7}
        outcomes.append(Outcome(formula, salts))
    ScreenDatabase(tmp_path / "screen.db", "test").write([*outcomes, Outcome("Xx", error="no element")])
    done = CliRunner().invoke(main, ["gallery", str(tmp_path), "--limit", "3"])
    assert done.exit_code == 0 and "3 of 4 structures" in done.stderr and len(converted) == 3
    first, second, third = data_of(tmp_path / "gallery.html")["structures"]
    assert [one["formula"] for one in (first, second, third)] == ["KCl", "NaCl", "KCl"]
    assert (first["aboveHull"], second["aboveHull"], first["copies"]) == (0.0, 0.2, 7)
    assert first["file"].endswith("_KCl.cif")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that draws with its software WebGL and logs every message of a page."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in (
        "headless=new",
        "no-sandbox",
        "use-angle=swiftshader",
        "enable-unsafe-swiftshader",
        "force-prefers-reduced-motion",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.set_script_timeout(120)  # s; software WebGL beside other work is slow
    yield chromium
    chromium.quit()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Twelve candidates and their reference."""
    path = tmp_path_factory.mktemp("gallery") / "page.html"
    return write_gallery(candidates(12), path, reference=Structure.from_file(CSV3SB5))


@pytest.fixture
def page(browser, gallery):
    """The gallery, open."""
    browser.set_window_size(1280, 900)
    browser.get(gallery.as_uri())
    wait(browser, "document.querySelectorAll('.card .stage canvas').length > 0")
    yield browser
    assert browser.get_log("browser") == []


def wait(browser, condition: str) -> None:
    """Until a JavaScript expression holds."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(f"return {condition}"), condition)


def shown(browser) -> list[str]:
    """The ranks of the cards that are shown, in their order; the reference is R."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.card')].filter((card) => !card.hidden)"
        ".map((card) => card.structure.isReference ? 'R' : String(card.structure.rank))"
    )


def press(browser, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.browser
def test_cells_in_sight_are_drawn_and_turn(page):
    canvas = "document.querySelector('.card .stage canvas')"
    assert not page.find_element("id", "rotate").is_selected(), "who asks the system for less motion gets none"
    page.find_element("id", "rotate").click()
    page.execute_script(f"window.first = {canvas}.toDataURL()")
    wait(page, f"{canvas}.toDataURL() !== window.first")
    assert page.execute_script("return document.querySelectorAll('.stage canvas').length") <= 9
    page.execute_script("scrollTo(0, document.body.scrollHeight)")
    wait(page, "document.querySelector('.card:last-child .stage canvas, .card:last-child img') !== null")


@pytest.mark.browser
def test_wide_screens_get_still_pictures_beyond_the_viewers(page):
    page.set_window_size(2600, 2000)
    wait(page, "document.querySelectorAll('.card img').length === 5")
    wait(page, "[...document.querySelectorAll('.card img')].every((picture) => picture.naturalWidth >= 320)")
    assert page.execute_script("return document.querySelectorAll('.card .stage canvas').length") == 8


@pytest.mark.browser
def test_sort_reverse_and_find(page):
    ranks = [str(rank) for rank in range(1, 13)]
    assert shown(page) == ["R", *ranks]
    page.find_element("css selector", "#sort option[value=energy]").click()
    assert shown(page) == ["R", *reversed(ranks[2:]), "1", "2"], "lowest energy first, the unknown last"
    page.find_element("id", "direction").click()
    assert shown(page) == ["R", "1", *ranks[2:], "2"]
    page.find_element("id", "find").send_keys("fm-3m")
    assert shown(page) == ["R"] and "0 of 12" in page.find_element("id", "count").text


@pytest.mark.browser
def test_energies_above_the_hull_sort_and_lowest_is_said_for_each_composition(browser, tmp_path):
    structures = [diamond(5.43), diamond(5.60), *candidates(1)]
    for structure, energy, height in zip(structures, (-5.4, -5.3, -4.5), (0.1, 0.2, -0.03), strict=True):
        structure.properties = {"energy_per_atom": energy, "e_above_hull": height}
    browser.get(write_gallery(structures, tmp_path / "page.html").as_uri())
    browser.find_element("css selector", "#sort option[value=hull]").click()
    assert shown(browser) == ["3", "1", "2"]
    cards = [card.text for card in browser.find_elements("css selector", ".card")]
    assert "lowest" in cards[0] and "\u221230 meV/atom above the hull" in cards[0]
    assert "lowest" in cards[1] and "+100 meV" in cards[2]


@pytest.mark.browser
def test_keyboard(page):
    press(page, "/")
    assert page.switch_to.active_element.get_attribute("id") == "find"
    page.execute_script("document.querySelector('.card').focus()")
    press(page, "\ue014", "\ue014")  # right, right
    assert page.execute_script("return document.activeElement.structure.rank") == 2
    press(page, "\ue007")  # enter
    wait(page, "document.getElementById('detail').open && document.querySelector('#detail canvas') !== null")
    assert "P6/mmm" in page.find_element("css selector", "#detail table").text
    press(page, "\ue00c")  # escape
    wait(page, "!document.getElementById('detail').open")


@pytest.mark.browser
def test_download_as_cif(page, tmp_path):
    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.find_elements("css selector", ".card .download")[1].click()
    from selenium.webdriver.support.ui import WebDriverWait

    file = tmp_path / "001_CsV3Sb5.cif"
    WebDriverWait(page, 20).until(lambda _: file.exists())
    assert Structure.from_file(file).composition.reduced_formula == "CsV3Sb5"


@pytest.mark.browser
def test_phone(page):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390, "no sideways scrolling"
        page.execute_script("document.querySelectorAll('.card .view')[1].click()")
        wait(page, "document.getElementById('detail').open")
        assert page.execute_script("return document.getElementById('detail').getBoundingClientRect().right") <= 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.browser
def test_nothing_is_asked_of_the_network(page):
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [entry["params"]["request"]["url"] for entry in messages if entry["method"] == "Network.requestWillBeSent"]
    assert sent and all(url.startswith(("file:", "data:", "blob:")) for url in sent)
