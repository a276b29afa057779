"""The space group: found within the tolerance, and in silence."""

import numpy as np
from pymatgen.core import Lattice, Structure

from dao_ase.symmetry import generated_space_group

CSPBI3 = Structure(
    Lattice([[4.6157, -0.8171, -0.0348], [-0.8757, 8.6231, 0.011], [-0.0136, 0.0075, 12.3661]]),
    ["Cs"] * 2 + ["Pb"] * 2 + ["I"] * 6,
    [
        [0.2346, 0.4752, 0.2506],
        [0.7638, 0.5237, 0.7505],
        [0.5015, 0.0013, 0.5002],
        [0.501, 0.9995, 0.9997],
        [0.8646, 0.7352, 0.4485],
        [0.1353, 0.2685, 0.5516],
        [0.8649, 0.7323, 0.0503],
        [0.1343, 0.2664, 0.9493],
        [0.5513, 0.1052, 0.2497],
        [0.4486, 0.8927, 0.7495],
    ],
)
"""As it comes out of a relaxation: spglib tries several tolerances, and fails with the first."""


def test_attempts_that_fail_are_not_heard_of(capfd, monkeypatch):
    monkeypatch.delenv("SPGLIB_WARNING", raising=False)
    assert generated_space_group(CSPBI3)[1] > 1
    assert capfd.readouterr().err == ""


def test_a_structure_without_symmetry_is_p1():
    atoms = np.random.default_rng(0).random((8, 3))
    assert generated_space_group(Structure(Lattice.from_parameters(5, 6, 7, 80, 85, 95), ["Si"] * 8, atoms)) == (
        "P1",
        1,
    )
