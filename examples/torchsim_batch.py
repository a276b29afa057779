"""Relax many crystals in one batch with TorchSim, then heat them together: one call of DAO-P a step for all of them.

pip install "dao-ase[torchsim]"
"""

import os
import warnings

import torch
import torch_sim as ts
from ase.build import bulk

from dao_ase.torchsim import DAOModel

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time
STEPS = 3 if SMOKE else 300
warnings.filterwarnings("ignore", "Optimize has reached max steps")

model = DAOModel()
salts = [bulk(name, "rocksalt", a=a, cubic=True) for name, a in (("NaCl", 5.9), ("KCl", 6.5), ("MgO", 4.0))]

if hasattr(ts, "frechet_cell_fire"):  # TorchSim 0.3, for Python 3.11
    fire, cell, langevin = ts.frechet_cell_fire, {}, ts.nvt_langevin
else:
    fire, cell, langevin = (
        ts.Optimizer.fire,
        {"init_kwargs": {"cell_filter": ts.CellFilter.frechet}},
        ts.Integrator.nvt_langevin,
    )

relaxed = ts.optimize(
    system=salts, model=model, optimizer=fire, max_steps=STEPS, autobatcher=False,
    convergence_fn=ts.generate_force_convergence_fn(force_tol=0.02), **cell,
)  # fmt: skip
for salt, energy, volume in zip(salts, relaxed.energy, torch.linalg.det(relaxed.cell).abs(), strict=True):
    print(f"{salt.get_chemical_formula():6} {energy / 8:8.4f} eV/atom, a = {volume ** (1 / 3):.3f} Å")

hot = ts.integrate(system=relaxed, model=model, integrator=langevin, n_steps=STEPS, temperature=600, timestep=0.001)
print("after dynamics at 600 K:", [f"{energy / 8:.4f}" for energy in hot.energy.tolist()], "eV/atom")
