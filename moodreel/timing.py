"""Measure the stages of a call, and report each to the observers when it has ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from moodreel.observers import EndedStage, observers


class Stage:
    """A stage that runs in parts, such as one for each frame. The parts may run in any thread, and overlap others'."""

    def __init__(self) -> None:
        self._parts: list[tuple[float, float]] = []
        self._error: str | None = None

    @contextmanager
    def part(self) -> Iterator[None]:
        """Measure a `with` block."""
        start = time.perf_counter()
        try:
            yield
        except BaseException as error:
            self._error = type(error).__name__
            raise
        finally:
            self._parts.append((start, time.perf_counter()))

    def end(self, name: str) -> float:
        """Report the stage to the observers. Returns the milliseconds that the parts took together."""
        parts = tuple(self._parts)
        busy = sum(end - start for start, end in parts)
        if parts:
            started, ended = min(start for start, _ in parts), max(end for _, end in parts)
            observers.stage_ended(EndedStage(name, started, ended, busy, len(parts), self._error))
        return 1000 * busy


@contextmanager
def split_stage(name: str, timings: dict[str, float]) -> Iterator[Stage]:
    """Make a stage, which ends with the `with` block. The milliseconds of its parts are added to `timings[name]`."""
    split = Stage()
    try:
        yield split
    finally:
        timings[name] = timings.get(name, 0.0) + split.end(name)


@contextmanager
def stage(name: str, timings: dict[str, float] | None = None) -> Iterator[None]:
    """Measure a `with` block as a stage. Its milliseconds are added to `timings[name]`."""
    start, error = time.perf_counter(), None
    try:
        yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        end = time.perf_counter()
        if timings is not None:
            timings[name] = timings.get(name, 0.0) + 1000 * (end - start)
        observers.stage_ended(EndedStage(name, start, end, end - start, 1, error))
