"""What is compared: one geometry (scf), a relaxation (relax, vc-relax), an equation of state (eos).

Each task gives one JSON-able row a crystal, with an entry for each method; a method that fails leaves its reason there and
the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dao_ase.compare import figures
from dao_ase.compare.methods import Evaluation, Method, Relaxed, Times
from dao_ase.espresso.errors import EspressoError
from dao_ase.units import GPA

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

log = logging.getLogger(__name__)

TASKS = ("scf", "relax", "vc-relax", "eos", "search")
VOLUMES = (0.94, 0.97, 1.0, 1.03, 1.06)
"""Of the volume given, in an equation of state."""
NO_MINIMUM = (
    f"the energies have no minimum between {VOLUMES[0]} and {VOLUMES[-1]} times the volume given, so there is no volume and "
    "no bulk modulus; begin from a structure nearer to rest, as --task vc-relax or dao-ase relax finds it"
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Crystal:
    """A structure and the name under which it is reported."""

    name: str
    atoms: Atoms


def compare(crystal: Crystal, task: str, methods: Sequence[Method]) -> Row:
    """One row: the crystal, and what each method found, beside pw.x where pw.x has a result."""
    work: dict[str, Callable[[Crystal, Method], Row]] = {
        "scf": _scf,
        "relax": _relax,
        "vc-relax": _vc_relax,
        "eos": _eos,
    }
    row: Row = {
        "name": crystal.name,
        "formula": crystal.atoms.get_chemical_formula(empirical=True),
        "atoms": len(crystal.atoms),
        "task": task,
        "start": structure_of(crystal.atoms),
        "methods": {},
    }
    for method in methods:
        log.info("%s: %s, %s", crystal.name, task, method.name)
        try:
            row["methods"][method.name] = work[task](crystal, method)
        except (EspressoError, ValueError, RuntimeError, OSError) as error:
            row["methods"][method.name] = {"problem": str(error)}
        except Exception as error:  # a calculator of another package may raise anything
            row["methods"][method.name] = {"problem": f"{type(error).__name__}: {error}"}
    reference = row["methods"].get("pw.x", {})
    for name, found in row["methods"].items():
        if name != "pw.x" and "times" in found and "times" in reference:
            found["against pw.x"] = _against(task, found, reference)
    return row


def _scf(crystal: Crystal, method: Method) -> Row:
    return _evaluated(method.evaluate(crystal.atoms))


def _evaluated(found: Evaluation) -> Row:
    return {
        "energy_per_atom": found.energy / len(found.forces),
        "forces": found.forces.tolist(),
        "stress": found.stress.tolist(),
        "largest_force": float(np.linalg.norm(found.forces, axis=1).max()),
        "pressure": float(-np.trace(found.stress) / 3 * GPA),
        "times": times_of(found.times),
        "notes": found.notes,
    }


def _relax(crystal: Crystal, method: Method) -> Row:
    return relaxed_row(crystal.atoms, method.relax(crystal.atoms, cell=False))


def _vc_relax(crystal: Crystal, method: Method) -> Row:
    return relaxed_row(crystal.atoms, method.relax(crystal.atoms, cell=True))


def relaxed_row(atoms: Atoms, found: Relaxed) -> Row:
    """The end of a relaxation of ``atoms`` and the way to it."""
    end = atoms.copy()
    end.set_cell(found.lattice)
    end.set_positions(found.positions)
    count = len(end)
    return {
        "energy_per_atom": (found.energies[-1] if found.energy is None else found.energy) / count,
        "energies": [(energy - found.energies[0]) / count for energy in found.energies],
        "converged": found.converged,
        "cell": figures.cell_of(found.lattice),
        "end": structure_of(end),
        "times": times_of(found.times),
        "notes": found.notes,
    }


def _eos(crystal: Crystal, method: Method) -> Row:
    """Energies of the cell scaled as a whole, at the same volumes for every method; times are of all points together."""
    volumes, energies, times = [], [], []
    for factor in VOLUMES:
        scaled = crystal.atoms.copy()
        scaled.set_cell(crystal.atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
        found = method.evaluate(scaled, like=crystal.atoms)
        volumes.append(float(scaled.get_volume()) / len(scaled))
        energies.append(found.energy / len(scaled))
        times.append(found.times)
    fit = figures.equation_of_state(volumes, energies)
    iterations = [one.scf_iterations for one in times if one.scf_iterations is not None]
    spent = Times(
        sum(one.wall for one in times), sum(one.processor for one in times), len(times),
        sum(iterations) if iterations else None,
    )  # fmt: skip
    return {
        "volumes": volumes,
        "energies": [energy - min(energies) for energy in energies],
        "volume": fit["volume"],
        "bulk_modulus": fit["bulk_modulus"],
        "times": times_of(spent),
        "notes": {} if fit["volume"] is not None else {"end": NO_MINIMUM},
    }


def _against(task: str, found: Row, reference: Row) -> Row:
    """How far a method is from pw.x, and how many times faster; energies only where a zero has been subtracted."""
    slow, fast = reference["times"], found["times"]
    row: Row = {
        "times_faster_processor": figures.ratio(slow["processor"], fast["processor"]),
        "times_faster_wall": figures.ratio(slow["wall"], fast["wall"]),
    }
    if task == "scf":
        if "moved" in found["notes"]:
            row["times_faster_moved"] = figures.ratio(slow["processor"], found["notes"]["moved"]["processor"])
        row["forces"] = figures.force_errors(np.array(found["forces"]), np.array(reference["forces"]))
        row["stress"] = figures.stress_errors(np.array(found["stress"]), np.array(reference["stress"]))
    elif task == "eos":
        for name in ("volume", "bulk_modulus"):
            both = found[name] is not None and reference[name] is not None
            row[name] = found[name] / reference[name] - 1 if both else None
        row["curve"] = figures.MEV * figures.curve_error(found["energies"], reference["energies"])
    else:
        row |= figures.geometry_errors(to_structure(found["end"]), to_structure(reference["end"]))
        row["energy_drop"] = figures.MEV * (found["energies"][-1] - reference["energies"][-1])
    return row


def polymorphs(rows: Sequence[Row]) -> list[Row]:
    """For each composition with more than one structure, how every method orders them."""
    found = []
    for formula in dict.fromkeys(row["formula"] for row in rows):
        group = [row for row in rows if row["formula"] == formula]
        energies: dict[str, dict[str, float]] = {}
        for row in group:
            for method, result in row["methods"].items():
                if "energy_per_atom" in result:
                    energies.setdefault(method, {})[row["name"]] = result["energy_per_atom"]
        if len(group) > 1 and energies:
            found.append({"formula": formula, "methods": figures.orders(energies)})
    return found


def times_of(times: Times) -> Row:
    """Seconds in all, a step and an SCF iteration."""
    each = times.processor / times.scf_iterations if times.scf_iterations else None
    return asdict(times) | {
        "processor_per_ionic_step": times.processor / times.ionic_steps,
        "processor_per_scf_iteration": each,
    }


def structure_of(atoms: Atoms) -> Row:
    """A structure for JSON: lattice (Å), symbols, fractional coordinates."""
    return {
        "lattice": np.asarray(atoms.cell).round(6).tolist(),
        "species": atoms.get_chemical_symbols(),
        "frac": atoms.get_scaled_positions(wrap=False).round(6).tolist(),
    }


def to_structure(row: Row) -> Structure:
    """The pymatgen Structure of what `structure_of` wrote."""
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(row["lattice"]), row["species"], row["frac"])
