"""Crystal structure prediction as a jobflow workflow, for atomate2 and FireWorks or jobflow-remote underneath.

jobflow comes with atomate2: ``pip install "dao-ase[atomate2]"``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

try:
    from jobflow import Flow, Job, Maker, Response, job
except ImportError as error:
    raise ImportError('the workflows need jobflow: pip install "dao-ase[atomate2]"') from error

from dao_ase.generator import DAOGenerator, StructureGenerator

if TYPE_CHECKING:
    from pymatgen.core import Structure

CALCULATOR = {"@module": "dao_ase", "@callable": "DAOCalculator"}
"""What atomate2's ``ForceFieldRelaxMaker(force_field_name=...)`` takes to relax with DAO-P."""


@dataclass
class GenerateMaker(Maker):
    """A job that generates ``n`` structures of a composition and gives the first ``keep``."""

    name: str = "generate structures"
    generator: StructureGenerator = field(default_factory=DAOGenerator)
    n: int = 20
    keep: int = 5

    @job
    def make(self, composition: str) -> list[Structure]:
        """The structures, in the generator's order: by default the likeliest first."""
        return self.generator.generate(composition, self.n)[: self.keep]


@dataclass
class PredictMaker(Maker):
    """Structure prediction: generate candidates, then refine each of the best with ``refine_maker``.

    ``refine_maker`` is any Maker whose ``make`` takes a structure: atomate2's force-field or DFT relaxation.
    """

    name: str = "predict structures"
    generate_maker: GenerateMaker = field(default_factory=GenerateMaker)
    refine_maker: Maker | None = None

    def make(self, composition: str) -> Flow:
        """The flow; its output is the list of candidates, or of what ``refine_maker`` gives for each."""
        generated = self.generate_maker.make(composition)
        jobs: list[Flow | Job] = [generated]
        if self.refine_maker is not None:
            jobs.append(refine_each(generated.output, self.refine_maker))
        return Flow(jobs, output=jobs[-1].output, name=f"{self.name}: {composition}")


@job
def refine_each(structures: list[Structure], maker: Any) -> Response:
    """One job of the maker for each structure, side by side; the output is the list of theirs."""
    jobs = [maker.make(structure) for structure in structures]
    return Response(replace=Flow(jobs, output=[one.output for one in jobs]))
