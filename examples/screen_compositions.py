"""Screen a chemical system from Python: candidates of several compositions, their hull, and a picture of it.

The same from the shell, with workers: dao-ase screen compositions.csv -o run/ --workers 2, then dao-ase hull run/
"""

import os

from dao_ase.database import open_screen
from dao_ase.hull_plot import plot_hull
from dao_ase.phase_diagram import Hull, phases_of
from dao_ase.screen.run import screen
from dao_ase.screen.work import ScreenSettings

SMOKE = "DAO_ASE_SMOKE" in os.environ  # the tests run this file and have no time

settings = ScreenSettings(samples=2 if SMOKE else 20, relax_steps=2 if SMOKE else 200)
compositions = ["Mg", "Si", "Mg2Si"] if SMOKE else ["Mg", "Mg2", "Si2", "Si4", "MgSi", "Mg2Si", "Mg4Si2", "MgSi2"]
print(screen(compositions, "magnesium-silicides", settings, count=0, progress=not SMOKE))

structures = open_screen("magnesium-silicides").structures()
hull = Hull(["Mg", "Si"], phases_of(structures))
for phase, above in hull.ordered()[:8]:
    print(f"{phase.formula:8} {phase.energy_per_atom:9.4f} eV/atom, {1000 * above:4.0f} meV/atom above the hull")
print(plot_hull(hull, "magnesium-silicides.png"))
