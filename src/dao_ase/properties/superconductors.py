"""The Tc model that the package carries: DAO-P fine-tuned on the critical temperatures of 3DSC and JARVIS.

    python -m dao_ase.properties.superconductors --data FOLDER --install src/dao_ase/weights/tc.safetensors

Learnt is ln(Tc/K). 3DSC (CC BY 4.0) gives measured temperatures of formulas and the Materials Project's structures of each,
JARVIS (public domain) temperatures computed by perturbation theory. What is left out, and why:

- sites that are partly occupied (most of 3DSC's doped compounds): DAO-P sees whole atoms only;
- temperatures below 0.1 K, and zero: 3DSC writes zero where no superconductivity was found, which has no logarithm, and
  JARVIS's smallest, down to 10⁻²⁷ K, are nothing that could be measured. So the model says *at which* temperature a
  superconductor becomes one, not whether a crystal is one;
- of each formula of 3DSC all but the three smallest cells: its table knows formulas only, and the Materials Project lists up
  to 56 polymorphs of one;
- JARVIS's test split; and CsV3Sb5, Zr4Rh2O, Zr4Pd2O and Cr3Os with what is close to them (`table.too_close`).
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from dao_ase.calculator import load_potential
from dao_ase.data.records import Rejected
from dao_ase.data.sources import open_source
from dao_ase.potential import Potential
from dao_ase.properties.crossvalidation import CrossValidation, fine_tune
from dao_ase.properties.fit import FitSettings
from dao_ase.properties.report import write_results
from dao_ase.properties.table import FAMILY, PropertyTable, Target, read_table
from dao_ase.train.potential_task import HELD_OUT_FORMULAS

TC = Target("Tc", "K", log=True)
LEAST = 0.1
"""K; smaller temperatures are not learnt."""
POLYMORPHS = 3
SOURCES = ["3DSC(MP), CC BY 4.0", "JARVIS superconductors, train and val"]

logger = logging.getLogger(__name__)


def read_superconductors(data: str | Path, trunk: Potential) -> PropertyTable:
    """The crystals to train on, from ``3dsc_mp.jsonl.gz`` and ``jarvis_supercon3d.npz`` in the folder ``data``."""
    tables = []
    for file, column, family in (
        ("3dsc_mp.jsonl.gz", "tc_by_formula", FAMILY),
        ("jarvis_supercon3d.npz", "tc", "split"),
    ):
        target = replace(TC, name=column)
        source = open_source(Path(data) / file)
        tables.append(
            read_table([source], target, trunk.elements, family=family, exclude=HELD_OUT_FORMULAS, least=LEAST)
        )
    measured, computed = tables
    measured = _keep(measured, _few_polymorphs(measured), "polymorph", "its formula has three smaller cells")
    learnable = np.array([family != "test" for family in computed.families])
    computed = _keep(computed, learnable, "test split", "JARVIS's test split is not trained on")
    names = ["measured (3DSC)"] * len(measured) + ["computed (JARVIS)"] * len(computed)
    return replace(PropertyTable.join([measured, computed]), families=names)


def train(data: str | Path, folder: str | Path, *, folds: int = 5, seed: int = 0) -> CrossValidation:
    """Reads, fine-tunes with a fixed trunk and writes the folder of results; finished folds are not trained again."""
    trunk = load_potential()
    table = read_superconductors(data, trunk)
    logger.info("%d crystals of %d formulas; left out: %s", len(table), len(set(table.formulas)), table.counts)
    header = {"sources": SOURCES, "excluded": list(HELD_OUT_FORMULAS), "name": "tc"}
    result = fine_tune(
        table, trunk, TC, FitSettings(), folds=folds, seed=seed, folder=folder, header=header, say=logger.info
    )
    write_results(result, folder)
    return result


def _few_polymorphs(table: PropertyTable) -> np.ndarray:
    """Whether each crystal is among the smallest cells of its formula."""
    rows: dict[tuple, list[int]] = defaultdict(list)
    for row in np.argsort(table.crystals.num_atoms.numpy(), kind="stable"):
        rows[table.formulas[row]].append(int(row))
    kept = np.zeros(len(table), dtype=bool)
    kept[[row for mine in rows.values() for row in mine[:POLYMORPHS]]] = True
    return kept


def _keep(table: PropertyTable, kept: np.ndarray, rule: str, reason: str) -> PropertyTable:
    left_out = [Rejected("", int(row), table.ids[row], rule, reason) for row in np.flatnonzero(~kept)]
    return replace(table.select(np.flatnonzero(kept)), left_out=table.left_out + left_out)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder of 3dsc_mp.jsonl.gz and jarvis_supercon3d.npz")
    parser.add_argument("-o", "--output", default="runs/tc", help="folder of the results")
    parser.add_argument("--install", help="copy the model to this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = train(options.data, options.output)
    for name, value in result.model.header["cross_validation"].items():
        logger.info("%s: %s", name, value)
    if options.install:
        shutil.copyfile(Path(options.output) / "model.safetensors", options.install)


if __name__ == "__main__":
    main()
