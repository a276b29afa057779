"""Training labels for a potential: crystals, distorted in a controlled way, with a teacher's energy, forces and stress.

A teacher is any ASE calculator, or CHGNet in batches. Frames are labelled in parts, each of which is a file as soon as it is
done, so that a run that was killed continues; the same sources, rules and seed give the same frames.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from dao_ase.composition import ATOMIC_NUMBERS
from dao_ase.crystals import parts_within
from dao_ase.data.parallel import parallel_map
from dao_ase.data.store import CrystalStore
from dao_ase.units import GPA
from dao_ase.whole_files import replacing, write_json

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

logger = logging.getLogger(__name__)

PART = 256
"""Frames in one part: what a kill can cost."""
TOGETHER = 320
"""Atoms that CHGNet sees at once: some 4 GB of memory."""


class Label(NamedTuple):
    """What a teacher says: energy per atom (eV), forces (eV/Å), stress (eV/Å³, ASE's sign)."""

    energy_per_atom: float
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "3 3"]


Teacher = Callable[[Sequence["Atoms"]], list["Label | None"]]
"""Labels of some crystals; None where it has none to give."""


@dataclass(frozen=True)
class Distortion:
    """How a crystal is moved away from equilibrium; shares, sigmas and bounds of three kinds of frames.

    ``kept`` of the frames stay as they are. Of the others, ``mild`` have atoms moved by 0.01 to 0.1 Å and cells strained by
    0.5 or 1.5 %; the rest are moved by 0.05 to 0.5 Å, strained by 3 or 6 % and compressed or stretched by up to a quarter.
    """

    kept: float = 0.12
    mild: float = 0.55
    mild_displacement: tuple[float, float] = (0.01, 0.10)
    mild_strain: tuple[float, ...] = (0.005, 0.015)
    wild_displacement: tuple[float, float] = (0.05, 0.50)
    wild_strain: tuple[float, ...] = (0.03, 0.06)
    wild_volume: tuple[float, float] = (0.78, 1.25)

    def __call__(self, atoms: Atoms, rng: np.random.Generator) -> tuple[Atoms, int]:
        """A distorted copy, and its kind: 0 as it is, 1 mild, 2 wild."""
        atoms, draw = atoms.copy(), rng.random()
        if draw < self.kept:
            return atoms, 0
        mild = draw < self.kept + (1 - self.kept) * self.mild
        low, high = self.mild_displacement if mild else self.wild_displacement
        strain = rng.normal(0.0, rng.choice(self.mild_strain if mild else self.wild_strain), (3, 3))
        scale = 1.0 if mild else rng.uniform(*self.wild_volume) ** (1 / 3)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2) * scale, scale_atoms=True)
        sigma = math.exp(rng.uniform(math.log(low), math.log(high)))
        atoms.positions += rng.normal(0.0, sigma, (len(atoms), 3))
        return atoms, 1 if mild else 2


@dataclass(frozen=True)
class Squeeze:
    """How one bond of a crystal is made too short: what a potential must know of atoms that come close.

    An atom drawn at random and the nearest other one come together to a share of their distance within ``share``, half of
    the way each, after a mild strain and displacement of everything as in `Distortion`. A lone atom has the mild ones only.
    """

    share: tuple[float, float] = (0.6, 0.9)
    displacement: tuple[float, float] = (0.01, 0.10)
    strain: tuple[float, ...] = (0.005, 0.015)

    def __call__(self, atoms: Atoms, rng: np.random.Generator) -> tuple[Atoms, int]:
        """A distorted copy, and its kind: 3 with a short bond, 1 without."""
        mild = Distortion(0.0, 1.0, mild_displacement=self.displacement, mild_strain=self.strain)
        atoms, kind = mild(atoms, rng)
        if len(atoms) == 1:
            return atoms, kind
        one = int(rng.integers(len(atoms)))
        others = np.delete(np.arange(len(atoms)), one)
        bonds = atoms.get_distances(one, others, mic=True, vector=True)
        nearest = int(np.linalg.norm(bonds, axis=1).argmin())
        move = bonds[nearest] * (1 - rng.uniform(*self.share)) / 2
        atoms.positions[one] += move
        atoms.positions[others[nearest]] -= move
        return atoms, 3


@dataclass(frozen=True)
class LabelRules:
    """Which frames are made, and which of them are kept."""

    frames_per_crystal: int = 1
    max_atoms: int = 32
    max_crystals: int | None = None
    max_force: float = 40.0  # eV/Å; beyond it the teacher is guessing
    seed: int = 0
    distortion: Distortion | Squeeze = field(default_factory=Distortion)
    elements: tuple[str, ...] = ()  # all of which a crystal must hold


def find_teacher(name: str) -> Teacher:
    """The teacher of this name: ``chgnet``, a calculator that ASE knows by name, or ``package.module:maker``.

    A maker is called without arguments and gives an ASE calculator: ``ase.calculators.emt:EMT``, or a function of your own
    that loads a potential of matgl.
    """
    if name == "chgnet":
        return chgnet_teacher()
    if ":" in name:
        return ase_teacher(_made_by(*name.split(":", 1)))
    import ase.io  # noqa: F401 (its import makes the calculators of other packages known, "dao" among them)
    from ase.calculators.calculator import get_calculator_class

    try:
        return ase_teacher(get_calculator_class(name)())
    except (ImportError, KeyError) as error:
        raise ValueError(
            f"there is no calculator {name!r}; name 'chgnet' or one that ASE knows, such as 'emt'"
        ) from error


def _made_by(module: str, maker: str) -> Calculator:
    """The calculator that a maker gives; modules beside the working directory count."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        made = getattr(importlib.import_module(module), maker)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"there is no {maker!r} to call in a module {module!r}: {error}") from error
    if not hasattr(made, "get_potential_energy"):
        raise ValueError(f"{module}:{maker} makes {made!r}, no calculator of ASE")
    return made


def ase_teacher(calculator: Calculator) -> Teacher:
    """Labels by any ASE calculator that has a stress, one crystal after the other; none where it refuses or fails.

    Of what it says then the first is logged. A program that cannot be started at all is an error.
    """
    from ase.calculators.calculator import CalculatorError

    failures = (CalculatorError, ValueError, RuntimeError, LookupError, ArithmeticError, SubprocessError)
    level = logging.WARNING

    def label(atoms: Atoms) -> Label | None:
        nonlocal level
        atoms.calc = calculator
        try:
            return Label(atoms.get_potential_energy() / len(atoms), atoms.get_forces(), atoms.get_stress(voigt=False))
        except failures as error:
            reason = f"{type(error).__name__}: {error}"
            logger.log(level, "%s gets no label: %s", atoms.get_chemical_formula(), reason)
            level = logging.INFO  # one of possibly thousands is enough to see
            calculator.reset()  # it may have noted atoms that it then refused, and take the next for those moved
            return None

    return lambda frames: [label(atoms) for atoms in frames]


def chgnet_teacher(together: int = TOGETHER) -> Teacher:
    """Labels by CHGNet 0.3.0 (extra ``chgnet``) of crystals with ``together`` atoms at once; one with an isolated atom gets
    none."""
    from chgnet.model import CHGNet

    model = CHGNet.load(verbose=False, use_device="cpu")

    def label(frames: Sequence[Atoms]) -> list[Label | None]:
        graphs = [_chgnet_graph(model, atoms) for atoms in frames]
        known = [place for place, graph in enumerate(graphs) if graph is not None]
        labels: list[Label | None] = [None] * len(frames)
        for part in parts_within([len(frames[place]) for place in known], together):
            batch = [known[index] for index in part]
            found: Any = model.predict_graph([graphs[place] for place in batch], task="efs", batch_size=len(batch))
            for place, one in zip(batch, found if isinstance(found, list) else [found], strict=True):
                labels[place] = Label(float(one["e"]), one["f"], one["s"] / GPA)
        return labels

    return label


def _chgnet_graph(model: Any, atoms: Atoms) -> Any:
    from pymatgen.io.ase import AseAtomsAdaptor

    try:
        return model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
    except ValueError:  # an isolated atom
        return None


def label_store(
    store: CrystalStore,
    teacher: str | Callable[[], Teacher],
    output: str | Path,
    rules: LabelRules | None = None,
    *,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, int]:
    """Labels the crystals of a store and writes one npz file; returns counts of frames kept and left out.

    ``teacher`` is a name (see `find_teacher`) or makes a teacher. With more than one of ``workers``, each process has a
    teacher of its own; the file is the same whatever their number. It holds ``n_atoms, numbers, frac_coords, lattice,
    parent_id, kind, energy_per_atom, forces, stress`` (eV, Å).
    """
    rules, output = rules or LabelRules(), Path(output)
    if output.suffix != ".npz":
        raise ValueError(f"{str(output)!r} is no name of an .npz file, and that is what is written")
    output.parent.mkdir(parents=True, exist_ok=True)
    places = _with_all(rules.elements, np.flatnonzero(store.num_atoms <= rules.max_atoms), store)
    places = np.random.default_rng(rules.seed).permutation(places)[: rules.max_crystals]
    tasks = np.repeat(places, rules.frames_per_crystal)
    if not len(tasks):
        having = f" with {', '.join(rules.elements)}" if rules.elements else ""
        raise ValueError(f"{str(store.path)!r} holds no crystal of at most {rules.max_atoms} atoms{having} to label")
    parts = output.with_suffix(".parts")
    told = {"teacher": teacher if isinstance(teacher, str) else None, "store": store.about.get("key")}
    _same_run(parts, {"rules": asdict(rules), "frames": len(tasks), **told})
    missing = [first for first in range(0, len(tasks), PART) if not (parts / f"{first:08d}.npz").exists()]
    done = len(tasks) - sum(len(tasks[first : first + PART]) for first in missing)
    source = store if workers <= 1 else store.path
    calls = [(source, tasks[first : first + PART], teacher, rules, first, parts) for first in missing]
    with tqdm(total=len(tasks), initial=done, disable=not progress, unit="frames") as bar:
        for count in parallel_map(_write_part, calls, workers):
            bar.update(count)
    return _join([parts / f"{first:08d}.npz" for first in range(0, len(tasks), PART)], output, len(tasks))


def _with_all(elements: Sequence[str], places: np.ndarray, store: CrystalStore) -> np.ndarray:
    """Those of the places in a store whose crystals hold each of these elements."""
    if unknown := set(elements) - set(ATOMIC_NUMBERS):
        raise ValueError(f"{', '.join(sorted(unknown))}: not the symbol of an element")
    numbers = store.gather("atomic_numbers", places)
    owner = np.repeat(np.arange(len(places)), store.num_atoms[places])
    holders = [set(owner[numbers == ATOMIC_NUMBERS[element]].tolist()) for element in elements]
    return places[[all(row in one for one in holders) for row in range(len(places))]]


def _write_part(
    store: CrystalStore | Path,
    chosen: np.ndarray,
    teacher: str | Callable[[], Teacher],
    rules: LabelRules,
    first: int,
    parts: Path,
) -> int:
    """Labels one part and writes its file; the number of frames that were tried."""
    rng = np.random.default_rng([rules.seed, first])
    arrays = _label_part(_opened(store) if isinstance(store, Path) else store, chosen, _ready(teacher), rules, rng)
    with replacing(parts / f"{first:08d}.npz") as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
    return len(chosen)


@lru_cache(maxsize=1)
def _ready(teacher: str | Callable[[], Teacher]) -> Teacher:
    """The teacher, which a process makes once: loading one may take longer than a part."""
    return find_teacher(teacher) if isinstance(teacher, str) else teacher()


@lru_cache(maxsize=1)
def _opened(store: Path) -> CrystalStore:
    return CrystalStore.open(store)


def _same_run(parts: Path, run: dict[str, Any]) -> None:
    """Raises `ValueError` where the parts in this folder were made by another run, as far as it is noted there."""
    wanted = json.loads(json.dumps(run))
    note = parts / "rules.json"
    if note.exists() and any(parts.glob("*.npz")):
        found = json.loads(note.read_text())
        if other := [name for name, value in found.items() if wanted.get(name) != value]:
            raise ValueError(
                f"{str(parts)!r} holds parts of a run with other {', '.join(other)}; remove it or name another output"
            )
    write_json(note, wanted)


def _label_part(
    store: CrystalStore, chosen: np.ndarray, label: Teacher, rules: LabelRules, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    from dao_ase.convert import to_atoms

    ids = store.ids[chosen]
    distorted = [rules.distortion(atoms, rng) for atoms in to_atoms(store.batch(chosen))]
    frames = [atoms for atoms, _ in distorted]
    labels = label(frames)
    kept = [
        place
        for place, one in enumerate(labels)
        if one is not None
        and np.isfinite(one.energy_per_atom)
        and np.isfinite(one.stress).all()
        and np.abs(one.forces).max() <= rules.max_force
    ]
    found = [one for place in kept if (one := labels[place]) is not None]
    empty = np.zeros((0, 3))
    return {
        "n_atoms": np.array([len(frames[place]) for place in kept], np.int32),
        "numbers": np.concatenate([[], *(frames[place].numbers for place in kept)]).astype(np.uint8),
        "frac_coords": np.concatenate([empty, *(frames[p].get_scaled_positions() for p in kept)]).astype(np.float32),
        "lattice": np.array([frames[place].cell.array for place in kept], np.float32).reshape(-1, 3, 3),
        "parent_id": np.array([ids[place] for place in kept], dtype=np.str_),
        "kind": np.array([distorted[place][1] for place in kept], np.uint8),
        "energy_per_atom": np.array([one.energy_per_atom for one in found], np.float64),
        "forces": np.concatenate([empty, *(one.forces for one in found)]).astype(np.float32),
        "stress": np.array([one.stress for one in found], np.float32).reshape(-1, 3, 3),
    }


def _join(parts: list[Path], output: Path, asked: int) -> dict[str, int]:
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        with np.load(part, allow_pickle=False) as file:
            for name in file.files:
                columns.setdefault(name, []).append(file[name])
    arrays = {name: np.concatenate(pieces) for name, pieces in columns.items()}
    with replacing(output) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
    return {"kept": len(arrays["n_atoms"]), "left out": asked - len(arrays["n_atoms"])}
