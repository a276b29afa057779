"""Equal structures: found whatever the cell, the order, the origin or a small distortion; nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystals import CRYSTALS, SHARED, needs_shared, quartz, rock_salt, rutile
from dao_ase.composition import reduced_key
from dao_ase.data.fingerprint import distance_shifts, fingerprint
from dao_ase.data.matching import (
    EVALUATION,
    MAX_SHIFT,
    Cell,
    Tolerances,
    duplicates_by_group,
    find_duplicates,
    find_matches,
    matches_by_group,
    same_structure,
)
from dao_ase.data.tables import NpzSource


def cell(structure: Structure) -> Cell:
    return Cell(structure.lattice.matrix.copy(), structure.frac_coords, np.array(structure.atomic_numbers, np.int64))


def disguised(structure: Structure, seed: int, amplitude: float = 0.0) -> Structure:
    """The same crystal in another cell, order and origin, its atoms moved by up to ``amplitude`` Å."""
    rng = np.random.default_rng(seed)
    shear = np.array([[1, 0, 0], [rng.integers(-1, 2), 1, 0], [0, rng.integers(-1, 2), 1]])
    moved = structure.make_supercell(shear, in_place=False)
    moved.translate_sites(list(range(len(moved))), rng.random(3))
    moved.perturb(amplitude)
    return Structure.from_sites([moved[i] for i in rng.permutation(len(moved))])


def print_of(structure: Structure) -> np.ndarray:
    one = cell(structure)
    return fingerprint(one.lattice, one.frac_coords, one.atomic_numbers)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(sorted(CRYSTALS)), seed=st.integers(0, 1000), scale=st.floats(0.8, 1.3))
def test_fingerprint_sees_neither_cell_nor_order_nor_scale(name, seed, scale):
    other = disguised(CRYSTALS[name], seed)
    other.scale_lattice(other.volume * scale)
    assert distance_shifts(print_of(CRYSTALS[name]), print_of(other)[None])[0] < 0.02
    assert (
        distance_shifts(print_of(CRYSTALS[name]), print_of(CRYSTALS[name].make_supercell(2, in_place=False))[None])[0]
        < 0.02
    )


def test_fingerprint_sees_that_two_elements_have_changed_places():
    layered = Structure(Lattice.tetragonal(2.8, 8.0), ["Li", "Co", "Li", "Co"], [[0, 0, k / 4] for k in range(4)])
    paired = Structure(Lattice.tetragonal(2.8, 8.0), ["Li", "Li", "Co", "Co"], [[0, 0, k / 4] for k in range(4)])
    assert distance_shifts(print_of(layered), print_of(paired)[None])[0] > MAX_SHIFT


def test_duplicates():
    structures = [
        rutile(),
        disguised(rutile(), 1, 0.05),
        rutile(u=0.1),
        rutile().make_supercell([1, 1, 2], in_place=False),
    ]
    assert find_duplicates([cell(one) for one in structures]) == [-1, 0, -1, 0]


def test_matches():
    references = [cell(quartz()), cell(quartz().make_supercell(2, in_place=False))]
    candidates = [cell(disguised(quartz(), 5, 0.1)), cell(Structure(Lattice.cubic(5), ["Si", "O", "O"], np.eye(3) / 2))]
    assert find_matches(candidates, references) == [0, -1]


@pytest.mark.parametrize("workers", [1, 2])
def test_groups_are_put_together_and_finished_work_is_kept(tmp_path, workers):
    structures = [rock_salt(), rutile(), disguised(rutile(), 3), rock_salt("Mg", "O", 4.2), disguised(rock_salt(), 4)]
    cells, keys = [cell(one) for one in structures], [reduced_key(one.atomic_numbers) for one in structures]
    assert duplicates_by_group(cells, keys, tmp_path, workers) == {2: 1, 4: 0}
    assert duplicates_by_group([cells[0]] * 5, keys, tmp_path, workers) == {2: 1, 4: 0}  # from the files
    references = [cell(quartz()), cell(disguised(rutile(), 8))]
    reference_keys = [reduced_key(one.atomic_numbers.tolist()) for one in references]
    assert matches_by_group(cells, keys, references, reference_keys, tmp_path, workers) == {1: 1, 2: 1}


@needs_shared
@pytest.mark.slow
def test_equals_a_matcher_without_shortcuts_on_the_pool():
    """Preparing each crystal once and comparing numbers of atoms first changes no result."""
    source, groups = NpzSource(SHARED / "mp_pool_0.npz"), {}
    for row, raw in enumerate(source.rows()):
        if len(raw[2]["numbers"]) <= 24:
            record = source.record(row, raw)
            found = Cell(record.lattice, record.frac_coords, record.atomic_numbers)
            groups.setdefault(reduced_key(record.atomic_numbers.tolist()), []).append(found)
        if row == 15_000:
            break
    several = [cells[:4] for cells in groups.values() if len(cells) > 1]
    compared = 0
    for tolerances in (Tolerances(), EVALUATION):
        fast = tolerances.matcher()
        plain = StructureMatcher(tolerances.ltol, tolerances.stol, tolerances.angle_tol)
        for cells in several[::15]:
            for first in range(len(cells)):
                for second in range(first):
                    pair = [
                        Structure(one.lattice, one.atomic_numbers.tolist(), one.frac_coords)
                        for one in (cells[first], cells[second])
                    ]
                    assert same_structure(cells[first], cells[second], fast) == plain.fit(*pair)
                    compared += 1
    assert compared > 100
