"""Structure files as ASE's atoms, with everything that the file says of them, by whichever reader knows the format."""

from __future__ import annotations

import warnings
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dao_ase.data.cif import UNKNOWN_SYMMETRY, blocks_of, is_magnetic, read_cif
from dao_ase.data.files import DATABASES, XYZ, AseSource, TruncatedFrame, database_rows
from dao_ase.data.isotopes import atoms_of_xyz, is_poscar
from dao_ase.data.reading import ending, text_of
from dao_ase.data.records import RejectedRecord

if TYPE_CHECKING:
    from ase import Atoms

Frames = tuple[dict[int, "Atoms"], list[str]]
"""The structures of a file by their places, and why others, or the whole file, cannot be read."""

SAME_SITE = 0.05
"""Å by which two readers may differ on the place of one atom, for 0.333 is one third to one of them."""


def frames_of(path: Path) -> Frames:
    """Every structure of a file, or of one of ASE's ``file@index``; at least one structure or one reason is there."""
    from ase.io.formats import UnknownFileTypeError

    if path.is_dir() and path.suffix != ".traj":  # old trajectories of ASE are folders
        return {}, [f"{path}: is a folder; name the files in it, like {path}/*.cif"]
    if path.exists() and not (path.is_file() or path.is_dir()):
        return {}, [f"{path}: is no file but a pipe or a device, which cannot be read twice; write it to a file first"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frames, refused = _read(path)
    except FileNotFoundError:
        return {}, [f"{path}: there is no such file"]
    except StopIteration:  # of ASE's, for file@index
        return {}, [f"{path}: the file does not have so many structures"]
    except UnknownFileTypeError:
        if path.exists() and not path.stat().st_size:
            return {}, [f"{path}: is empty"]
        return {}, [f"{path}: ASE cannot tell which format this is; give the file its usual ending or name (POSCAR)"]
    except Exception as error:  # ASE's readers raise whatever their format's parser raises
        return {}, [f"{path}: not a structure file that ASE reads: {_said(error)}"]
    return frames, refused if frames or refused else [f"{path}: holds no structure"]


def _read(path: Path) -> Frames:
    for read in (_pymatgen_frames, _cif_frames):
        frames, refused = read(path)
        if frames or refused:
            return frames, refused
    return _ase_frames(path)


def _pymatgen_frames(path: Path) -> Frames:
    """The structures of a JSON file of pymatgen's, or those of its entries, one or a list; nothing of another file."""
    if not path.name.endswith((".json", ".json.gz")):
        return {}, []
    from monty.json import MSONable
    from monty.serialization import loadfn
    from pymatgen.core import Structure

    from dao_ase.convert import atoms_from_structure

    try:
        found = loadfn(path)
    except (OSError, ValueError):  # ASE's reader says what is wrong with it
        return {}, []
    except RecursionError:
        return {}, [f"{path}: its brackets are nested too deeply for the JSON of crystals"]
    entries = found if isinstance(found, list) else [found]
    frames: dict[int, Atoms] = {}
    refused: list[str] = []
    for place, one in enumerate(entries):
        # that of a ComputedStructureEntry, or of a document of the Materials Project
        structure = one.get("structure") if isinstance(one, dict) else getattr(one, "structure", one)
        try:
            if isinstance(structure, Structure):
                frames[place] = atoms_from_structure(structure)
            elif isinstance(one, MSONable):
                raise ValueError(
                    f"a {type(one).__name__} holds no structure; give a Structure or ComputedStructureEntry"
                )
        except ValueError as error:
            refused.append(f"{path}, structure {place + 1} of {len(entries)}: {error}")
    return frames, refused


def _cif_frames(path: Path) -> Frames:
    """The structures of the blocks of a CIF; nothing of another file, or of an empty one."""
    text = text_of(path) if ending(path) == ".cif" and path.exists() else ""
    if text and "_atom_site" not in text.lower():
        return {}, [f"{path}: holds no atoms, which a CIF lists as _atom_site_...; is it complete?"]
    blocks = blocks_of(text) if "_atom_site" in text else []
    frames: dict[int, Atoms] = {}
    refused: list[str] = []
    for place, block in enumerate(blocks):
        try:
            frames[place] = _atoms_of_cif(block)
        except Exception as error:  # pymatgen's reader raises whatever it likes, too
            name = str(path) if len(blocks) == 1 else f"{path}#{place}"
            refused.append(f"{name}: not a structure file that can be read: {_said(error)}")
    return frames, refused


def _atoms_of_cif(block: str) -> Atoms:
    """ASE's atoms, in the order of the file, where they are the atoms that `read_cif` finds, which has the last word.

    ASE reads sodium whose type symbol is NA as nitrogen, takes a Hall symbol for no symmetry and P 21/n, where no operations
    are listed, for P 21/c, and cannot read symmetry operations without the name of a space group. What only ASE reads (sites
    that are partly occupied, deuterium) is left to it.
    """
    from ase import Atoms
    from ase.io import read

    try:
        (by_ase,) = _listed(read(StringIO(block), format="cif"))
    except Exception:  # as above
        by_ase = None
    try:
        lattice, frac_coords, numbers = read_cif(block)
    except Exception as error:
        unknown = isinstance(error, RejectedRecord) and error.rule == UNKNOWN_SYMMETRY
        if by_ase is None or unknown or is_magnetic(block):  # magnetic operations are unknown to ASE
            raise
        return by_ase
    found = Atoms(numbers, scaled_positions=frac_coords, cell=lattice, pbc=True)
    return by_ase if by_ase is not None and _same_sites(by_ase, found) else found


def _same_sites(one: Atoms, other: Atoms) -> bool:
    """Whether two lists of atoms in a cell, which may be turned, are of the same sites, in any order."""
    if not np.array_equal(np.sort(one.numbers), np.sort(other.numbers)):
        return False
    places = other.get_scaled_positions()
    for number, place in zip(one.numbers, one.get_scaled_positions(), strict=True):
        offsets = places[other.numbers == number] - place
        if np.linalg.norm((offsets - np.rint(offsets)) @ other.cell.array, axis=1).min() > SAME_SITE:
            return False
    return True


def _ase_frames(path: Path) -> Frames:
    """The structures of a file, or those that ASE's ``file@index`` chooses; and of an XYZ file that cannot be read as a
    whole those that can."""
    from ase.io import read
    from ase.io.formats import parse_filename

    name, chosen = (str(path), None) if path.exists() else parse_filename(str(path), None)
    try:
        _refuse_truncated(Path(name))
        if path.exists() and ending(path) in DATABASES:
            return dict(enumerate(map(_with_remarks, database_rows(path)))), []
        found = read(name, index=":" if chosen is None else chosen, do_not_split_by_at_sign=True)
    except Exception:  # as above
        frames, refused = _one_by_one(path)
        if not frames:
            raise
        return frames, refused
    return dict(enumerate(_listed(found))), []


def _with_remarks(row: Atoms) -> Atoms:
    """The atoms of a row in a database, whose pairs and data are remarks as those of other files are."""
    row.info = {**row.info.get("data", {}), **row.info.get("key_value_pairs", {})}
    return row


def _refuse_truncated(path: Path) -> None:
    """An error for an XYZ file with a frame that is not whole: of a trillion atoms, ASE would look for each."""
    for row in AseSource(path).rows() if path.exists() and ending(path) in XYZ else ():
        if isinstance(row, TruncatedFrame):
            raise row


def _one_by_one(path: Path) -> Frames:
    """The frames of an XYZ file that are whole, or a POSCAR with isotopes; nothing of another file."""
    apart = path.exists() and (ending(path) in XYZ or is_poscar(path))
    frames: dict[int, Atoms] = {}
    refused: list[str] = []
    for place, row in enumerate(AseSource(path).rows() if apart else ()):
        try:
            if isinstance(row, Exception):
                raise row
            frames[place] = atoms_of_xyz(row) if isinstance(row, str) else row
        except Exception as error:  # as above
            refused.append(f"{path}#{place}: not a structure that ASE reads: {_said(error)}")
    return frames, refused


def _listed(found: Atoms | list[Atoms]) -> list[Atoms]:
    return found if isinstance(found, list) else [found]


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
