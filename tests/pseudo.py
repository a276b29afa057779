"""Headers of pseudopotentials, without the potential: enough to choose one and to write an input."""

from pathlib import Path


def write_upf(
    path: Path, element: str, kind: str = "NC", functional: str = "PBE", ecutwfc: float = 0, ecutrho: float = 0,
    relativistic: str = "scalar",
) -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<UPF version="2.0.1">\n<PP_HEADER\n element="{element}"\n pseudo_type="{kind}" relativistic="{relativistic}"\n'
        f' functional="{functional}" z_valence="    4.00"\n wfc_cutoff="{ecutwfc}" rho_cutoff="{ecutrho}" />\n'
    )
    return path


def write_upf_1(path: Path, element: str, functional: str) -> Path:
    path.write_text(
        f"""<PP_HEADER>
   0                   Version Number
  {element}                   Element
   NC                  Norm - Conserving pseudopotential
    F                  Nonlinear Core Correction
 {functional}    Exchange-Correlation functional
    4.00000000000      Z valence
   -7.48292757640      Total energy
   24.0     96.0       Suggested cutoff for wfc and rho
</PP_HEADER>
"""
    )
    return path
