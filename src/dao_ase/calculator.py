"""DAO-P for ASE and pymatgen: ``atoms.calc = DAOCalculator()``."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from dao_ase import checkpoint
from dao_ase.composition import SYMBOLS
from dao_ase.convert import MIN_VOLUME
from dao_ase.derivatives import Layout, Prediction
from dao_ase.device import usable_device
from dao_ase.neighbors import Neighbors
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.verlet import VerletList

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def torch_dtype(name: object) -> torch.dtype:
    """What a potential computes in, by its name.

    >>> torch_dtype("float64")
    torch.float64
    """
    if not (isinstance(name, str) and name in DTYPES):
        raise ValueError(f"{name!r} is no precision of DAO-P; give one of {', '.join(map(repr, DTYPES))}")
    return DTYPES[name]


def refuse_skin(skin: object) -> None:
    """An error for what cannot be added to a cutoff (Å)."""
    if not (isinstance(skin, Real) and 0 <= float(skin) < np.inf):
        raise ValueError(f"skin is {skin!r}; it must be a finite number of Å, not negative, like 0.5")


def save_potential(path: str | Path, model: Potential, header: Mapping[str, Any] | None = None) -> None:
    """Writes the weights of a potential, its sizes, and whatever else the header should say."""
    checkpoint.save(path, model.state_dict(), {**(header or {}), **model.header()})


@torch.inference_mode(False)
def load_potential(
    path: str | Path | None = None, device: str | torch.device = "cpu", dtype: str = "float32"
) -> Potential:
    """The potential in a weight file; without a path, the one installed with the package.

    >>> load_potential().config.layers
    2
    """
    precision, device = torch_dtype(dtype), usable_device(device)
    path = checkpoint.default_weights("dao_p") if path is None else path
    tensors, header = checkpoint.load(path, device)
    if header.get("model") != "potential":
        raise checkpoint.CheckpointError(f"{str(path)!r} holds a {header.get('model')!r}, not a potential")
    with checkpoint.described_by(path):
        model = Potential(PotentialConfig.from_header(header["config"]))
    checkpoint.fill(model, tensors, path)
    return model.to(device, precision).eval().requires_grad_(False)


@torch.inference_mode(False)
def potential_of(model: Potential | str | Path | None, device: str, dtype: str) -> Potential:
    """A copy of a potential, or the one in a weight file, by default the installed one."""
    if isinstance(model, Potential):
        return copy.deepcopy(model).to(device, torch_dtype(dtype)).eval().requires_grad_(False)
    if model is None or isinstance(model, str | Path):
        return load_potential(model, device, dtype)
    raise ValueError(f"model is {model!r}; give a weight file, a Potential, or None for the installed one")


class DAOCalculator(Calculator):
    """An ASE calculator on DAO-P: energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt, ASE's sign).

    The energy is on the scale of the Materials Project (PBE with its corrections). Initial charges and magnetic moments
    are not used. Cells may be skewed, left-handed, smaller than the cutoff, partly periodic or absent; there is a stress
    only where there is a volume. Threads that share a calculator wait for one another; ``copy.deepcopy`` makes one for each.

    >>> from ase.build import bulk
    >>> atoms = bulk("Si")
    >>> atoms.calc = DAOCalculator()
    >>> energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE declares them so)
    default_parameters = {"model": None, "device": None, "dtype": "float32", "skin": 0.5}  # noqa: RUF012
    nolabel = True

    def __init__(
        self,
        model: Potential | str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str = "float32",
        skin: float = 0.5,
        stress_weight: float | None = None,
    ) -> None:
        """A calculator on the installed model, a weight file, or a `Potential`.

        ``device`` is "cpu", "cuda" or None (CUDA where there is any). ``skin`` (Å) is added to the cutoffs, so that small
        steps reuse the neighbour list. ``stress_weight`` is what pymatgen passes to convert GPa; the stress here already
        has ASE's unit, so it changes nothing.
        """
        refuse_skin(skin)
        place = usable_device(device)
        self.model = potential_of(model, place, dtype)
        name = "custom" if isinstance(model, Potential) else model
        self._alone = threading.RLock()
        self._list: VerletList | None = None
        self._layout: Layout | None = None
        self._kind: tuple[bytes, bytes] = (b"", b"")
        super().__init__()
        self.parameters.update(
            model=None if name is None else str(name), device=None if device is None else place, dtype=dtype, skin=skin
        )

    @classmethod
    def from_checkpoint(cls, path: str | Path, **settings: Any) -> DAOCalculator:
        """The calculator on a weight file that training wrote; settings as for the class."""
        return cls(path, **settings)

    def set(self, **settings: Any) -> dict[str, Any]:
        """Changes ``device``, ``dtype`` or ``skin``, and gives what has changed; other weights are another calculator."""
        fixed = sorted(settings.keys() - {"device", "dtype", "skin"})
        if fixed:
            raise ValueError(f"{', '.join(fixed)} cannot be set on a DAOCalculator; make another one")
        wanted = {**self.parameters, **settings}
        refuse_skin(wanted["skin"])
        place, precision = usable_device(wanted["device"]), torch_dtype(wanted["dtype"])
        if settings.get("device") is not None:
            settings["device"] = place
        changed = super().set(**settings)
        if changed:
            self.model.to(place, precision)
            self._list = self._layout = None
            self.reset()
        return changed

    @property
    def elements(self) -> list[str]:
        """Symbols of the elements that the model was trained on."""
        return [SYMBOLS[number] for number in self.model.elements]

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What has changed since the last calculation, of all that matters to a potential without charges and spins."""
        if self.atoms is None:
            return list(all_changes)
        pairs = {
            "positions": (self.atoms.positions, atoms.positions),
            "numbers": (self.atoms.numbers, atoms.numbers),
            "cell": (self.atoms.cell.array, atoms.cell.array),
            "pbc": (self.atoms.pbc, atoms.pbc),
        }
        return [name for name, (before, now) in pairs.items() if not np.array_equal(before, now)]

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property of the atoms, as ASE gives it; where there is no stress, the error says why."""
        try:
            with self._alone:
                return super().get_property(name, atoms, allow_calculation)
        except PropertyNotImplementedError as error:
            if name != "stress":
                raise
            raise PropertyNotImplementedError(
                "these atoms have no stress, for their cell has no volume: give it a third vector, as "
                "atoms.center(vacuum=10, axis=2) does for a slab, or relax the positions alone, without a filter"
            ) from error

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        """The energy (eV); the two that ASE distinguishes are one here."""
        with self._alone:
            return super().get_potential_energy(atoms, force_consistent)

    def __copy__(self) -> DAOCalculator:
        """A deep copy: two that shared a neighbour list would compute with one another's neighbours."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_alone"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _alone=threading.RLock())

    @torch.inference_mode(False)  # the network is differentiated, also where a caller has no use for gradients
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fills ``results``; called by ASE when the atoms have changed."""
        super().calculate(atoms, properties, system_changes)
        self.results = {}  # those of other atoms, should these have none
        if self.atoms is None:
            raise ValueError("the calculator has seen no atoms yet; give them, as in get_potential_energy(atoms)")
        _refuse_undefined(self.atoms)
        _refuse_flat_cell(self.atoms)
        positions, lattice = (np.array(one, np.float64) for one in (self.atoms.positions, self.atoms.cell.array))
        predicted = self._predict(self._list_of(self.atoms), positions, lattice)
        energy = float(predicted.energy)
        if not np.isfinite(energy):
            raise ValueError("the energy of these positions is not a finite number; atoms are far too close")
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": predicted.energies.cpu().numpy(),
            "forces": predicted.forces.double().cpu().numpy(),
        }
        if float(predicted.volume) > MIN_VOLUME:
            self.results["stress"] = full_3x3_to_voigt_6_stress(predicted.stress[0].double().cpu().numpy())

    def _list_of(self, atoms: Atoms) -> VerletList:
        """The neighbour list of the last call where it can serve again, whatever ASE says has changed; else a new one."""
        kind = (atoms.numbers.tobytes(), atoms.pbc.tobytes())
        if self._list is None or kind != self._kind:
            numbers = torch.from_numpy(atoms.numbers.astype(np.int64))
            self._list = VerletList(self.model, numbers, periodic=atoms.pbc.tolist(), skin=self.parameters["skin"])
            self._kind, self._layout = kind, None
        return self._list

    def _predict(self, verlet: VerletList, positions: NDArray, lattice: NDArray) -> Prediction:
        device = self.model.reference.device
        if verlet.update(positions, lattice):
            self._layout = None  # an interrupt, or too little memory, must not leave that of other neighbours
        if self._layout is None:
            numbers = verlet.atomic_numbers.to(device)
            rows = Neighbors.from_pairs(verlet.pairs, len(positions)).to(device)
            self._layout = Layout(self.model, numbers, rows, torch.zeros_like(numbers))
        cell = torch.tensor(lattice, device=device).unsqueeze(0)
        return self._layout.predict(torch.tensor(positions, device=device), cell)


def _refuse_undefined(atoms: Atoms) -> None:
    if len(atoms) == 0:
        raise ValueError("the Atoms object holds no atoms; an energy needs at least one")
    if not np.isfinite(atoms.cell.array).all():
        raise ValueError(f"the cell {atoms.cell.array.tolist()} is not made of finite numbers; mend it first")
    if not np.isfinite(atoms.positions).all():
        wrong = np.flatnonzero(~np.isfinite(atoms.positions).all(1)).tolist()
        raise ValueError(f"the positions of atoms {wrong} are not finite numbers; mend them first")


def _refuse_flat_cell(atoms: Atoms) -> None:
    cell = atoms.cell.array
    if abs(np.linalg.det(cell)) > 1e-6 * np.square(cell).sum():
        return  # the determinant is the product of three singular values, of which two are less than that sum
    periodic = cell[atoms.pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise ValueError(
            f"pbc is {atoms.pbc.tolist()}, but the lattice vectors along the periodic axes are zero or linearly "
            "dependent; set atoms.cell, or atoms.pbc = False"
        )
