"""Headers of pseudopotentials, without the potential: enough to choose one and to write an input; some of CP2K's list."""

from pathlib import Path


def write_upf(
    path: Path, element: str, kind: str = "NC", functional: str = "PBE", ecutwfc: float = 0, ecutrho: float = 0,
    relativistic: str = "scalar",
) -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<UPF version="2.0.1">\n<PP_HEADER\n element="{element}"\n pseudo_type="{kind}" relativistic="{relativistic}"\n'
        f' functional="{functional}" z_valence="    4.00"\n wfc_cutoff="{ecutwfc}" rho_cutoff="{ecutrho}" />\n</UPF>\n'
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


LIST = """# a part of GTH_POTENTIALS
H GTH-PBE-q1 GTH-PBE
    1
     0.20000000    2    -4.17890044     0.72446331
    0
#
Si GTH-PBE-q4 GTH-PBE
    2    2
     0.44000000    1    -6.26928833
    2
     0.43563383    2     8.95174150    -2.70627082
                                        3.49378060
     0.49794218    1     2.43127673
#
Os GTH-PADE-q16 GTH-LDA-q16 GTH-PADE GTH-LDA
    4    6    6
     0.52000000    2     5.61307299     0.92195476
    0
#
Os GTH-PBE-q16 GTH-PBE
    4    6    6
     0.52000000    2    13.46303008    -2.24116983
    3
     0.39012207    3    -3.27416829     2.36003137     3.61101851
                                        2.82653464    -9.32360969
                                                       7.40038577
     0.34945025    2    -6.89928214     7.52931882
                                       -8.90881017
     0.39284207    2    -0.94268282    -1.08157042
                                        1.22638558
#
"""


def write_list(folder: Path) -> Path:
    (folder / "GTH_POTENTIALS").write_text(LIST)
    return folder
