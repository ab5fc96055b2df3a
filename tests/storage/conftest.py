"""Fixtures of the stores that keep values for seconds."""

from types import SimpleNamespace

import pytest

from moodreel.storage import analysis_store, answer_store, job_store, presence


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the stores."""
    clock = Clock()
    for store in (analysis_store, answer_store, job_store, presence):
        monkeypatch.setattr(store, "time", SimpleNamespace(time=clock, monotonic=clock))
    return clock
