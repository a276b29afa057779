"""What ASE finds when dao-ase is installed: ``ase run dao``, and the npz files of labelled crystals as a format to read.

ASE loads the entry point when ``ase.io`` is imported, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators import names
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import ExternalIOFormat, string2index


def dao(**parameters: Any) -> Any:
    """The calculator of ``ase run dao``; torch is imported when it is asked for."""
    from dao_ase.calculator import DAOCalculator

    return DAOCalculator(**parameters)


dao.nolabel = True  # type: ignore[attr-defined]

NPZ_FORMAT = ExternalIOFormat(
    desc="Crystals as npz arrays (dao-ase)", code="+B", module="dao_ase.ase_plugin", ext=None, glob="*.dao.npz"
)
"""``ase.io.read(path, format="dao-npz")`` reads arrays n_atoms, numbers, frac_coords, lattice, and labels."""


def register() -> None:
    """Makes ``dao`` a calculator that ASE knows by name; twice does no harm, and an ASE that cannot is left alone."""
    from ase.calculators import calculator

    known = getattr(calculator, "external_calculators", None)
    if known is not None and "dao" not in known and "dao" not in names.names:
        calculator.register_calculator_class("dao", dao)


def __getattr__(name: str) -> Any:
    """``__ase_plugins__``, for ``ase info --plugins``: ASE's plugin system is provisional, so nothing of it is needed."""
    if name != "__ase_plugins__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ase._4.plugins.plugin import CalculatorPlugin  # whoever asks for the plugins has it

    return {CalculatorPlugin("dao", implementation="dao_ase.calculator.DAOCalculator")}


def read_dao_npz(file: Any, index: Any = -1) -> Iterator[Atoms]:
    """The crystals of an npz file, with energy (eV), forces (eV/Å) and stress (eV/Å³) where the file has them."""
    with np.load(file, allow_pickle=False) as arrays:
        counts, numbers = arrays["n_atoms"], arrays["numbers"]
        coords, lattice = arrays["frac_coords"], arrays["lattice"]
        labels = {name: arrays[name] for name in ("energy", "energy_per_atom", "forces", "stress") if name in arrays}
    starts = np.concatenate([[0], np.cumsum(counts)])
    place: Any = string2index(index) if isinstance(index, str) else index
    for frame in np.atleast_1d(np.arange(len(counts))[place]):
        span = slice(starts[frame], starts[frame + 1])
        atoms = Atoms(numbers[span], scaled_positions=coords[span], cell=lattice[frame], pbc=True)
        results = _labels(labels, frame, span)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        yield atoms


def _labels(labels: dict[str, np.ndarray], frame: int, atoms: slice) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if "energy" in labels:
        results["energy"] = float(labels["energy"][frame])
    elif "energy_per_atom" in labels:
        results["energy"] = float(labels["energy_per_atom"][frame]) * (atoms.stop - atoms.start)
    if "forces" in labels:
        results["forces"] = labels["forces"][atoms]
    if "stress" in labels:
        results["stress"] = labels["stress"][frame].reshape(9)[[0, 4, 8, 5, 2, 1]]
    return results


register()
