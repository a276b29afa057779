"""The report of a comparison as one HTML file that needs no network: tables, plots, structures beside each other, inputs.

What it shows is in its JSON; this module only lays it out.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dao_ase import page
from dao_ase.compare.convergence import plots_of
from dao_ase.whole_files import write_text

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]


def write_page(report: Row, path: Path) -> Path:
    """Writes the page of a report."""
    structures: list[Any] = []
    parts = [
        _problems(report["problems"]),
        *(_task_section(report, task) for task in dict.fromkeys(row["task"] for row in report["rows"])),
        _polymorphs(report["polymorphs"]),
        _plots(report["rows"]),
        _structures(report["rows"], structures),
        _provenance(report),
        _inputs(report["inputs"]),
    ]
    symbols = (symbol for one in structures for symbol in one["species"])
    return write_text(
        path,
        page.fill(
            "compare.html",
            {
                "title": html.escape(report["title"]),
                "summary": html.escape(report["summary"]),
                "body": "\n".join(part for part in parts if part),
                "data": page.as_script({"structures": structures, "elements": page.elements(symbols)}),
            },
            "compare.js",
        ),
    )


def number(value: Any, format_: str = ".3f", scale: float = 1.0) -> str:
    """A figure, or a dash where there is none."""
    if value is None:
        return "–"
    return format(value if format_ == "d" else scale * value, format_).replace("-", "−")


def _at(*keys: str, format_: str = ".3f", scale: float = 1.0) -> Callable[[Row], str]:
    """What stands under the keys of a row, as a figure."""

    def shown(row: Row) -> str:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return number(value, format_, scale)

    return shown


SPEED: list[Column] = [
    ("processor s", _at("times", "processor", format_=".3g")),
    ("wall s", _at("times", "wall", format_=".3g")),
    ("× faster (processor)", _at("against pw.x", "times_faster_processor", format_=",.0f")),
    ("× faster (wall)", _at("against pw.x", "times_faster_wall", format_=",.0f")),
]
SCF: list[Column] = [
    ("SCF iterations", _at("times", "scf_iterations", format_="d")),
    ("processor s an iteration", _at("times", "processor_per_scf_iteration", format_=".3g")),
]
STEPS: list[Column] = [
    ("ionic steps", _at("times", "ionic_steps", format_="d")),
    ("processor s a step", _at("times", "processor_per_ionic_step", format_=".3g")),
]
RELAX: list[Column] = [
    *((f"{name} Å", _at("cell", name)) for name in ("a", "b", "c")),
    ("volume Å³", _at("cell", "volume", format_=".2f")),
    ("Δ volume %", _at("against pw.x", "volume", format_="+.2f", scale=100)),
    ("Δ length %, largest", _at("against pw.x", "largest_length", format_=".2f", scale=100)),
    ("RMSE", _at("against pw.x", "rmse", format_=".4f")),
    ("pressure left GPa", _at("notes", "pressure", format_="+.2f")),
    ("energy won meV/atom", lambda row: number(-1000 * row["energies"][-1], ".1f") if "energies" in row else "–"),
    *STEPS, *SCF, *SPEED,
]  # fmt: skip
COLUMNS: dict[str, list[Column]] = {
    "scf": [
        ("pressure GPa", _at("pressure", format_=".2f")),
        ("Δ pressure GPa", _at("against pw.x", "stress", "pressure", format_="+.2f")),
        ("Δ stress GPa, mean", _at("against pw.x", "stress", "mean", format_=".2f")),
        ("largest force eV/Å", _at("largest_force")),
        ("Δ forces eV/Å, mean", _at("against pw.x", "forces", "mean")),
        *SCF, *SPEED,
        ("processor s where atoms moved", _at("notes", "moved", "processor", format_=".3g")),
        ("× faster there", _at("against pw.x", "times_faster_moved", format_=",.0f")),
    ],
    "relax": RELAX,
    "vc-relax": RELAX,
    "eos": [
        ("volume Å³/atom", _at("volume")),
        ("Δ volume %", _at("against pw.x", "volume", format_="+.2f", scale=100)),
        ("bulk modulus GPa", _at("bulk_modulus", format_=".1f")),
        ("Δ bulk modulus %", _at("against pw.x", "bulk_modulus", format_="+.1f", scale=100)),
        ("Δ curve meV/atom", _at("against pw.x", "curve", format_=".2f")),
        *SCF, *SPEED,
    ],
}  # fmt: skip
TITLES = {
    "scf": "One geometry: forces and stress",
    "relax": "Relaxation of the atoms",
    "vc-relax": "Relaxation of atoms and cell",
    "eos": "Equation of state",
    "search": "Search",
}


def _task_section(report: Row, task: str) -> str:
    rows = [row for row in report["rows"] if row["task"] == task]
    if task == "search":
        return "".join(_search_section(row) for row in rows)
    lines = []
    for row in rows:
        for name, found in row["methods"].items():
            if "problem" in found:
                lines.append(
                    [row["name"], name, f'<td class="words" colspan="20">{html.escape(found["problem"])}</td>']
                )
            else:
                lines.append([row["name"], name, *(shown(found) for _, shown in COLUMNS[task])])
    heads = ["crystal", "method", *(name for name, _ in COLUMNS[task])]
    return _section(TITLES[task], table(heads, lines, words=2))


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table; the first ``words`` columns are words, the rest figures. A cell that is a ``<td`` already stays as it is."""
    top = "".join(
        f'<th scope="col"{_words(index < words)}>{html.escape(head)}</th>' for index, head in enumerate(heads)
    )
    rows = []
    for line in lines:
        cells = [
            cell if cell.startswith("<td") else f"<td{_words(index < words)}>{html.escape(cell)}</td>"
            for index, cell in enumerate(line)
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="figures"><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _words(yes: bool) -> str:
    return ' class="words"' if yes else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def _problems(problems: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
    return _section("Not in order", f'<ul class="problems">{items}</ul>' if items else "")


def _search_section(row: Row) -> str:
    if "DAO" not in row:
        return _section(f"Search: {row['name']}", f"<p>{html.escape('; '.join(row['problems']))}</p>")
    refined_by = {one["rank"]: one for one in row["refined"]}
    candidates = [
        [str(one["rank"]), number(one["energy_per_atom"], ".4f"), str(one["space_group"]), number(one["rmse"], ".4f"),
         "yes" if one["rank"] in refined_by else ""]
        for one in row["DAO"]["candidates"]
    ]  # fmt: skip
    refined = [
        [way, str(one["rank"]), *_refined(one)]
        for way, rows in (("DAO, then pw.x", row["refined"]), ("pw.x alone, random cell", row["random"]),
                          ("pw.x on the known structure", [row.get("pw.x on the known structure", {"rank": ""})]))
        for one in rows if len(one) > 1
    ]  # fmt: skip
    best = [
        [way, number(one["energy"], ".1f"), number(one["rmse of the lowest"], ".4f"), number(one["rmse"], ".4f"),
         str(one["calculations"]), str(one["converged"]), str(one["matched"]), number(one["processor"], ".1f"),
         number(one["wall"], ".1f")]
        for way, one in row["best"].items()
    ]  # fmt: skip
    times = row["DAO"]["times"]
    said = (
        f"DAO-G ({row['DAO']['model']}) drew {row['DAO']['drawn']} structures, DAO-P relaxed and ranked them: "
        f"{times['processor']:.1f} s of processor time, {times['wall']:.1f} s in all. "
        f"Of those that differ pw.x refined the best {len(row['refined'])} ({row['refined by']}); "
        f"alone, from random cells, it had {row['budget']:.0f} s of processor time."
    )
    return _section(
        f"Search: {row['name']}",
        f"<p>{html.escape(said)}</p>"
        + table(
            [
                "way",
                "lowest energy meV/atom",
                "its RMSE to the known structure",
                "smallest RMSE",
                "calculations",
                "converged",
                "matched",
                "processor s",
                "wall s",
            ],
            best,
        )
        + "<h3>pw.x</h3>"
        + table(["way", "number", "energy eV/atom", "RMSE", "ionic steps", "processor s", "wall s", "end"], refined)
        + "<h3>Candidates, as DAO-P ranks them</h3>"
        + table(["rank", "energy eV/atom", "space group", "RMSE", "refined by pw.x"], candidates),
    )


def _refined(one: Row) -> list[str]:
    if "problem" in one:
        return [f'<td class="words" colspan="6">{html.escape(one["problem"])}</td>']
    return [
        number(one["energy_per_atom"], ".4f"), number(one["rmse"], ".4f"), str(one["times"]["ionic_steps"]),
        number(one["times"]["processor"], ".1f"), number(one["times"]["wall"], ".1f"), one["notes"]["end"],
    ]  # fmt: skip


def _polymorphs(groups: Sequence[Row]) -> str:
    parts = []
    for group in groups:
        lines = [
            [
                one["method"],
                " < ".join(f"{place['structure']} ({place['energy']:.1f})" for place in one["order"]),
                "–" if one["method"] == "pw.x" else f"{one['agreeing']} of {one['pairs']}",
            ]
            for one in group["methods"]
        ]
        parts.append(table([group["formula"], "lowest first, meV/atom", "pairs ordered as pw.x does"], lines, words=2))
    return _section("Order of polymorphs", "".join(parts))


def _plots(rows: Sequence[Row]) -> str:
    shown = "".join(
        f"<figure>{drawn}<figcaption>{html.escape(title)}</figcaption></figure>"
        for row in rows
        for title, drawn in plots_of(row)
        if drawn
    )
    return _section("Convergence", f'<div class="plots">{shown}</div>' if shown else "")


def _structures(rows: Sequence[Row], shown: list[Any]) -> str:
    """Buttons on which the script paints; what it paints is appended to ``shown``."""
    parts = []
    for row in rows:
        figures = []
        for title, structure in _views(row):
            shown.append(structure)
            name = html.escape(f"{row['name']}, {title}")
            figures.append(
                f'<figure><button class="view" disabled title="{name}" data-structure="{len(shown) - 1}"></button>'
                f"<figcaption>{name}</figcaption></figure>"
            )
        parts.append(f'<div class="structures">{"".join(figures)}</div>')
    return _section("Structures", "".join(parts))


def _views(row: Row) -> Iterable[tuple[str, Any]]:
    if row["task"] == "search":
        if "known" in row:
            yield "known", row["known"]
        for one in row.get("DAO", {}).get("candidates", [])[:3]:
            yield f"DAO, rank {one['rank']}", one["structure"]
        for way, found in (("refined by pw.x", "refined"), ("pw.x alone", "random")):
            yield from ((f"{way}, {one['rank']}", one["end"]) for one in row.get(found, [])[:3] if "end" in one)
        return
    yield "as given", row["start"]
    for name, found in row["methods"].items():
        if "end" in found:
            yield f"relaxed by {name}", found["end"]


def _provenance(report: Row) -> str:
    lines = [[str(name), str(value)] for name, value in report["settings"].items()]
    lines += [[f"version of {name}", str(value)] for name, value in report["versions"].items()]
    lines += [[str(name), str(value)] for name, value in report["machine"].items()]
    lines += [
        [f"pseudopotential of {name}", f"{one['file']}, {one['kind']}, {one['functional']}, sha256 {one['digest']}…"]
        for name, one in report["pseudopotentials"].items()
    ]
    lines += [["remark", remark] for remark in report["remarks"]]
    return _section("How it was made", table(["", ""], lines, words=2))


def _inputs(inputs: Mapping[str, str]) -> str:
    items = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in inputs.items()
    )
    return _section("Inputs of pw.x", items)
