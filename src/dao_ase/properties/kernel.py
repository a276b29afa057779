"""A kernel reader beside the networks: what crystals like this one have (Gaussian process regression).

    k(x, y) = w exp(−‖x − y‖_structure / l) + (1 − w) exp(−‖x − y‖_composition / l),    ŷ(x) = ỹ + Σ_i a_i k(x, x_i)

The norms are root mean squares over the standardised features that come from the trunk, and over the others. l, w and the
noise λ are those with the least error when each formula is left out in turn; ỹ is the median and a = (K + λD)⁻¹ (y − ỹ). The
diagonal D holds the crystals' own residuals in units of their mean, found by iteration: absolute errors are made small, not
squares, which few outliers would rule. Where that is better for formulas left out, y is squeezed (squeeze.py).
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from dao_ase.properties.squeeze import STRENGTH, Squeeze

LENGTHS, MIXES, NOISES = (0.5, 1.0, 2.0), (0.0, 0.3, 0.6), (0.1, 0.3, 1.0)
MOST = 4000
"""With more crystals to train on there is no kernel reader: its matrices grow with the square, and networks want data."""
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
        self.squeeze = Squeeze()

    def forward(
        self, standard: Float[Tensor, "crystals features"], reference: Float[Tensor, "known features"]
    ) -> Float[Tensor, "crystals"]:
        length, mix, middle = self.settings.tolist()
        used = self.weights != 0
        distances = self.distances(standard, reference[used])
        return self.squeeze.restored(middle + kernel(*distances, length, mix) @ self.weights[used])

    def distances(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Root mean square differences of the features of the trunk, and of the constants."""
        structure = first.shape[1] - self.constants
        return (
            torch.cdist(first[:, :structure], second[:, :structure]) / structure**0.5,
            torch.cdist(first[:, structure:], second[:, structure:]) / self.constants**0.5,
        )

    @torch.no_grad()
    def fit(
        self,
        standard: Tensor,
        values: Tensor,
        groups: NDArray[np.int64],
        chosen: NDArray[np.int64],
        parts: NDArray[np.int64],
        seed: int,
    ) -> NDArray[np.float64]:
        """Fits the chosen of all crystals; what it says of each of their ``parts`` from the others alone.

        ``groups`` numbers the formulas of all crystals.
        """
        sample = np.random.default_rng(seed).permutation(chosen)[:SAMPLE]
        values = values.double()
        length, mix, noise, strength = self._best(standard[sample], values[sample], groups[sample])
        squeezed = self.squeeze.fit(values[chosen], strength)(values[chosen])
        middle = squeezed.median()
        matrix = kernel(*self.distances(standard[chosen], standard[chosen]), length, mix).double()
        self.weights.zero_()
        self.weights[chosen] = _robust(matrix, squeezed - middle, noise).float()
        self.settings.copy_(torch.tensor([length, mix, float(middle)]))
        said = torch.zeros_like(squeezed)
        for part in np.unique(parts):
            mine, rest = (torch.from_numpy(np.flatnonzero(one)) for one in (parts == part, parts != part))
            weights = _robust(matrix[rest][:, rest], squeezed[rest] - middle, noise)
            said[mine] = middle + matrix[mine][:, rest] @ weights
        return self.squeeze.restored(said).numpy()

    def _best(self, standard: Tensor, values: Tensor, groups: NDArray[np.int64]) -> tuple[float, float, float, float]:
        """l, w, λ and how much the values are squeezed."""
        distances = self.distances(standard, standard)
        scales = {strength: Squeeze().fit(values, strength) for strength in (0.0, STRENGTH)}
        found = {}
        for length, mix in product(LENGTHS, MIXES):
            eigenvalues, vectors = torch.linalg.eigh(kernel(*distances, length, mix).double())
            for noise in NOISES:
                inverse = (vectors / (eigenvalues.clamp(min=0) + noise)) @ vectors.T
                for strength, scale in scales.items():
                    squeezed = scale(values)
                    said = scale.restored(squeezed - _left_out(inverse, squeezed - squeezed.median(), groups))
                    found[length, mix, noise, strength] = float((said - values).abs().mean())
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
        share = (residual / (residual.mean() + 1e-300)).clamp(0.1, 100.0)  # all residuals may be zero
    return weights


def _left_out(inverse: Tensor, values: Tensor, groups: NDArray[np.int64]) -> Tensor:
    """The error of each crystal when each group is left out in turn: (K⁻¹)_GG⁻¹ (K⁻¹ y)_G."""
    weights = inverse @ values
    errors = weights / inverse.diagonal()
    names, sizes = np.unique(groups, return_counts=True)
    for name in names[sizes > 1]:
        mine = torch.from_numpy(np.flatnonzero(groups == name))
        errors[mine] = torch.linalg.solve(inverse[mine][:, mine], weights[mine])
    return errors
