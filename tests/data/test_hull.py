"""Energies above the hull equal pymatgen's, elements and unstable compounds included."""

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

from dao_ase.composition import Composition, reduced_key
from dao_ase.data.hull import energies_above_hull

ENERGIES = {
    "MgO": -3.0,
    "MgO2": -1.5,
    "Mg2Si": -0.2,
    "SiO2": -3.1,
    "Mg2SiO4": -3.0,
    "MgSiO3": -3.02,
    "Mg": 0.05,
    "O2": 0.0,
}


@pytest.mark.parametrize("workers", [1, 2])
def test_equals_one_phase_diagram_of_everything(workers, tmp_path):
    formulas = [reduced_key(Composition.parse(name).atomic_numbers) for name in ENERGIES]
    energies = np.array(list(ENERGIES.values()))
    found = energies_above_hull(
        [*formulas, formulas[0], formulas[1]], np.append(energies, [-2.5, np.nan]), tmp_path, workers
    )
    entries = [PDEntry(name, e * Composition.parse(name).num_atoms) for name, e in ENERGIES.items()]
    diagram = PhaseDiagram([*entries, PDEntry("Mg", 0), PDEntry("Si", 0)])
    expected = [diagram.get_e_above_hull(entry) for entry in entries]
    np.testing.assert_allclose(found[:-2], expected, atol=1e-9)
    assert found[-2] == pytest.approx(0.5) and np.isnan(found[-1])


def test_no_energies():
    assert np.isnan(energies_above_hull([((8, 1), (12, 1))], np.array([np.nan]))).all()
    assert len(energies_above_hull([], np.zeros(0))) == 0
