"""A reader of gradient-boosted trees beside the networks: a sum of many small questions (Friedman 2001).

    F_0 = median(z),    F_t(x) = F_{t−1}(x) + η v_t(x),    v_t fitted to the residuals z − F_{t−1}(x), cut at ±δ_t

z is y with its tails squeezed (squeeze.py). Each tree asks ``DEPTH`` questions "is feature j above a threshold?", of a
random part of the features and of the crystals. Residuals are cut at the quantile ``CUT`` of their sizes, so that few
outliers do not rule (Huber's loss). A forest is trained without one part of the crystals, which it then predicts; the
reader is the mean of the forests of all parts.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from dao_ase.properties.squeeze import STRENGTH, Squeeze

DEPTH, TREES, RATE = 4, 300, 0.08
COLUMNS = (10, 60)
"""Features that a tree may ask about, drawn at random: of the trunk, and of the constants."""
ROWS, MOST_ROWS = 0.8, 4000
"""The share of the crystals that a tree sees, and at most so many."""
CUT, RIDGE, LEAST = 0.8, 1.0, 5
"""The quantile at which residuals are cut; crystals added to each leaf with a residual of zero; the fewest in a leaf."""
BINS = 48
NOISE = 1e-4
"""Standard deviations; smaller differences of a feature say nothing, and no threshold lies between them."""
Rows = NDArray[np.float32]


class TreeReader(nn.Module):
    """Complete binary trees of several forests: the question of node k goes on at 2k + 1 or, if true, 2k + 2."""

    feature: Tensor
    threshold: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, forests: int) -> None:
        super().__init__()
        inner = 2**DEPTH - 1
        self.register_buffer("feature", torch.zeros(forests, TREES, inner, dtype=torch.int16))
        self.register_buffer("threshold", torch.full((forests, TREES, inner), torch.inf))
        self.register_buffer("value", torch.zeros(forests, TREES, inner + 1))
        self.register_buffer("start", torch.zeros(forests))
        self.squeeze = Squeeze()

    def forward(self, standard: Float[Tensor, "crystals features"]) -> Float[Tensor, "forests crystals"]:
        """What each forest says of y."""
        x = standard.numpy()
        sums = [self.start[f] + torch.from_numpy(self.steps(x, f).sum(0)) for f in range(len(self.start))]
        return self.squeeze.restored(torch.stack(sums))

    def steps(self, x: Rows, forest: int) -> NDArray[np.float32]:
        """η v_t of each tree of a forest for each crystal: [trees, crystals]."""
        trees = zip(
            self.feature[forest].numpy(), self.threshold[forest].numpy(), self.value[forest].numpy(), strict=True
        )
        return np.stack([value[_leaf(x, feature, threshold)] for feature, threshold, value in trees])

    def fit(
        self, standard: Tensor, values: Tensor, parts: NDArray[np.int64], constants: int, seed: int
    ) -> NDArray[np.float64]:
        """Forest f is trained without part f, as many trees as are best for what is left out; what they say of that."""
        x, z = standard.numpy(), self.squeeze.fit(values, STRENGTH)(values.double()).numpy()
        left_out = np.zeros((TREES, len(z)))
        for forest in range(len(self.start)):
            rest, mine = parts != forest, parts == forest
            self.start[forest] = float(np.median(z[rest]))
            self._grow(forest, x[rest], z[rest], constants, np.random.default_rng([seed, forest]))
            left_out[:, mine] = float(self.start[forest]) + np.cumsum(self.steps(x[mine], forest), 0, dtype=np.float64)
        said = self.squeeze.restored(torch.from_numpy(left_out)).numpy()
        best = int(np.abs(said - values.numpy()).mean(1).argmin())
        for rest in (self.feature, self.threshold, self.value):
            rest[:, best + 1 :] = 0
        return said[best]

    def _grow(self, forest: int, x: Rows, z: NDArray[np.float64], constants: int, rng: np.random.Generator) -> None:
        bins, edges = _bins(x)
        said = np.full(len(z), float(self.start[forest]))
        structure = x.shape[1] - constants
        for tree in range(TREES):
            residual = z - said
            cut = np.quantile(np.abs(residual), CUT)
            rows = rng.permutation(len(z))[: max(1, min(int(ROWS * len(z)), MOST_ROWS))]
            columns = np.concatenate([
                rng.permutation(structure)[: COLUMNS[0]], structure + rng.permutation(constants)[: COLUMNS[1]]
            ])  # fmt: skip
            target = np.clip(residual[rows], -cut, cut)
            found = _tree(bins[np.ix_(rows, columns)], edges[columns], target)
            feature, threshold, value = columns[found[0]], found[1], RATE * found[2]
            self.feature[forest, tree] = torch.from_numpy(feature.astype(np.int16))
            self.threshold[forest, tree] = torch.from_numpy(threshold)
            self.value[forest, tree] = torch.from_numpy(value.astype(np.float32))
            said += value[_leaf(x, feature, threshold)]


def _leaf(x: Rows, feature: NDArray[np.integer], threshold: NDArray[np.float32]) -> NDArray[np.int64]:
    """The leaf of a tree that each crystal falls into."""
    node, crystals = np.zeros(len(x), np.int64), np.arange(len(x))
    for _ in range(DEPTH):
        node = 2 * node + 1 + (x[crystals, feature[node]] > threshold[node])
    return node - len(feature)


def _bins(x: Rows) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Between which thresholds each feature of each crystal lies, and these thresholds.

    They stand in the widest of the gaps between the values of about as many crystals each, where noise crosses none.
    """
    bins = np.empty(x.shape, np.int64)
    edges = np.full((x.shape[1], BINS), np.inf, np.float32)
    for column, feature in enumerate(x.T):
        known, counts = np.unique(feature, return_counts=True)
        gaps, low = np.diff(known), np.arange(len(known) - 1)
        if len(low) >= BINS:
            window = np.cumsum(counts)[:-1] * (BINS - 1) // len(feature)
            order = np.lexsort((gaps, window))
            low = order[np.diff(window[order], append=BINS) > 0]
        low = low[gaps[low] > NOISE]
        middle = (0.5 * (known[low] + known[low + 1])).astype(np.float32)
        edges[column, : len(middle)] = middle
        bins[:, column] = np.searchsorted(middle, feature, side="left")
    return bins, edges


def _tree(
    bins: NDArray[np.int64], edges: NDArray[np.float32], target: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Feature and threshold of each node, value of each leaf: level by level the questions that part the targets best."""
    crystals, columns = bins.shape
    place = bins + BINS * np.arange(columns)
    weights = np.repeat(target, columns)
    node = np.zeros(crystals, np.int64)
    feature, threshold = np.zeros(2**DEPTH - 1, np.int64), np.full(2**DEPTH - 1, np.inf, np.float32)
    for level in range(DEPTH):
        nodes = 2**level
        index = (place + (node * columns * BINS)[:, None]).ravel()
        shape = (nodes, columns, BINS)
        below = np.bincount(index, weights, nodes * columns * BINS).reshape(shape).cumsum(2)
        count = np.bincount(index, minlength=nodes * columns * BINS).reshape(shape).cumsum(2)
        above, others = below[:, :1, -1:] - below, count[:, :1, -1:] - count
        gain = below**2 / (count + RIDGE) + above**2 / (others + RIDGE)
        gain[(count < LEAST) | (others < LEAST)] = 0
        best = gain.reshape(nodes, -1).argmax(1)
        asked = gain.reshape(nodes, -1).max(1) > 0
        column, edge = best // BINS, best % BINS
        mine = slice(nodes - 1, 2 * nodes - 1)
        feature[mine], threshold[mine] = column, np.where(asked, edges[column, edge], np.inf)
        above_it = bins[np.arange(crystals), column[node]] > np.where(asked, edge, BINS)[node]
        node = 2 * node + above_it
    leaves = 2**DEPTH
    value = np.bincount(node, target, leaves) / (np.bincount(node, minlength=leaves) + RIDGE)
    return feature, threshold, value
