"""The property model: DAO-P's trunk, pooling over the atoms, and an ensemble of small networks that read the property.

    x = [mean_i h_i^l, std_i h_i^l for each level l;  log V/N;  statistics of the composition],    ŷ_m = c + s f_m(x̂)

With a fixed trunk each ŷ_m is one term of a weighted mean, beside a kernel reader (kernel.py), which learns more of few
crystals, and trees (trees.py); the weights are those that are best for crystals left out of training (fit.py).

h_i^l is the state of atom i after level l of the trunk (`Potential.states`), x̂ is x standardised on the crystals that were
trained on, and f_m a network with two hidden layers. Means and deviations do not change when a cell is repeated, turned or
its atoms are listed in another order; nor does ŷ, which is intensive. An extensive property is read as ŷ times the atoms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dao_ase.potential import Potential
from dao_ase.properties.descriptors import composition_statistics
from dao_ase.properties.graphs import GraphBatch, Graphs
from dao_ase.properties.kernel import KernelReader
from dao_ase.properties.trees import TreeReader

SLOTS = 60_000
"""Neighbour slots in one pass of the trunk."""


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of the networks that read the property."""

    members: int = 8  # networks in one fold; they differ by their random start and the crystals that they go without
    width: int = 64
    dropout: float = 0.2
    feature_dropout: float = 0.1


class HeadEnsemble(nn.Module):
    """``members`` networks side by side, one batched product for each layer; beside them other readers may stand."""

    mean: Tensor
    deviation: Tensor
    center: Tensor
    scale: Tensor
    reference: Tensor
    blend: Tensor

    def __init__(self, features: int, config: HeadConfig) -> None:
        super().__init__()
        self.config, members, width = config, config.members, config.width
        self.inner = nn.Parameter(torch.randn(members, features, width) / features**0.5)
        self.inner_bias = nn.Parameter(torch.zeros(members, 1, width))
        self.middle = nn.Parameter(torch.randn(members, width, width) / width**0.5)
        self.middle_bias = nn.Parameter(torch.zeros(members, 1, width))
        self.outer = nn.Parameter(0.3 * torch.randn(members, width, 1) / width**0.5)
        self.outer_bias = nn.Parameter(torch.zeros(members, 1, 1))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("reference", torch.zeros(0, features), persistent=False)
        self.register_buffer("blend", torch.tensor([1.0, 0.0, 0.0]))  # weights of networks, kernel and trees
        self.kernel: KernelReader | None = None
        self.trees: TreeReader | None = None
        self.float()  # as the features are, whatever torch's default is

    @torch.no_grad()
    def fit_scales(self, features: Float[Tensor, "crystals features"], values: Float[Tensor, "crystals"]) -> None:
        """Standardises what goes in and comes out; values by their median and mean deviation, which outliers hardly move."""
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(features.std(0, unbiased=False) + 1e-3)
        self.center.copy_(values.median())
        self.scale.copy_((values - values.median()).abs().mean() + 1e-12)

    def standardise(self, features: Tensor) -> Tensor:
        """x̂: features less their mean, in deviations, and at most 4: a strange crystal stays in the known range."""
        return ((features - self.mean) / self.deviation).clamp(-4, 4)

    def forward(self, standard: Float[Tensor, "*rows features"]) -> Float[Tensor, "members crystals"]:
        """f_m of standardised features, the same for all members or [members, crystals, features]."""
        x = standard.expand(self.config.members, *standard.shape[-2:])
        if self.training:  # a batch goes without the same features, each member without others
            kept = torch.rand(self.config.members, 1, x.shape[-1]) >= self.config.feature_dropout
            x = x * (kept / (1 - self.config.feature_dropout))
        first = functional.silu(torch.baddbmm(self.inner_bias, x, self.inner))
        first = functional.dropout(first, self.config.dropout, self.training)
        second = first + functional.silu(torch.baddbmm(self.middle_bias, first, self.middle))
        second = functional.dropout(second, self.config.dropout, self.training)
        return torch.baddbmm(self.outer_bias, second, self.outer).squeeze(-1)

    def values(self, features: Float[Tensor, "crystals features"]) -> Float[Tensor, "members crystals"]:
        """ŷ_m of features as they are, blended with what the other readers say."""
        standard = self.standardise(features)
        networks, kernel, trees = self.blend.tolist()
        values = networks * (self.center + self.scale * self(standard))
        if self.kernel is not None:
            values = values + kernel * self.kernel(standard, self.standardise(self.reference))
        if self.trees is not None:  # the forest that went without the same crystals as the network
            forests = self.trees(standard)
            values = values + trees * forests[[member % len(forests) for member in range(len(values))]]
        return values

    def add_kernel(self, reference: Float[Tensor, "known features"], constants: int) -> KernelReader:
        """A kernel reader on these features of known crystals, still to be fitted or loaded."""
        self.reference, self.kernel = reference, KernelReader(len(reference), constants).float()
        self.blend.copy_(torch.tensor([0.5, 0.5, 0.0]))  # as in files that say nothing of weights
        return self.kernel

    def add_trees(self, forests: int) -> TreeReader:
        """Trees of so many forests, still to be fitted or loaded."""
        self.trees = TreeReader(forests).float()
        return self.trees

    @classmethod
    def restored(
        cls, tensors: Mapping[str, Tensor], place: str, config: HeadConfig, reference: Tensor | None, constants: int
    ) -> HeadEnsemble:
        """The readers whose tensors have names that begin with ``place``."""
        state = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
        head = cls(len(state["mean"]), config)
        if "kernel.weights" in state:
            if reference is None:
                raise KeyError("reference")
            head.add_kernel(reference, constants)
        if "trees.start" in state:
            head.add_trees(len(state["trees.start"]))
        since_version_2 = {
            name: one for name, one in head.state_dict().items() if name in ("blend", "kernel.squeeze.settings")
        }
        head.load_state_dict(since_version_2 | state)
        return head.eval().requires_grad_(False)


def pooled(
    states: list[Float[Tensor, "atoms width"]], crystal_index: Int[Tensor, "atoms"], crystals: int
) -> Float[Tensor, "crystals features"]:
    """The mean and the standard deviation over the atoms of each crystal, of each level."""
    count = torch.bincount(crystal_index, minlength=crystals).unsqueeze(1)
    parts = []
    for state in states:
        mean = state.new_zeros(crystals, state.shape[1]).index_add(0, crystal_index, state) / count
        square = (state - mean[crystal_index]).square()
        variance = torch.zeros_like(mean).index_add(0, crystal_index, square) / count
        parts += [mean, (variance + 1e-6).sqrt()]
    return torch.cat(parts, 1)


def num_features(trunk: Potential, constants: int) -> int:
    """How many features there are with this trunk and so many that do not depend on it."""
    return 2 * trunk.config.width * (trunk.config.layers + 1) + constants


def constants_of(graphs: Graphs, elements: NDArray[np.float32]) -> Float[Tensor, "crystals constants"]:
    """The features that do not depend on the trunk: log volume per atom and the statistics of the composition."""
    return torch.from_numpy(
        np.concatenate([graphs.log_volume[:, None], composition_statistics(graphs.counts, elements)], 1).astype(
            np.float32
        )
    )


def features_of_batch(trunk: Potential, batch: GraphBatch, constants: Tensor) -> Float[Tensor, "crystals features"]:
    """x of a batch, differentiable by the weights of the trunk."""
    states = trunk.states(batch.atomic_numbers, batch.vectors, batch.neighbors)
    return torch.cat([pooled(states, batch.crystal_index, len(batch.num_atoms)), constants], 1)


@torch.no_grad()
def features_of(
    trunk: Potential, graphs: Graphs, constants: Tensor, tick: Callable[[int], object] = lambda done: None
) -> Float[Tensor, "crystals features"]:
    """x of all crystals; ``tick`` hears how many more are done."""
    order = np.argsort(graphs.work, kind="stable")
    features = constants.new_zeros(len(graphs), num_features(trunk, constants.shape[1]))
    for part in graphs.parts(order, SLOTS):
        features[part] = features_of_batch(trunk, graphs.batch(part), constants[part])
        tick(len(part))
    return features
