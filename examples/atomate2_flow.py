"""Structure prediction as an atomate2 workflow: generate, keep the best, relax each with DAO-P by ForceFieldRelaxMaker.

The same flow runs on a cluster with FireWorks or jobflow-remote; a DFT relaxation takes the place of the force field by
another ``refine_maker``. pip install "dao-ase[atomate2]"
"""

import os
import warnings

from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from jobflow import run_locally

from dao_ase.flows import CALCULATOR, GenerateMaker, PredictMaker

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time

relax = ForceFieldRelaxMaker(
    force_field_name=CALCULATOR, steps=3 if SMOKE else 200, relax_kwargs={"fmax": 0.05}, ionic_step_data=None
)
predict = PredictMaker(generate_maker=GenerateMaker(n=2 if SMOKE else 20, keep=2), refine_maker=relax)
flow = predict.make("NaCl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # remarks of the workflow libraries about themselves
    results = run_locally(flow, ensure_success=True, log=False)

documents = [result.output for outputs in results.values() for result in outputs.values()]
relaxed = [document for document in documents if hasattr(document, "output")]
for document in relaxed:
    structure, energy = document.output.structure, document.output.energy_per_atom
    print(f"{structure.formula:8} {energy:.4f} eV/atom  {structure.get_space_group_info(symprec=0.1)[0]}")
