"""How much each reader counts: the weights with which their mean is best for crystals that they had not seen.

w = argmin Σ_i |y_i − Σ_r w_r ŷ_r(x_i)|,    w_r ≥ 0,  Σ_r w_r = 1,    in steps of 1/STEPS
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

STEPS = 20
DRAWS = 100


def blend_weights(
    said: Float[NDArray[np.float64], "readers crystals"], values: Float[NDArray[np.float64], "crystals"]
) -> NDArray[np.float64]:
    """The weights w of what the readers said of crystals that were left out of their training.

    >>> truth = np.arange(5.0)
    >>> blend_weights(np.stack([truth + 1, truth - 1]), truth)
    array([0.5, 0.5])
    """
    count = len(values)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    mixtures = _simplex(len(said))
    errors = np.stack([drawn @ np.abs(weights @ said - values) for weights in mixtures])
    return mixtures[errors.argmin(0)].mean(0)


def _simplex(readers: int) -> Float[NDArray[np.float64], "mixtures readers"]:
    """All weights in whole steps that sum to one: STEPS steps, parted by readers − 1 bars."""
    places = STEPS + readers - 1
    bars = np.array(list(combinations(range(places), readers - 1)), dtype=np.int64).reshape(-1, readers - 1)
    ends = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, places)))
    return (np.diff(ends, axis=1) - 1) / STEPS
