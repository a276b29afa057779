"""A structure generator as a pymatgen transformation: for transmuters, histories, and everything that takes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monty.json import MSONable
from pymatgen.transformations.transformation_abc import AbstractTransformation

from dao_ase.generator import DAOGenerator, StructureGenerator

if TYPE_CHECKING:
    from pymatgen.core import Structure


class GenerateTransformation(AbstractTransformation):
    """Replaces a structure by those that a generator proposes for the content of its cell.

    After a substitution it answers what the new compound may look like, instead of keeping the old geometry. One to many:
    ``apply_transformation(structure, return_ranked_list=5)`` gives the first five.

    >>> from pymatgen.core import Lattice, Structure
    >>> salt = Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> GenerateTransformation(n=2).apply_transformation(salt).composition
    Composition('Na1 Cl1')
    """

    def __init__(self, generator: StructureGenerator | None = None, n: int = 20) -> None:
        """``generator`` makes ``n`` structures, the best first; without one it is `DAOGenerator`."""
        self.generator, self.n = generator if generator is not None else DAOGenerator(), n

    def as_dict(self) -> dict[str, Any]:
        """As monty's MSONable writes it; the generator must be MSONable, too."""
        generator = self.generator.as_dict() if isinstance(self.generator, MSONable) else self.generator
        return {"@module": type(self).__module__, "@class": type(self).__name__, "generator": generator, "n": self.n}

    @property
    def is_one_to_many(self) -> bool:
        """There are as many answers as the generator has structures."""
        return True

    def apply_transformation(
        self, structure: Structure, return_ranked_list: bool | int = False
    ) -> Structure | list[dict[str, Any]]:
        """The first structure, or a list of ``{"structure": ..., "energy": ...}`` with the energy in eV per cell.

        What the generator gives no energy has none in the list either.
        """
        if not structure.is_ordered:
            raise ValueError(f"{structure.composition.formula} has partly occupied sites; order the structure first")
        elements = structure.composition.element_composition
        counts = {str(element): round(amount) for element, amount in elements.items()}
        made = self.generator.generate(counts, self.n)
        if not made:
            raise ValueError(f"{structure.composition.formula}: the generator made no structure")
        if return_ranked_list is False:
            return made[0]
        most = len(made) if return_ranked_list is True else return_ranked_list
        return [{"structure": one} | _energy(one) for one in made[:most]]


def _energy(structure: Structure) -> dict[str, float]:
    per_atom = structure.properties.get("energy_per_atom")
    return {} if per_atom is None else {"energy": per_atom * len(structure)}
