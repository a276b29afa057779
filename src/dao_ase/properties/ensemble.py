"""A property model as it is stored: the readers of all folds, the trunk they stand on, and what is known of them.

The file carries its own trunk, so that it goes on giving the same numbers when DAO-P gets new weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dao_ase import checkpoint
from dao_ase.composition import SYMBOLS
from dao_ase.crystals import Crystals
from dao_ase.potential import Potential, PotentialConfig
from dao_ase.properties.calibration import Calibration
from dao_ase.properties.graphs import Graphs
from dao_ase.properties.installed import MODEL
from dao_ase.properties.model import HeadConfig, HeadEnsemble, constants_of, features_of, num_features
from dao_ase.properties.table import Target

VERSION, READ = 2, (1, 2)
"""Version 1 had neither trees nor weights of the readers; it goes on being read."""
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class PropertyModel:
    """Heads of every fold and the trunk below each (one for all, where it was frozen)."""

    target: Target
    elements: NDArray[np.float32]
    trunks: list[Potential]
    heads: list[HeadEnsemble]
    header: Mapping[str, Any]

    @property
    def trained(self) -> list[int]:
        """The atomic numbers that the trunk was trained on."""
        return self.trunks[0].elements

    def refuse_untrained(self, crystals: Crystals) -> None:
        """Raises `ValueError` where a crystal holds an element that the trunk has never seen."""
        unknown = sorted(set(crystals.atomic_numbers.tolist()) - set(self.trained))
        if unknown:
            names = ", ".join(SYMBOLS[number] if number < len(SYMBOLS) else f"number {number}" for number in unknown)
            raise ValueError(f"{names} is outside the {len(self.trained)} elements that the model was trained on")

    @torch.autocast("cpu", enabled=False)  # in its own type, whatever a caller has told torch
    def learnt(self, crystals: Crystals) -> NDArray[np.float64]:
        """What each member of each fold says of each crystal, on the scale that is learnt: [folds, members, crystals]."""
        self.refuse_untrained(crystals)
        graphs = Graphs.find(crystals, self.trunks[0])
        constants = constants_of(graphs, self.elements)
        shared = features_of(self.trunks[0], graphs, constants)
        answers = []
        with torch.no_grad():
            for fold, head in enumerate(self.heads):
                frozen = len(self.trunks) == 1
                features = shared if frozen or fold == 0 else features_of(self.trunks[fold], graphs, constants)
                answers.append(head.eval().values(features).double().numpy())
        return np.stack(answers)

    def save(self, path: str | Path) -> None:
        """One safetensors file; matrices of the heads in bfloat16, the type in which they were rounded before use."""
        tensors: dict[str, Tensor] = {"elements": torch.from_numpy(self.elements)}
        for fold, head in enumerate(self.heads):
            tensors |= {f"fold{fold}.head.{name}": tensor for name, tensor in rounded(head).items()}
        references = [head.reference for head in self.heads if head.kernel is not None]
        if references:  # the same crystals in all folds that have a kernel reader; larger folds may have none
            tensors["reference"] = references[0].half()
        for place, trunk in enumerate(self.trunks):
            prefix = "trunk" if len(self.trunks) == 1 else f"fold{place}.trunk"
            tensors |= {f"{prefix}.{name}": _short(tensor) for name, tensor in trunk.state_dict().items()}
        fixed = {
            "model": MODEL,
            "version": VERSION,
            "target": asdict(self.target),
            "folds": len(self.heads),
            "head": asdict(self.heads[0].config),
            "trunk": self.trunks[0].header() | {"shared": len(self.trunks) == 1},
        }
        checkpoint.save(path, tensors, {**self.header, **fixed})

    @classmethod
    def load(cls, path: str | Path) -> PropertyModel:
        """The model in a file that `save` wrote."""
        tensors, header = checkpoint.load(path)
        if header.get("model") != MODEL:
            raise checkpoint.CheckpointError(f"{str(path)!r} holds a {header.get('model')!r}, not a property model")
        if header.get("version") not in READ:
            raise checkpoint.CheckpointError(
                f"{str(path)!r} is of version {header.get('version')}, this program reads {READ}: fine-tune again"
            )
        with checkpoint.described_by(path):
            target, elements = Target(**header["target"]), tensors["elements"].numpy()
            Calibration(**header["calibration"])
            places = ["trunk"] if header["trunk"]["shared"] else [f"fold{k}.trunk" for k in range(header["folds"])]
            sizes = PotentialConfig.from_header(header["trunk"]["config"])
            trunks = [_restored(Potential(sizes), tensors, place) for place in places]
            constants = len(tensors["fold0.head.mean"]) - num_features(trunks[0], 0)
            reference = tensors["reference"].float() if "reference" in tensors else None
            config = HeadConfig(**header["head"])
            heads = [
                HeadEnsemble.restored(tensors, f"fold{fold}.head.", config, reference, constants)
                for fold in range(header["folds"])
            ]
        return cls(target, elements, trunks, heads, header)


def rounded(head: HeadEnsemble) -> dict[str, Tensor]:
    """The tensors of heads with the matrices of the networks in bfloat16: half the size, and as good."""
    matrices = {name for name, parameter in head.named_parameters() if parameter.ndim == 3}
    return {name: one.bfloat16() if name in matrices else one for name, one in head.state_dict().items()}


def fingerprint(trunk: Potential) -> str:
    """Twelve letters that tell a potential, its weights and its sizes, from others."""
    digest = hashlib.sha256(repr(trunk.config).encode())
    for name, tensor in sorted(trunk.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _short(tensor: Tensor) -> Tensor:
    """The same numbers in half the size, where they were rounded to bfloat16 before, as those of the package are."""
    if tensor.dtype != torch.float32 or not torch.equal(tensor, tensor.bfloat16().float()):
        return tensor
    return tensor.bfloat16()


def _restored(module: Module, tensors: Mapping[str, Tensor], place: str) -> Module:
    prefix = f"{place}."
    module.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return module.float().eval().requires_grad_(False)
