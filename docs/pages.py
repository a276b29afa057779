"""What happens to each page while the documentation is built.

``$formulas$`` become MathML, so that they show without a script or a network; ``{{ gallery:seconds to load }}`` becomes a
figure of ``benchmarks/results/gallery.json`` and ``{{ card: dao_g }}`` what a weight file says of itself, so that no figure
is typed by hand. One that was never measured is an error.
"""

import json
import math
import re
from pathlib import Path

from latex2mathml.converter import convert

WEIGHTS = Path(__file__).parent.parent / "src" / "dao_ase" / "weights"
CARD = (
    *("name", "model", "process", "max_atoms", "config", "target", "sources", "data", "excluded", "sampler", "tries"),
    *("cross_validation", "val"),
)
"""Entries of a weight file's header that a model card shows."""
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(?P<display>.+?)\$\$|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)", re.DOTALL)
FIGURE = re.compile(r"\{\{\s*(?P<file>[\w-]+):(?P<path>[^}|]+?)\s*(?:\|\s*(?P<format>[^}\s]+)\s*)?\}\}")


def on_page_markdown(markdown: str, **_: object) -> str:
    """MkDocs calls this with each page; code stays as it is."""
    pieces, end = [], 0
    for code in CODE.finditer(markdown):
        mark = FIGURE.fullmatch(code[0].strip("`"))  # a commit is written as code
        pieces += [_prose(markdown[end : code.start()]), f"`{figure(mark)}`" if mark else code[0]]
        end = code.end()
    return "".join([*pieces, _prose(markdown[end:])])


def _prose(text: str) -> str:
    return FORMULA.sub(mathml, FIGURE.sub(figure, text))


def mathml(formula: re.Match) -> str:
    """One formula; a displayed one is a paragraph of its own."""
    if formula["display"]:
        return f'<div class="formula">{convert(formula["display"].strip(), display="block")}</div>'
    return f"<span>{convert(formula['inline'])}</span>"  # a line that starts with <math> would become a paragraph


def figure(mark: re.Match) -> str:
    """``file:key/key | format``: a figure of benchmarks/results/file.json, or of its provenance: ``file:=commit``.

    What was measured and has no value, such as the RMSE where nothing matched, is a dash.
    """
    if mark["file"] == "card":
        return card(mark["path"].strip())
    result = json.loads((RESULTS / f"{mark['file']}.json").read_text(encoding="utf-8"))
    keys = mark["path"].strip()
    value = result if keys.startswith("=") else result["figures"]
    for key in keys.removeprefix("=").split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return "–" if value is None else format(value, mark["format"] or "")


def card(name: str) -> str:
    """``card: dao_g``: what the header of an installed weight file says, as a table."""
    with open(WEIGHTS / f"{name}.safetensors", "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    said = json.loads(header.pop("__metadata__")["header"])
    numbers = sum(math.prod(tensor["shape"]) for tensor in header.values())
    rows = {"file": f"`{name}.safetensors`", "numbers": f"{numbers / 1e6:.2f} million"}
    rows |= {key: value for key, value in said.items() if key in CARD}
    if "elements" in said:
        rows["elements"] = f"{len(said['elements'])}: {' '.join(said['elements'])}"
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    """A value in words; parts of a mapping one after another."""
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key.replace('_', ' ')}: {_cell(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
