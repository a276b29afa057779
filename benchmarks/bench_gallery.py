"""The gallery of 200 structures: size of the page, and seconds until a browser has loaded it and drawn the first cells.

Needs Chromium with chromedriver and selenium; the cells are drawn by its software renderer, so a real GPU is faster.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pymatgen.core import Structure
from record import arguments, record
from selenium import webdriver

from dao_ase.gallery import write_gallery

EXAMPLE = Path(__file__).parent.parent / "examples" / "data" / "CsV3Sb5.cif"
FLAGS = ("headless=new", "no-sandbox", "use-angle=swiftshader", "enable-unsafe-swiftshader")


def candidates(count: int, seed: int) -> list[Structure]:
    """Displaced and scaled copies of CsV3Sb5."""
    import numpy as np

    rng = np.random.default_rng(seed)
    known = Structure.from_file(EXAMPLE).relabel_sites()
    found = []
    for energy in np.sort(rng.normal(-4.5, 0.1, count)):
        structure = known.copy().perturb(0.1, seed=int(rng.integers(2**31)))
        structure.scale_lattice(known.volume * rng.uniform(0.9, 1.2))
        structure.properties = {"energy_per_atom": float(energy), "seed": seed, "model": "displaced"}
        found.append(structure)
    return found


def open_page(page: Path) -> tuple[float, float]:
    """Seconds until the page is loaded, and until cells are drawn; each in a new browser."""
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        started = time.perf_counter()
        browser.get(page.as_uri())
        loaded = time.perf_counter() - started
        while not browser.execute_script("return pool.length > 0 && pool.every((actor) => actor.lastDrawn > 0)"):
            time.sleep(0.01)
        return loaded, time.perf_counter() - started
    finally:
        browser.quit()


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    count, repeats = (20, 1) if options.quick else (200, 5)
    structures = candidates(count, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        page = write_gallery(structures, Path(folder) / "gallery.html", reference=Structure.from_file(EXAMPLE))
        written = time.perf_counter() - started
        loaded, drawn = zip(*[open_page(page) for _ in range(repeats)], strict=True)
        figures = {
            "structures": count,
            "seconds to write, matching included": round(written, 2),
            "megabytes": round(page.stat().st_size / 1e6, 2),
            "seconds to load": round(statistics.median(loaded), 2),
            "seconds to the first cells": round(statistics.median(drawn), 2),
        }
    record("gallery", figures, seed=options.seed, packages=("selenium",))
