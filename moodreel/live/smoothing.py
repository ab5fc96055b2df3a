"""Probabilities that hop from frame to frame -> ones that move as a face does."""

import math

import numpy as np


class EmaSmoother:
    """An exponential mean over time, the same whatever the frame rate: after `seconds` two thirds of a change show."""

    def __init__(self) -> None:
        self._value: np.ndarray | None = None
        self._time = 0.0

    def update(self, time: float, value: np.ndarray, seconds: float) -> np.ndarray:
        """Add what was seen at `time` (seconds, never going back) and return the mean; `seconds` 0 smooths nothing."""
        if self._value is None or seconds <= 0:
            self._value = value
        else:
            self._value = self._value + (value - self._value) * -math.expm1(-(time - self._time) / seconds)
        self._time = time
        return self._value
