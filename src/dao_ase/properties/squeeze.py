"""Numbers with long tails on a shorter scale, for readers that measure distances between numbers.

    z = asinh(b (y − c) / s),    y = c + s sinh(z) / b

c is the median and s the mean deviation from it. The order stays, and so does which number is the median of some: what is
best in the mean absolute error of z is nearly best in that of y. With b = 0 numbers stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRENGTH = 2.0
FURTHEST = 12.0
"""The largest |z| that is restored; sinh of much more is no number."""


class Squeeze(nn.Module):
    """z and y of the equations above."""

    settings: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("settings", torch.tensor([0.0, 1.0, 0.0]))  # c, s, b

    def fit(self, values: Tensor, strength: float) -> Squeeze:
        """Takes c and s from these numbers, and b as given."""
        center = values.median()
        scale = (values - center).abs().mean() + 1e-12
        self.settings.copy_(torch.stack([center, scale, torch.as_tensor(strength)]).float())
        return self

    def forward(self, values: Tensor) -> Tensor:
        """z of y."""
        center, scale, strength = self.settings.tolist()
        return torch.asinh(strength * (values - center) / scale) if strength else values

    def restored(self, squeezed: Tensor) -> Tensor:
        """y of z."""
        center, scale, strength = self.settings.tolist()
        return center + scale / strength * torch.sinh(squeezed.clamp(-FURTHEST, FURTHEST)) if strength else squeezed
