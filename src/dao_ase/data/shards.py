"""One file of crystals: a safetensors file that is memory-mapped, carries its own checksum and appears only when complete.

Columns of a shard with C crystals and N atoms (lattice in Å, rows are the lattice vectors):

=====================  =================  ============================================================
``num_atoms``          C, int32           atoms of each crystal; crystals stand one after another
``lattice``            C×3×3, float32     cells
``frac_coords``        N×3, float32       fractional coordinates in [0, 1)
``atomic_numbers``     N, uint8
``row``                C, int64           where the crystal stood in its source
``label.NAME``         C×…, float64       a number, vector or matrix of each crystal, NaN where missing
``atom.NAME``          N×…, float32       a number or vector of each atom, for example forces (eV/Å)
``text.NAME``          bytes, uint8       UTF-8 texts, joined; ``text.id`` and ``text.source`` always exist
``text_end.NAME``      C, int64           where each text ends
=====================  =================  ============================================================
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dao_ase.whole_files import replacing

Columns = Mapping[str, np.ndarray]

_DTYPES = {"F64": np.float64, "F32": np.float32, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_CHUNK = 1 << 22


class ShardError(ValueError):
    """A shard that is missing, truncated, corrupt or not a shard."""


def write_shard(path: str | Path, columns: Columns, notes: Mapping[str, Any] | None = None) -> None:
    """Writes columns and JSON-able notes to one shard."""
    arrays = {name: np.ascontiguousarray(columns[name]) for name in sorted(columns, key=lambda n: -columns[n].itemsize)}
    header: dict[str, Any] = {}
    crc = end = 0
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise TypeError(f"column {name!r} is {array.dtype}; a shard holds {sorted(map(str, _NAMES))}")
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        crc, end = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc), end + array.nbytes
    header["__metadata__"] = {"crc32": str(crc), "notes": json.dumps(notes or {})}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of eight bytes, so that columns can be mapped

    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.reshape(-1).view(np.uint8).data)


def open_shard(path: str | Path, verify: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The memory-mapped columns and the notes of a shard; its size is always checked, its checksum if ``verify``."""
    path = Path(path)
    remedy = "delete it and build the store again"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if not 8 < start <= size:
                raise ShardError(f"{str(path)!r} is truncated: its header ends beyond its {size} bytes; {remedy}")
            header = json.loads(file.read(start - 8))
            metadata = header.pop("__metadata__")
            end = max((column["data_offsets"][1] for column in header.values()), default=0)
            if size != start + end:
                raise ShardError(f"{str(path)!r} is truncated: {size} bytes instead of {start + end}; {remedy}")
            if verify and (found := _checksum(file)) != int(metadata["crc32"]):
                raise ShardError(f"{str(path)!r} is corrupt: checksum {found} instead of {metadata['crc32']}; {remedy}")
            notes = json.loads(metadata["notes"])
            return {name: _map(path, start, column) for name, column in header.items()}, notes
    except FileNotFoundError:
        raise ShardError(f"there is no shard {str(path)!r}") from None
    except ShardError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{str(path)!r} is not a shard of dao-ase, or its header is corrupt ({error}); {remedy}"
        ) from error


def _checksum(file: BinaryIO) -> int:
    crc = 0
    while chunk := file.read(_CHUNK):
        crc = zlib.crc32(chunk, crc)
    return crc


def _map(path: Path, start: int, column: Mapping[str, Any]) -> np.ndarray:
    dtype, shape = _DTYPES[column["dtype"]], tuple(column["shape"])
    first, last = column["data_offsets"]
    if last - first != np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ShardError(f"{str(path)!r} is corrupt: a column of shape {shape} has {last - first} bytes")
    if first == last:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start + first, shape).view(np.ndarray)


def encode_texts(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts as joined UTF-8 bytes and the positions where each ends.

    >>> data, ends = encode_texts(["mp-149", "mp-48"])
    >>> decode_texts(data, ends)
    ['mp-149', 'mp-48']
    """
    encoded = [text.encode("utf-8", "replace") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends


def decode_texts(data: np.ndarray, ends: np.ndarray) -> list[str]:
    """The inverse of `encode_texts`."""
    joined, starts = data.tobytes(), [0, *ends.tolist()]
    return [joined[first:last].decode() for first, last in pairwise(starts)]


def gather_atoms(num_atoms: np.ndarray, first_atom: np.ndarray, crystals: np.ndarray) -> np.ndarray:
    """Indices of all atoms of the chosen crystals, crystal after crystal."""
    counts = num_atoms[crystals]
    ends = np.cumsum(counts)
    return np.repeat(first_atom[crystals] - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
