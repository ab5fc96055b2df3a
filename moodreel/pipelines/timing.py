"""Measure the stages of a pipeline."""

import time


def elapsed_ms(start: float) -> float:
    """Return the milliseconds since `start`, a reading of `time.perf_counter`."""
    return (time.perf_counter() - start) * 1000
