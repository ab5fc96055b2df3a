"""The engine: slots, decoding ahead, and the default model."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from moodreel.errors import ModelInvalid, Overloaded
from moodreel.media.video import Frame
from moodreel.observers import observers
from moodreel.pipelines.engine import FRAMES_AHEAD, Engine
from tests.support.server import STORE


@pytest.fixture
def engine():
    engine = Engine(SimpleNamespace(close=lambda: None), None, None, slots=1, wait_seconds=0.05)
    yield engine
    engine.close()


def frames(count, decoded=None, closed=None):
    try:
        for index in range(count):
            if decoded is not None:
                decoded.append(index)
            yield Frame(index / 10, np.full((1, 1, 3), index, np.uint8), (1, 1))
    finally:
        if closed is not None:
            closed.set()


def test_results_come_in_the_order_of_the_frames_whichever_is_ready_first(engine):
    def process(index, frame):
        time.sleep(0.02 if frame.rgb[0, 0, 0] % 2 == 0 else 0)
        return int(frame.rgb[0, 0, 0])

    results, times = [], []
    timings = engine.process_frames(frames(30), process, results.append, progress=times.append)
    assert results == list(range(30))
    assert times == pytest.approx(np.arange(30) / 10)
    assert set(timings) == {"decode", "faces"}
    assert timings["faces"] >= 15 * 20


def test_decoding_pauses_while_enough_frames_wait(engine):
    release, decoded, results = threading.Event(), [], []

    def process(index, frame):
        release.wait(20)
        return frame.time

    worker = threading.Thread(target=engine.process_frames, args=(frames(40, decoded), process, results.append))
    worker.start()
    deadline = time.monotonic() + 20
    while len(decoded) < FRAMES_AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    assert len(decoded) == FRAMES_AHEAD + 1
    release.set()
    worker.join()
    assert len(results) == 40


def test_an_error_stops_decoding_and_drops_the_frames_that_wait(engine):
    processed, closed = [], threading.Event()

    def process(index, frame):
        processed.append(frame.time)
        time.sleep(0.01)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        engine.process_frames(frames(40, closed=closed), process, processed.append)
    assert closed.is_set()
    time.sleep(0.1)
    assert len(processed) <= FRAMES_AHEAD


def test_an_error_of_the_decoder_is_raised_as_it_is(engine):
    def broken():
        yield Frame(0.0, np.zeros((1, 1, 3), np.uint8), (1, 1))
        raise ModelInvalid("not a frame")

    with pytest.raises(ModelInvalid, match="not a frame"):
        engine.process_frames(broken(), lambda _, frame: frame.time, print)
    times = []
    engine.process_frames(frames(2), lambda _, frame: frame.time, times.append)
    assert times == pytest.approx([0, 0.1])


def test_a_slot_is_free_again_after_an_error(engine):
    with pytest.raises(ValueError), engine.slot():
        with pytest.raises(Overloaded), engine.slot():
            raise AssertionError("two at a time")
        raise ValueError
    with engine.slot():
        pass


def test_an_invalid_checkpoint_stops_the_start_unless_a_fallback_is_allowed(tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ModelInvalid):
        Engine.load(STORE, model_path=path)
    assert Engine.load(STORE, model_path=path, model_fallback=True).models.default == "moodreel-five"


def test_observers_are_told_who_waits_for_a_slot(engine, monkeypatch):
    waits = []

    @contextmanager
    def slot_wait():
        waits.append("begins")
        yield
        waits.append("ends")

    monkeypatch.setattr(observers, "slot_wait", slot_wait)
    with engine.slot():
        assert waits == ["begins", "ends"]
        with pytest.raises(Overloaded), engine.slot():
            pass
    assert waits == ["begins", "ends"] * 2
