"""Smooth values over time."""

import math

import numpy as np


class EmaSmoother:
    """Exponential moving average over time, independent of the frame rate."""

    def __init__(self) -> None:
        self._value: np.ndarray | None = None
        self._time = 0.0

    def update(self, time: float, value: np.ndarray, seconds: float) -> np.ndarray:
        """Add a value and return the average.

        Args:
            time: Monotonic time in seconds.
            value: Array of any shape.
            seconds: Time constant, after which 63 % of a change show; 0 disables smoothing.
        """
        if self._value is None or seconds <= 0:
            self._value = value
        else:
            self._value = self._value + (value - self._value) * -math.expm1(-(time - self._time) / seconds)
        self._time = time
        return self._value
