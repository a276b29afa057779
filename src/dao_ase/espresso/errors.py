"""Why a calculation has no result, and what to do about it."""

from __future__ import annotations

from typing import Literal

Kind = Literal["no program", "no pseudopotential", "not converged", "out of time", "failed", "unreadable"]


class EspressoError(RuntimeError):
    """A calculation without a result. ``kind`` says why in a word, the message what to do."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind
