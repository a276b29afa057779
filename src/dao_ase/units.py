"""Units beside those that everything is in: eV, Å, eV/Å and eV/Å³."""

GPA = 160.21766208
"""1 eV/Å³ in GPa."""
