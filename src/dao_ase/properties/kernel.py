"""A kernel reader beside the networks: what crystals like this one have (Gaussian process regression).

    k(x, y) = w exp(−‖x − y‖_structure / l) + (1 − w) exp(−‖x − y‖_composition / l),    ŷ(x) = ỹ + Σ_i a_i k(x, x_i)

The norms are root mean squares over the standardised features that come from the trunk, and over the others. l, w and the
noise λ are those with the least error when each formula is left out in turn; ỹ is the median and a = (K + λD)⁻¹ (y − ỹ). The
diagonal D holds the crystals' own residuals in units of their mean, found by iteration: absolute errors are made small, not
squares, which few outliers would rule.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

LENGTHS, MIXES, NOISES = (0.5, 1.0, 2.0), (0.0, 0.3, 0.6), (0.1, 0.3, 1.0)
MOST = 4000
"""With more crystals to train on the networks read alone: the matrices grow with the square, and networks want data."""
ITERATIONS = 6
SAMPLE = 600
"""Crystals by which length, mixture and noise are chosen."""


class KernelReader(nn.Module):
    """ŷ of the equations above; the features of the crystals x_i, shared by all folds, are handed in."""

    weights: Tensor
    settings: Tensor

    def __init__(self, crystals: int, constants: int) -> None:
        super().__init__()
        self.constants = constants
        self.register_buffer("weights", torch.zeros(crystals))
        self.register_buffer("settings", torch.tensor([1.0, 0.5, 0.0]))  # l, w, ỹ

    def forward(
        self, standard: Float[Tensor, "crystals features"], reference: Float[Tensor, "known features"]
    ) -> Float[Tensor, "crystals"]:
        length, mix, middle = self.settings.tolist()
        used = self.weights != 0
        distances = self.distances(standard, reference[used])
        return middle + kernel(*distances, length, mix) @ self.weights[used]

    def distances(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Root mean square differences of the features of the trunk, and of the constants."""
        structure = first.shape[1] - self.constants
        return (
            torch.cdist(first[:, :structure], second[:, :structure]) / structure**0.5,
            torch.cdist(first[:, structure:], second[:, structure:]) / self.constants**0.5,
        )

    @torch.no_grad()
    def fit(
        self, standard: Tensor, values: Tensor, groups: NDArray[np.int64], chosen: NDArray[np.int64], seed: int
    ) -> None:
        """Fits the chosen of all crystals; ``groups`` numbers their formulas."""
        sample = np.random.default_rng(seed).permutation(chosen)[:SAMPLE]
        middle = float(values[chosen].median())
        length, mix, noise = self._best(standard[sample], values[sample] - middle, groups[sample])
        matrix = kernel(*self.distances(standard[chosen], standard[chosen]), length, mix).double()
        solved = _robust(matrix, (values[chosen] - middle).double(), noise)
        self.weights.zero_()
        self.weights[chosen] = solved.float()
        self.settings.copy_(torch.tensor([length, mix, middle]))

    def _best(self, standard: Tensor, values: Tensor, groups: NDArray[np.int64]) -> tuple[float, float, float]:
        distances = self.distances(standard, standard)
        found = {}
        for length, mix in product(LENGTHS, MIXES):
            eigenvalues, vectors = torch.linalg.eigh(kernel(*distances, length, mix).double())
            for noise in NOISES:
                inverse = (vectors / (eigenvalues.clamp(min=0) + noise)) @ vectors.T
                found[length, mix, noise] = _left_out(inverse, values.double(), groups)
        return min(found, key=lambda key: found[key])


def kernel(structure: Tensor, composition: Tensor, length: float, mix: float) -> Tensor:
    """k of the two distances."""
    return mix * torch.exp(-structure / length) + (1 - mix) * torch.exp(-composition / length)


def _robust(matrix: Tensor, values: Tensor, noise: float) -> Tensor:
    """a of the module's equations."""
    share = torch.ones_like(values)
    for _ in range(ITERATIONS):
        factor = torch.linalg.cholesky(matrix + torch.diag(noise * share))
        weights = torch.cholesky_solve(values.unsqueeze(1), factor).squeeze(1)
        residual = (noise * share * weights).abs()  # y − K a = λ D a
        share = (residual / residual.mean()).clamp(0.1, 100.0)
    return weights


def _left_out(inverse: Tensor, values: Tensor, groups: NDArray[np.int64]) -> float:
    """The mean absolute error when each group is left out in turn: (K⁻¹)_GG⁻¹ (K⁻¹ y)_G."""
    weights = inverse @ values
    errors = weights / inverse.diagonal()
    names, sizes = np.unique(groups, return_counts=True)
    for name in names[sizes > 1]:
        mine = torch.from_numpy(np.flatnonzero(groups == name))
        errors[mine] = torch.linalg.solve(inverse[mine][:, mine], weights[mine])
    return float(errors.abs().mean())
