"""The figures in README's table are those of benchmarks/results: a test that fails says what to write there."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RATE = "{0[match_rate]:.1%} / {0[rmse]:.3f}"
SOLIDS = (
    "{0[bulk_modulus][mean_error_percent]:.0f}, {0[elastic][mean_error_percent]:.0f}"
    " and {0[phonons][mean_error_percent]:.0f}%"
)
FIGURES = [
    ("MP-20 test, one sample", "match_rate_mp_20", "1 samples", f"{RATE} ({{0[references]:,}} crystals"),
    ("the same, of the network", "match_rate_mp_20", "1 samples, network alone", f"{RATE} (best of four tries)"),
    ("the same, of the network", "match_rate_mp_20", "1 samples, one try", f"{RATE} (one try)"),
    ("the same, of the known structure type", "match_rate_mp_20", "1 samples, structure type alone", RATE),
    ("MP-20 test, any of 20", "match_rate_mp_20", "20 samples", "{0[match_rate]:.1%} ({0[references]} crystals"),
    ("MPTS-52 test", "match_rate_mpts_52", "1 samples", "{0[match_rate]:.1%} ({0[references]} crystals"),
    ("MPTS-52 test", "match_rate_mpts_52", "1 samples, network alone", "the network alone {0[match_rate]:.1%}"),
    ("stable ones", "guidance_test", "strengths/5/CHGNet", "{0[stable, %]:.1f} and"),
    ("stable ones", "guidance_test", "strengths/0/CHGNet", "and {0[stable, %]:.1f}%"),
    ("`DAOGenerator()", "generate", "", "{0[generate('CsV3Sb5', n=20), new process, s]:.1f} s"),
    ("energy, forces and stress of Si₂₁₆", "potential_speed", "Si216", "{0[times_faster]:.0f} ×"),
    ("formation energies", "formation_energy", "DAO-P", "| {0[mean_meV_atom]:.0f} meV"),
    ("formation energies", "formation_energy", "CHGNet 0.3.0", "CHGNet {0[mean_meV_atom]:.0f} "),
    ("lattice constants", "solids", "summary/DAO-P/lattice", "| {0[mean_error_percent]:.1f}% |"),
    ("lattice constants", "solids", "summary/CHGNet 0.4.2/lattice", "CHGNet {0[mean_error_percent]:.1f}%"),
    ("bulk moduli", "solids", "summary/DAO-P", f"| {SOLIDS} |"),
    ("bulk moduli", "solids", "summary/CHGNet 0.4.2", f"CHGNet {SOLIDS} |"),
]
"""The beginning of a row, a file, where in its figures, and what the row says of them."""


@pytest.mark.parametrize(("row", "file", "place", "said"), FIGURES)
def test_row(row, file, place, said):
    figures = json.loads((ROOT / "benchmarks" / "results" / f"{file}.json").read_text("utf-8"))["figures"]
    for key in filter(None, place.split("/")):
        figures = figures[key]
    lines = (ROOT / "README.md").read_text("utf-8").replace(" %", "%").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {row}")]
    assert said.format(figures) in line
