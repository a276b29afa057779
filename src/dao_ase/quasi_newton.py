"""Quasi-Newton steps from forces alone, without a line search: one evaluation of the forces is one step."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

STIFFNESS = 15.0
"""How an atom is held (eV/Å²), as long as nothing is known of it."""
DAMPING = 1.0
"""What is added to every stiffness that is seen (eV/Å²). The soft directions of crystals are anharmonic: in these the bare
step goes too far, and ends in other minima."""
NEAR = 0.05
"""eV/Å. Below this force the damping falls with it: near the minimum it would only slow what is soft, layers and alkali
metals, down to hundreds of steps."""
LONGEST = 0.2
"""Å that an atom moves at most in one step."""
MEMORY = 10
"""Steps that are remembered."""


class QuasiNewton:
    """L-BFGS (Nocedal, Math. Comp. 35, 773, 1980): how the forces changed in past steps is the stiffness along them.

    A step in whose direction the forces grew leads away from a saddle, where what was known before no longer holds; then
    everything is forgotten.
    """

    def __init__(self) -> None:
        self._past: deque[tuple[NDArray[np.float64], NDArray[np.float64]]] = deque(maxlen=MEMORY)
        self._last: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def step(self, force: NDArray[np.float64]) -> NDArray[np.float64]:
        """The displacements (Å) with which to answer forces (eV/Å), a row for each atom."""
        self._learn(force)
        damping = DAMPING * min(1.0, _longest(force) / NEAR)
        step = self._newton(force.ravel(), damping).reshape(force.shape)
        step *= min(1.0, LONGEST / _longest(step))
        self._last = step, force
        return step

    def _learn(self, force: NDArray[np.float64]) -> None:
        if self._last is None:
            return
        step, before = (part.ravel() for part in self._last)
        lost = before - force.ravel()
        if step @ lost > 0:
            self._past.append((step, lost))
        else:
            self._past.clear()

    def _newton(self, force: NDArray[np.float64], damping: float) -> NDArray[np.float64]:
        """The inverse of the damped stiffness times the force, by the two loops of L-BFGS."""
        step, shares = force.copy(), []
        past = [(moved, lost + damping * moved) for moved, lost in self._past]
        for moved, lost in reversed(past):
            shares.append(moved @ step / (moved @ lost))
            step -= shares[-1] * lost
        if past:
            moved, lost = past[-1]
            step *= moved @ lost / (lost @ lost)
        else:
            step /= STIFFNESS
        for (moved, lost), share in zip(past, reversed(shares), strict=True):
            step += moved * (share - lost @ step / (moved @ lost))
        return step


def _longest(rows: NDArray[np.float64]) -> float:
    return float(np.sqrt((rows**2).sum(1).max()))
