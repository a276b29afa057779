"""Everything that ASE atoms and pymatgen Structures carry beside the crystal comes along."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Structure

from dao_ase.convert import atoms_from_structure, from_atoms, from_structures, structure_from_atoms

EXACT = 1e-12


def test_atoms_keep_everything_through_a_structure():
    atoms = fcc111("Al", (2, 1, 2), vacuum=5.0)
    atoms.pbc = [True, True, False]
    atoms.positions[0] -= 20  # outside the cell, and it stays there
    atoms.set_initial_magnetic_moments([1.0, -1.0, 0.5, 0.0])
    atoms.set_array("velocity_field", np.arange(12.0).reshape(4, 3))
    atoms.info = {"name": "slab", "energy_known": True}
    forces = np.arange(12.0).reshape(4, 3)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.5, forces=forces)
    again = atoms_from_structure(structure_from_atoms(atoms))
    np.testing.assert_allclose(again.positions, atoms.positions, atol=EXACT)
    np.testing.assert_allclose(again.cell, atoms.cell, atol=EXACT)
    assert (
        again.pbc.tolist() == atoms.pbc.tolist()
        and again.info.items() >= {"name": "slab", "energy_known": True}.items()
    )
    assert set(again.arrays) == set(atoms.arrays)
    for name, array in atoms.arrays.items():
        np.testing.assert_allclose(again.arrays[name], array, atol=EXACT)
    assert again.get_potential_energy() == -3.5
    np.testing.assert_array_equal(again.get_forces(), forces)


def test_results_of_other_atoms_are_left_out():
    """One calculator may serve many atoms; its results are those of the last ones."""
    first, second = fcc111("Al", (1, 1, 2), vacuum=5.0), fcc111("Cu", (1, 1, 2), vacuum=5.0)
    first.calc = second.calc = EMT()
    energy = first.get_potential_energy()
    second.get_potential_energy()
    assert "results" not in structure_from_atoms(first).properties
    assert first.get_potential_energy() == structure_from_atoms(first).properties["results"]["energy"] == energy
    first.rattle(0.1)
    assert "results" not in structure_from_atoms(first).properties


def test_results_of_names_that_ase_does_not_know_come_along():
    atoms = fcc111("Al", (1, 1, 2), vacuum=5.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    atoms.calc.results["node_energy"] = np.array([-0.4, -0.6])
    again = atoms_from_structure(structure_from_atoms(atoms))
    assert again.get_potential_energy() == -1.0
    assert again.calc.results["node_energy"].tolist() == [-0.4, -0.6]


def test_structure_keeps_oxidation_states_and_site_properties():
    lattice = Lattice.from_parameters(4, 5, 6, 80, 95, 100)
    structure = Structure(
        lattice, ["Na+", "Cl-"], [[0, 0, 0], [0.5, 1.5, -0.5]], site_properties={"magmom": [0.5, -0.5]}
    )
    atoms = atoms_from_structure(structure)
    assert atoms.arrays["oxi_state"].tolist() == [1, -1] and atoms.arrays["magmom"].tolist() == [0.5, -0.5]
    np.testing.assert_allclose(atoms.get_scaled_positions(wrap=False), structure.frac_coords, atol=EXACT)


def test_a_cell_without_a_volume_is_named():
    atoms = Atoms("C", cell=[[4, 0, 0], [4, 0, 0], [0, 0, 4]], pbc=True)
    with pytest.raises(ValueError, match="rows are dependent"):
        from_atoms([atoms])


def test_partial_occupancy_and_unknown_elements():
    alloy = Structure(Lattice.cubic(3), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    for convert in (lambda one: from_structures([one]), atoms_from_structure):
        with pytest.raises(ValueError, match="partly occupied sites"):
            convert(alloy)
    with pytest.raises(ValueError, match=r"\[0\] are no atomic numbers"):
        structure_from_atoms(Atoms("X", cell=[3, 3, 3]))
    with pytest.raises(ValueError, match="has no volume"):
        structure_from_atoms(Atoms("H"))
