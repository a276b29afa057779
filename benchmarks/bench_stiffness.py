"""How DAO-P and CHGNet answer small strains and displacements of solids that DAO-P was not trained on, against DFT.

The frames are references/strained_solids.extxyz: solids of `dao-ase data stiffness` whose formulas are held out of
training, twelve frames each, labelled by pw.x. `--write FILE...` adds those of further files of labels. Each response is
relative to the cell at rest: pressure to a change of volume, the difference of axial stresses to a stretch, shear
stress to a shear, forces to an atom moved out of its place. At a tenth of a strain the answer is a tenth of the whole
one; a potential that is softer or harder there than at the whole bends its energy where phonons and elastic constants
look. Compounds of the d block, which hold together otherwise, have figures of their own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from record import arguments, record

from dao_ase import DAOCalculator
from dao_ase.train.labelled import LabelledCrystals
from dao_ase.train.potential_task import is_held_out

warnings.filterwarnings("ignore")
FRAMES = Path(__file__).parent / "references" / "strained_solids.extxyz"
STRAINS = (
    "rest", "compressed", "expanded", "stretched", "stretched, a third", "stretched, a tenth", "sheared",
    "sheared, a third", "sheared, a tenth", "moved", "moved, a third", "moved, a tenth",
)  # fmt: skip
"""The frames of a solid, in the order in which they are written."""
RESPONSES: dict[str, tuple[tuple[str, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "volume": (("compressed", "expanded"), lambda stress: np.trace(stress)),
    "stretch": (("stretched",), lambda stress: stress[2, 2] - stress[0, 0]),
    "stretch, a tenth": (("stretched, a tenth",), lambda stress: stress[2, 2] - stress[0, 0]),
    "shear": (("sheared",), lambda stress: stress[1, 2]),
    "shear, a tenth": (("sheared, a tenth",), lambda stress: stress[1, 2]),
}
"""Of each response the frames in which it is looked for, and what of the stress is compared."""
MOVED = {"moved": "moved atom", "moved, a tenth": "moved atom, a tenth"}
"""Of each frame whose forces are compared the name of the response."""
D_BLOCK = frozenset((*range(21, 30), *range(39, 48), *range(72, 80)))
"""Atomic numbers of elements whose d electrons bind: scandium to copper, yttrium to silver, hafnium to gold."""


def write(files: list[str]) -> None:
    """Adds the held-out solids of files of labels, of which all twelve frames are there, to the references."""
    images: list[Atoms] = ase.io.read(FRAMES, index=":")
    for file in files:
        frames = LabelledCrystals.load(file)
        with np.load(file) as columns:
            parents = columns["parent_id"]
        there = {image.info["solid"] for image in images}
        for parent in [one for one in dict.fromkeys(parents) if str(one) not in there]:
            places = np.flatnonzero(parents == parent)
            if len(places) < len(STRAINS) or not is_held_out(frames.formulas()[places[0]]):
                continue
            for place, strain in zip(places, STRAINS, strict=False):  # further frames are of other atoms that are moved
                atoms = slice(frames.starts[place], frames.starts[place + 1])
                image = Atoms(
                    frames.atomic_numbers[atoms], scaled_positions=frames.frac_coords[atoms],
                    cell=frames.lattice[place], pbc=True, info={"solid": str(parent), "strain": strain},
                )  # fmt: skip
                known = {"forces": frames.forces[atoms], "stress": frames.stress[place].ravel()[[0, 4, 8, 5, 2, 1]]}
                image.calc = SinglePointCalculator(
                    image, **{name: value for name, value in known.items() if np.isfinite(value).all()}
                )
                images.append(image)
    ase.io.write(FRAMES, images)


def responses(images: list[Atoms], calculator: Calculator | None) -> dict[str, list[np.ndarray]]:
    """What a calculator, or DFT itself, answers to each strain of each solid."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*RESPONSES, *MOVED.values())}
    rest = np.zeros((3, 3))
    for image in images:
        atoms, strain = image.copy(), image.info["strain"]
        atoms.calc = calculator or image.calc
        if strain == "rest":
            rest = atoms.get_stress(voigt=False)
        for name, (strains, part) in RESPONSES.items():
            if strain in strains:
                found[name].append(np.atleast_1d(part(atoms.get_stress(voigt=False) - rest)))
        if strain in MOVED:
            found[MOVED[strain]].append(atoms.get_forces().ravel())
    return found


def compared(found: list[np.ndarray], known: list[np.ndarray]) -> dict[str, float]:
    """The error as a part of all that DFT answers, and the median of how much of it each frame has."""
    ours, theirs = np.concatenate(found), np.concatenate(known)
    shares = [float(one @ other / (other @ other)) for one, other in zip(found, known, strict=True)]
    return {
        "error": round(float(np.abs(ours - theirs).sum() / np.abs(theirs).sum()), 3),
        "median share": round(float(np.median(shares)), 3),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--write", nargs="+", metavar="FILE", help="add held-out solids of these labels to the references"
    )
    parser.add_argument("--weights", help="weights of another DAO-P")
    options = parser.parse_args()
    if options.write:
        write(options.write)
        return
    images = ase.io.read(FRAMES, index=slice(len(STRAINS) if options.quick else None))
    calculators: dict[str, Calculator] = {"DAO-P": DAOCalculator(options.weights, dtype="float64")}
    try:
        from chgnet.model import CHGNetCalculator

        calculators["CHGNet"] = CHGNetCalculator(use_device="cpu", verbose=False)
    except ImportError:
        print("chgnet is not installed: DAO-P alone", file=sys.stderr)
    of_d_block = [image for image in images if D_BLOCK & set(image.numbers)]
    figures = measured([image for image in images if not D_BLOCK & set(image.numbers)], calculators)
    if of_d_block:
        figures["d block"] = measured(of_d_block, calculators)
    record("stiffness", figures, packages=("chgnet",) if "CHGNet" in calculators else ())


def measured(images: list[Atoms], calculators: dict[str, Calculator]) -> dict[str, Any]:
    """How many solids of which formulas, and what each calculator answers in comparison with DFT."""
    known = responses(images, None)
    table = {}
    for label, calculator in calculators.items():
        found = responses(images, calculator)
        table[label] = {name: compared(found[name], known[name]) for name in known}
    return {"solids": len(images) // len(STRAINS), "formulas": _formulas(images), "responses": table}


def _formulas(images: list[Atoms]) -> str:
    return ", ".join(sorted({image.symbols.formula.reduce()[0].format("metal") for image in images}))


if __name__ == "__main__":
    main()
