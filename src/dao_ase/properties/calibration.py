"""From the spread of an ensemble to an uncertainty that is as large as the errors are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WITHIN = 0.683
"""The share of the errors that an uncertainty should cover: one standard deviation of a normal distribution."""


@dataclass(frozen=True)
class Calibration:
    """The uncertainty √(a² + b² spread²), on the scale that is learnt (the logarithm's, where that is learnt)."""

    floor: float
    factor: float

    def uncertainty(self, spread: NDArray[np.float64]) -> NDArray[np.float64]:
        """The uncertainty for these spreads: 68 % of the errors were smaller in cross-validation."""
        return np.sqrt(self.floor**2 + (self.factor * spread) ** 2)


def calibrate(errors: NDArray[np.float64], spread: NDArray[np.float64]) -> Calibration:
    """The a and b with which 68 % of the errors lie within the uncertainty, and large ones have a large uncertainty.

    Of the mixtures of a constant and the spread, that with the greatest likelihood of the errors, taken as Laplace's.
    """
    errors, typical = np.abs(errors), float(spread.mean()) or 1.0
    best, chosen = np.inf, Calibration(0.0, 1.0)
    for constant in np.linspace(0.05, 1, 20):
        shape = np.sqrt(constant * typical**2 + (1 - constant) * spread**2)
        scale = float(np.quantile(errors / shape, WITHIN))
        width = np.maximum(scale * shape, 1e-12)
        cost = float((np.log(width) + errors / width).mean())
        if cost < best:
            best = cost
            chosen = Calibration(scale * float(np.sqrt(constant)) * typical, scale * float(np.sqrt(1 - constant)))
    return chosen


def reliability(
    errors: NDArray[np.float64], uncertainty: NDArray[np.float64], bins: int = 8
) -> list[tuple[float, float, int]]:
    """For crystals sorted by uncertainty, in equal parts: mean uncertainty, the 68 % quantile of the errors, how many."""
    parts = np.array_split(np.argsort(uncertainty, kind="stable"), min(bins, max(1, len(errors) // 5)))
    return [
        (float(uncertainty[part].mean()), float(np.quantile(np.abs(errors[part]), WITHIN)), len(part))
        for part in parts
        if len(part)
    ]
