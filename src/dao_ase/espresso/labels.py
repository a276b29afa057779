"""Frames that pw.x labelled with forces and stresses, in the file that DAO-P's training reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dao_ase.whole_files import replacing

KIND = 3
"""How these frames are marked beside those of `dao_ase.data.label`."""


class LabelledFrame(NamedTuple):
    """A frame with forces (eV/Å), stress (eV/Å³, ASE's sign; not a number where it is not to be learnt), its origin and the
    name of what was done to it."""

    atoms: Atoms
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]
    parent: str
    strain: str = ""


def require_npz(output: str | Path) -> Path:
    """The path of a file of labels, refused before any work if it is none."""
    if Path(output).suffix != ".npz":
        raise ValueError(f"{str(output)!r} is no name of an .npz file, and that is what is written")
    return Path(output)


def write_frames(frames: Sequence[LabelledFrame], output: Path) -> None:
    """Writes frames with the columns of `dao_ase.data.label.label_store`; ``energy_per_atom`` is not a number."""
    arrays: dict[str, Any] = {
        "n_atoms": np.array([len(one.atoms) for one in frames], np.int32),
        "numbers": np.concatenate([one.atoms.numbers for one in frames]).astype(np.uint8),
        "frac_coords": np.concatenate([one.atoms.get_scaled_positions() for one in frames]).astype(np.float32),
        "lattice": np.array([one.atoms.cell.array for one in frames], np.float32),
        "parent_id": np.array([one.parent for one in frames], dtype=np.str_),
        "strain": np.array([one.strain for one in frames], dtype=np.str_),
        "kind": np.full(len(frames), KIND, np.uint8),
        "energy_per_atom": np.full(len(frames), np.nan),
        "forces": np.concatenate([one.forces for one in frames]).astype(np.float32),
        "stress": np.array([one.stress for one in frames], np.float32),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
