"""OPTIMADE: what a real server on loopback serves arrives as it is, over several pages."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from crystals import CRYSTALS
from dao_ase.data.optimade import OptimadeSource
from dao_ase.data.sources import open_source, read

pytest.importorskip("optimade.client", reason="needs pip install 'optimade[server]'")
pytest.importorskip("mongomock", reason="needs pip install 'optimade[server]'")
pytest.importorskip("uvicorn", reason="needs pip install 'optimade[server]'")


def entry(name: str, **changes) -> dict:
    """A structure in the words of OPTIMADE."""
    structure = CRYSTALS[name]
    elements = sorted({site.specie.symbol for site in structure})
    shares = [structure.composition.get_atomic_fraction(symbol) for symbol in elements]
    return {
        "id": name,
        "type": "structures",
        "immutable_id": name,
        "last_modified": "2024-01-01T00:00:00Z",
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": shares,
        "chemical_formula_descriptive": structure.formula,
        "chemical_formula_reduced": "".join(structure.reduced_formula),
        "chemical_formula_anonymous": structure.composition.anonymized_formula,
        "dimension_types": [1, 1, 1],
        "nperiodic_dimensions": 3,
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "nsites": len(structure),
        "species": [{"name": one, "chemical_symbols": [one], "concentration": [1.0]} for one in elements],
        "species_at_sites": [site.specie.symbol for site in structure],
        "structure_features": [],
    } | changes


BROKEN = {
    "alloy": {"species": [{"name": "Na", "chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]},
                          {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]}]},
    "slab": {"dimension_types": [1, 1, 0], "nperiodic_dimensions": 2},
    "flat": {"lattice_vectors": [[5, 0, 0], [0, 5, 0], [0, 0, 0]]},
    "unknown": {"species": [{"name": "Na", "chemical_symbols": ["X"], "concentration": [1.0]},
                            {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    file = tmp_path_factory.mktemp("optimade") / "entries.json"
    entries = [entry(name) for name in CRYSTALS] + [entry("salt", id=name, **change) for name, change in BROKEN.items()]
    file.write_text(json.dumps(entries))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).parent / "optimade_server.py"), str(port), str(file)]
    url = f"http://127.0.0.1:{port}"
    with (
        open(file.with_suffix(".log"), "wb") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/versions", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, file.with_suffix(".log").read_text()[-2000:]
                time.sleep(0.5)
        yield url
        process.kill()


def test_structures_arrive_as_they_are(server):
    rejected = []
    records = {record.id: record for record in read(open_source(f"optimade:{server}"), rejected.append)}
    assert set(records) == set(CRYSTALS)
    for name, structure in CRYSTALS.items():
        np.testing.assert_allclose(records[name].lattice, structure.lattice.matrix, atol=1e-12)
        np.testing.assert_allclose(records[name].frac_coords, structure.frac_coords, atol=1e-12)
        assert records[name].atomic_numbers.tolist() == list(structure.atomic_numbers)
        assert records[name].source == server
    assert {one.id: one.rule for one in rejected} == {
        "alloy": "partial occupancy",
        "slab": "not periodic",
        "flat": "singular cell",
        "unknown": "unknown element",
    }


def test_filter(server):
    records = list(read(open_source(f"optimade:{server}", 'elements HAS "Ti"')))
    assert [record.id for record in records] == ["rutile"]


def test_a_server_that_fails_ends_the_reading(server):
    """Half an answer must not look like a whole one."""
    with pytest.raises(ConnectionError, match=r"cannot be read.*nonsense"):
        list(read(OptimadeSource(server, "nonsense =")))
    with pytest.raises(ConnectionError, match="cannot be read"):
        list(read(OptimadeSource("http://127.0.0.1:9")))
