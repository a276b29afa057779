"""What a fine-tuning leaves behind: the model, its out-of-fold predictions, plots, a model card, the rows left out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dao_ase.composition import SYMBOLS
from dao_ase.data.records import Rejected
from dao_ase.properties.calibration import reliability
from dao_ase.properties.crossvalidation import CrossValidation
from dao_ase.properties.installed import LEFT_OUT, MODEL_FILE
from dao_ase.properties.table import Formula
from dao_ase.whole_files import replacing, replacing_together, write_json, write_text

MANY_FAMILIES = 12
CARD = "model_card.md"


def write_results(result: CrossValidation, folder: str | Path) -> None:
    """``model.safetensors``, ``report.json``, ``predictions.csv``, ``left_out.jsonl``, the card and three plots.

    They replace those of another model all together: a folder that holds a model is complete, and of one fine-tuning.
    """
    header = result.model.header
    found, families = header["cross_validation"], by_family(result)
    about = {"learnt": result.model.target.learnt_name, "families": families, "data": header["data"]}
    with replacing_together(folder, last=MODEL_FILE) as place:
        write_text(place / "predictions.csv", predictions_table(result))
        write_left_out(place / LEFT_OUT, result.table.left_out)
        write_json(place / "report.json", {**found, **about})
        write_text(place / CARD, model_card(result, found))
        draw(result, place, families)
        result.model.save(place / MODEL_FILE)


def write_left_out(path: str | Path, rows: Sequence[Rejected]) -> None:
    """One JSON object for each row that was not used: source, row, id, rule, reason."""
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def predictions_table(result: CrossValidation) -> str:
    """The out-of-fold prediction of each crystal, as CSV."""
    target, atoms = result.model.target, result.table.crystals.num_atoms.numpy()
    width = result.uncertainty
    columns = [target.restored(result.predicted + sign * width, atoms) for sign in (0, -1, 1)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "formula", "fold", target.name, "predicted", "low", "high"])
    for index, identifier in enumerate(result.table.ids):
        numbers = [f"{value:.9g}" for value in (result.table.values[index], *(column[index] for column in columns))]
        writer.writerow([identifier, formula_text(result.table.formulas[index]), result.fold[index], *numbers])
    return text.getvalue()


def formula_text(formula: Formula) -> str:
    """A reduced formula as text, elements by atomic number."""
    return "".join(f"{SYMBOLS[number]}{count if count > 1 else ''}" for number, count in formula)


def by_family(result: CrossValidation) -> dict[str, dict[str, float]]:
    """How many crystals each family has, and its mean absolute error of what is learnt; else by number of elements."""
    names = result.table.families
    if not any(names):
        names = [f"{len(formula)} element{'s' if len(formula) > 1 else ''}" for formula in result.table.formulas]
    errors = np.abs(result.predicted - result.learnt)
    found = {}
    for name in sorted(set(names)):
        mine = np.array([other == name for other in names])
        found[name or "unnamed"] = {"crystals": int(mine.sum()), "MAE": float(errors[mine].mean())}
    return found


def model_card(result: CrossValidation, found: dict[str, Any]) -> str:
    """A page that says what the model predicts, from what, how well, and where not to trust it."""
    target, header = result.model.target, result.model.header
    unit = f" ({target.unit})" if target.unit else ""
    left_out = ", ".join(f"{count} {rule}" for rule, count in result.table.counts.items()) or "none"
    elements = ", ".join(SYMBOLS[number] for number in sorted(set(result.table.crystals.atomic_numbers.tolist())))
    trunk = "fixed" if header["training"]["settings"]["trunk"] == "frozen" else "trained with them"
    lines = [
        f"# {target.name}{unit}",
        "",
        f"Predicts {target.name}{unit} of ordered crystals: DAO-P's states of the atoms, pooled, and statistics of the",
        f"composition, read by {result.model.heads[0].config.members} small networks{_others(header)} in each of "
        f"{len(result.model.heads)} folds; the trunk (DAO-P) was {trunk}.",
        f"Learnt is {target.learnt_name}.",
        "",
        f"- data: {len(result.table)} crystals of {len(set(result.table.formulas))} formulas, from "
        f"{', '.join(header.get('sources', ['a list']))}; left out: {left_out}",
        f"- values: {result.table.values.min():.7g} to {result.table.values.max():.7g}, "
        f"median {np.median(result.table.values):.7g}",
        f"- elements: {elements}",
        "",
        "Cross-validation; crystals of one formula are in one fold, and no fold stops by what it reports on:",
        "",
        *(f"- {name}: {value:.4g}" for name, value in found.items() if isinstance(value, float)),
        "",
        "The uncertainty is √(a² + b² spread²), the spread being that of the networks; 68 % of the out-of-fold errors are",
        "smaller. It knows only of crystals like those above: for others it can be far too small.",
    ]
    return "\n".join(lines) + "\n"


def _others(header: Mapping[str, Any]) -> str:
    """The readers beside the networks, and how much each counts, on the mean of the folds."""
    weights = [
        fold["weights of the readers"] for fold in header["training"]["folds"] if "weights of the readers" in fold
    ]
    if not weights:
        return ""
    names = list(dict.fromkeys(name for one in weights for name in one))
    shares = [f"{name} {np.mean([one.get(name, 0.0) for one in weights]):.0%}" for name in names]
    return f"{', a kernel reader' if 'kernel' in names else ''} and trees ({', '.join(shares)})"


def _literal(text: str) -> str:
    """A text that matplotlib draws as it is: between two dollar signs it would look for a formula, and may find none."""
    return text.replace("$", r"\$")


def draw(result: CrossValidation, folder: Path, families: dict[str, dict[str, float]]) -> None:
    """Parity, error by family and calibration, as PNG files."""
    from matplotlib.figure import Figure

    name = _literal(result.model.target.learnt_name)
    parity = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = parity.add_subplot()
    axes.errorbar(
        result.learnt,
        result.predicted,
        result.uncertainty,
        fmt=".",
        ms=4,
        lw=0.4,
        alpha=0.6,
        color="#1f5fa8",
        ecolor="#9bb8d8",
    )
    ends = [min(result.learnt.min(), result.predicted.min()), max(result.learnt.max(), result.predicted.max())]
    axes.plot(ends, ends, color="black", lw=0.8)
    axes.set(xlabel=f"{name}, given", ylabel=f"{name}, predicted out of fold")

    error = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = error.add_subplot()
    largest = sorted(families.items(), key=lambda item: -item[1]["crystals"])[:MANY_FAMILIES]
    axes.barh(
        [_literal(f"{family} ({entry['crystals']})") for family, entry in largest],
        [entry["MAE"] for _, entry in largest],
    )
    axes.invert_yaxis()
    axes.set(xlabel=f"mean absolute error of {name}")

    calibration = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = calibration.add_subplot()
    points = reliability(result.predicted - result.learnt, result.uncertainty)
    axes.plot([point[0] for point in points], [point[1] for point in points], "o-", color="#1f5fa8")
    top = max(max(point[0], point[1]) for point in points)
    axes.plot([0, top], [0, top], color="black", lw=0.8)
    axes.set(xlabel=f"uncertainty of {name}", ylabel="68 % of the errors are below")
    for title, figure in (("parity", parity), ("families", error), ("calibration", calibration)):
        with replacing(folder / f"{title}.png") as temporary:
            figure.savefig(temporary, dpi=150)
