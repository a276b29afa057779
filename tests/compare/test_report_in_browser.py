"""The report of a comparison in a real browser: cells are painted, one can be opened and turned, nothing is fetched."""

import json

import pytest

import test_gallery
from dao_ase.compare.report import write_page

browser = test_gallery.browser
SALT = {
    "lattice": [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]],
    "species": ["Na", "Cl"],
    "frac": [[0, 0, 0], [0.5] * 3],
}
TIMES = {"wall": 1.0, "processor": 1.0, "ionic_steps": 2, "scf_iterations": None}


@pytest.fixture
def report(tmp_path):
    found = {
        "energy_per_atom": -3.0,
        "energies": [0.0, -0.1],
        "converged": True,
        "end": SALT,
        "times": TIMES,
        "notes": {},
    }
    row = {
        "name": "salt",
        "task": "vc-relax",
        "start": SALT,
        "methods": {"DAO-P": found, "pw.x": {"problem": "absent"}},
    }
    rest = {key: {} for key in ("settings", "versions", "machine", "pseudopotentials", "inputs")}
    return write_page(
        {"title": "t", "summary": "s", "rows": [row], "polymorphs": [], "problems": ["absent"], "remarks": []} | rest,
        tmp_path / "report.html",
    )


@pytest.mark.browser
def test_cells_are_painted_and_open(browser, report):
    browser.get(report.as_uri())
    test_gallery.wait(browser, "document.querySelectorAll('button.view img').length === 2")
    browser.execute_script("document.querySelectorAll('button.view')[1].click()")
    test_gallery.wait(browser, "document.querySelector('dialog[open] canvas') !== null")
    assert (
        browser.execute_script("return document.getElementById('detail-title').textContent") == "salt, relaxed by DAO-P"
    )
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls)
