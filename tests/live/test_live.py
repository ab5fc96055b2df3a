"""Live video without HTTP: sessions, scheduling, load control and classification over time."""

import itertools
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from moodreel.emotions import FIVE
from moodreel.errors import ImageTooBig, ModelNotFound, MoodreelError, UnsupportedMedia
from moodreel.faces.features import CropKind
from moodreel.faces.observation import observe_face
from moodreel.faces.person_check import MAX_CHECKS
from moodreel.live.frame import detect_faces
from moodreel.live.load_control import LoadController
from moodreel.live.messages import LiveFailure, LiveResult, SessionSettings, Suggestion
from moodreel.live.scheduler import FrameScheduler
from moodreel.live.session import PersonCheck, SlidingWindow
from moodreel.live.smoothing import EmaSmoother
from moodreel.media.image import ImageLimits
from moodreel.pipelines.engine import Engine
from tests.support import synthetic_frames, synthetic_image
from tests.support.server import STORE

LIMITS = ImageLimits(bytes=200_000, pixels=1_000_000)
FRAME = synthetic_image.encode_image(synthetic_frames.face_frames(1, 640, 360)[0], quality=80)
EMPTY = synthetic_image.encode_image(np.full((90, 160, 3), 120, np.uint8))


class SlowLandmarker:
    """A landmarker that detects no face and takes a given time."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.sides = []

    def detect_once(self, rgb):
        self.sides.append(max(rgb.shape))
        time.sleep(self.seconds)
        return []

    detect = detect_once


def slow_engine(seconds):
    """Make an engine whose landmarker takes `seconds` and whose only model returns nothing."""

    def get(name=None):
        if name not in (None, "fake"):
            raise ModelNotFound(f"There is no model {name!r}.")
        return SimpleNamespace(
            crop_kind=CropKind.GRAY,
            info=SimpleNamespace(name="fake", labels=()),
            embed_faces=lambda faces: [],
            classify_windows=lambda windows: [],
        )

    return SimpleNamespace(landmarker=SlowLandmarker(seconds), models=SimpleNamespace(get=get), facial_actions=None)


class RecordingClient:
    """A session at a scheduler that records its outcomes."""

    def __init__(self, scheduler, **settings):
        self.outcomes = []
        self.scheduler = scheduler
        self.client = scheduler.open_session(SessionSettings(**settings), self.outcomes.append)

    def submit(self, data=EMPTY, **more):
        return self.scheduler.submit(self.client, data, **more)

    def wait(self, count=1, kind=LiveResult):
        deadline = time.monotonic() + 60
        while len(self.all(kind)) < count:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.005)
        return self.all(kind)

    def all(self, kind=LiveResult):
        return [outcome for outcome in self.outcomes if isinstance(outcome, kind)]


@pytest.fixture
def make_scheduler():
    schedulers = []

    def make(engine, **options):
        schedulers.append(FrameScheduler(engine, LIMITS, **options))
        return schedulers[-1]

    yield make
    for scheduler in schedulers:
        scheduler.close()


@pytest.fixture(scope="module")
def engine():
    return Engine.load(STORE)


def test_a_frame_is_answered_with_faces_and_the_clients_sequence_and_time(make_scheduler, engine):
    recorder = RecordingClient(make_scheduler(engine), explain=True)
    recorder.submit(FRAME, sequence=7, time=12.5)
    [result] = recorder.wait()
    assert (result.frame.sequence, result.frame.time, result.width, result.height) == (7, 12.5, 640, 360)
    [face] = result.faces
    assert face.emotion == "Happy"
    assert sum(face.probabilities.values()) == pytest.approx(1)
    assert face.actions[0].name == face.explanation.actions[0].name == "lip corners up"
    x, y, w, h = face.box
    assert 0 < x < x + w < 640 and 0 < y < y + h < 360
    assert (result.frames, result.dropped) == (1, 0)
    assert result.latency_ms >= result.queued_ms >= 0


def test_a_drawn_face_is_none(make_scheduler, engine):
    recorder = RecordingClient(make_scheduler(engine))
    recorder.submit(synthetic_image.encode_image(synthetic_frames.cartoon(640, 360), quality=80))
    [result] = recorder.wait()
    assert result.faces == ()


class PortraitScorer:
    """A landmarker that scores every portrait alike, and counts the calls."""

    def __init__(self, score):
        self.score, self.calls = score, 0

    def score_centered_face(self, rgb):
        self.calls += 1
        return self.score


@pytest.fixture
def live_face(engine):
    [face] = detect_faces(engine.landmarker, FRAME, LIMITS, side=640).faces
    return face


def test_a_person_is_checked_a_few_times_and_no_more(live_face):
    check, scorer = PersonCheck(), PortraitScorer(0.9)
    assert all(check.update(scorer, live_face, frame / 15) for frame in range(15 * 60))
    assert scorer.calls == 3 * MAX_CHECKS


def test_a_face_that_is_none_at_first_sight_is_checked_again_until_it_is_a_persons(live_face):
    check = PersonCheck()
    assert not any(check.update(PortraitScorer(0.2), live_face, frame / 15) for frame in range(15 * 10))
    later = [check.update(PortraitScorer(0.9), live_face, 10 + frame / 15) for frame in range(15 * 2)]
    assert not later[0] and later[-1]


def test_boxes_are_in_pixels_of_the_sent_frame_at_any_processing_size(make_scheduler, engine):
    boxes = []
    for side in (640, 320):
        recorder = RecordingClient(make_scheduler(engine), side=side)
        recorder.submit(FRAME)
        boxes.append(recorder.wait()[0].faces[0].box)
    assert boxes[0] == pytest.approx(boxes[1], abs=8)


def test_a_person_keeps_the_id_when_the_client_sends_smaller_frames(make_scheduler, engine):
    [rgb] = synthetic_frames.face_frames(1, 640, 360)
    right = np.roll(rgb, 150, axis=1)
    recorder = RecordingClient(make_scheduler(engine))
    for count, width in enumerate((640, 480, 320, 640), 1):
        frame = cv2.resize(right, (width, width * 9 // 16), interpolation=cv2.INTER_AREA)
        recorder.submit(synthetic_image.encode_image(frame, quality=90))
        recorder.wait(count)
    assert [[face.track for face in result.faces] for result in recorder.all()] == [[0]] * 4


def test_another_model_answers_with_its_own_labels(make_scheduler, engine):
    recorder = RecordingClient(make_scheduler(engine), frame_rate=30)
    recorder.submit(FRAME)
    recorder.wait()
    recorder.scheduler.configure(recorder.client, SessionSettings(model="face-expression"))
    recorder.submit(FRAME)
    first, second = recorder.wait(2)
    assert (set(first.faces[0].probabilities), first.model) == (set(FIVE), "moodreel-five")
    assert (second.faces[0].emotion, second.model) == ("happy", "face-expression")
    assert first.faces[0].track == second.faces[0].track


def test_a_missing_model_changes_nothing(make_scheduler, engine):
    scheduler = make_scheduler(engine)
    with pytest.raises(ModelNotFound):
        scheduler.open_session(SessionSettings(model="unknown"), print)
    recorder = RecordingClient(scheduler)
    with pytest.raises(ModelNotFound):
        scheduler.configure(recorder.client, SessionSettings(model="unknown"))
    assert recorder.client.session.settings.model is None


def test_the_largest_face_is_kept_until_another_is_clearly_larger(make_scheduler, engine):
    first, _ = synthetic_frames.two_heads(270)
    image = np.full((360, 640, 3), 150, np.uint8)
    image[30:300, 20:290] = first
    image[30:300, 340:610] = first
    scheduler = make_scheduler(engine)
    one, both = RecordingClient(scheduler, faces="largest", frame_rate=30), RecordingClient(scheduler, frame_rate=30)
    for step in range(4):
        frame = synthetic_image.encode_image(np.roll(image, step % 2, axis=1), quality=90)
        one.submit(frame)
        both.submit(frame)
        one.wait(step + 1)
        both.wait(step + 1)
    assert {len(result.faces) for result in both.all()} == {2}
    assert len({face.track for result in one.all() for face in result.faces}) == 1


def test_a_client_faster_than_the_server_gets_the_newest_frame_and_the_dropped_count(make_scheduler):
    recorder = RecordingClient(make_scheduler(slow_engine(0.1)), frame_rate=30)
    displaced = []
    for number in range(200):
        displaced.append(recorder.submit(sequence=number))
        time.sleep(0.002)
    while recorder.client.pending is not None or recorder.client.busy:
        time.sleep(0.01)
    results = recorder.wait()
    sequences = [result.frame.sequence for result in results]
    assert sequences == sorted(sequences)
    assert sequences[-1] == 199
    assert results[-1].frames + results[-1].dropped == 200
    assert results[-1].dropped == sum(frame is not None for frame in displaced) > 150


def test_the_frame_rate_is_limited_to_the_requested_one(make_scheduler):
    engine = slow_engine(0)
    recorder = RecordingClient(make_scheduler(engine), frame_rate=5)
    began = time.monotonic()
    while time.monotonic() < began + 1:
        recorder.submit()
        time.sleep(0.005)
    seconds = time.monotonic() - began
    assert len(engine.landmarker.sides) <= 5 * seconds / 0.9 + 2


def test_a_flooding_client_does_not_starve_others(make_scheduler):
    scheduler = make_scheduler(slow_engine(0.02))
    flood, calm = RecordingClient(scheduler, frame_rate=30), RecordingClient(scheduler, frame_rate=30)
    stop = threading.Event()

    def send():
        while not stop.is_set():
            flood.submit()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for count in range(1, 11):
            calm.submit()
            calm.wait(count)
    finally:
        stop.set()
        sender.join()
    assert calm.client.session.dropped == 0
    assert flood.client.session.dropped > 100


HOSTILE = {
    "nothing": b"",
    "no image": b"hello",
    "a PNG": synthetic_image.encode_image(np.zeros((8, 8, 3), np.uint8), "PNG"),
    "a GIF": b"GIF89a" + bytes(40),
    "more bytes than allowed": EMPTY + bytes(LIMITS.bytes),
}
BROKEN = {
    "a JPEG's first bytes": b"\xff\xd8\xff",
    "a tenth of a JPEG": FRAME[: len(FRAME) // 10],
    "a JPEG without image data": FRAME[: FRAME.index(b"\xff\xda")] + b"\xff\xd9",
    "more pixels than allowed": synthetic_image.encode_image(np.zeros((1200, 1200, 3), np.uint8)),
    "scan after scan": EMPTY[:-2] + EMPTY[EMPTY.index(b"\xff\xda") : -2] * 40 + b"\xff\xd9",
}
TINY = {
    "one pixel": synthetic_image.encode_image(np.zeros((1, 1, 3), np.uint8)),
    "one line": synthetic_image.encode_image(np.zeros((1, 3000, 3), np.uint8)),
    "grey": synthetic_image.encode_image(np.zeros((50, 50), np.uint8)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_invalid_data_is_rejected_before_it_is_queued(make_scheduler, data):
    recorder = RecordingClient(make_scheduler(slow_engine(0)))
    with pytest.raises((UnsupportedMedia, ImageTooBig)):
        recorder.submit(data)
    assert recorder.client.pending is None


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_an_undecodable_frame_is_reported_and_the_session_continues(make_scheduler, data):
    recorder = RecordingClient(make_scheduler(slow_engine(0)), frame_rate=30)
    recorder.submit(data, sequence=1)
    [failure] = recorder.wait(kind=LiveFailure)
    assert isinstance(failure.error, MoodreelError)
    assert failure.frame.sequence == 1
    recorder.submit(sequence=2)
    assert recorder.wait()[0].dropped == 1


@pytest.mark.parametrize("data", TINY.values(), ids=TINY)
def test_tiny_and_gray_frames_are_answered(make_scheduler, engine, data):
    recorder = RecordingClient(make_scheduler(engine))
    recorder.submit(data)
    assert recorder.wait()[0].faces == ()


def test_an_internal_error_costs_one_frame_and_no_thread(make_scheduler, caplog):
    engine = slow_engine(0)
    recorder = RecordingClient(make_scheduler(engine), frame_rate=30)
    engine.landmarker.detect = engine.landmarker.detect_once = lambda rgb: 1 / 0
    recorder.submit()
    assert recorder.wait(kind=LiveFailure)[0].error is None
    del engine.landmarker.detect, engine.landmarker.detect_once
    recorder.submit()
    recorder.wait()
    assert "ZeroDivisionError" in caplog.text


def test_a_failing_callback_does_not_affect_other_sessions(make_scheduler):
    scheduler = make_scheduler(slow_engine(0))
    client = scheduler.open_session(SessionSettings(), lambda outcome: 1 / 0)
    scheduler.submit(client, EMPTY)
    recorder = RecordingClient(scheduler)
    recorder.submit()
    recorder.wait()


def test_a_closed_session_gets_no_result_and_frees_its_state(make_scheduler):
    scheduler = make_scheduler(slow_engine(0.1))
    recorder = RecordingClient(scheduler)
    recorder.submit()
    recorder.wait()
    recorder.submit()
    scheduler.close_session(recorder.client)
    scheduler.close_session(recorder.client)
    time.sleep(0.3)
    assert len(recorder.outcomes) == 1
    assert not scheduler._sessions
    assert recorder.client.pending is None


def test_a_pause_resets_the_face_tracks(make_scheduler, engine):
    recorder = RecordingClient(make_scheduler(engine), frame_rate=30)
    for count in range(1, 4):
        recorder.submit(FRAME)
        recorder.wait(count)
    recorder.scheduler.pause(recorder.client)
    recorder.submit(FRAME)
    assert [result.faces[0].track for result in recorder.wait(4)] == [0, 0, 0, 0]
    assert recorder.client.session.frames == 4


def test_a_pause_during_a_frame_takes_effect_after_it(make_scheduler, engine):
    predictor = engine.models.get()

    def classify_windows(windows):
        recorder.scheduler.pause(recorder.client)
        return predictor.classify_windows(windows)

    interrupted = SimpleNamespace(**{name: getattr(predictor, name) for name in ("crop_kind", "info", "embed_faces")})
    interrupted.classify_windows = classify_windows
    store = SimpleNamespace(get=lambda _name=None: interrupted)
    recorder = RecordingClient(
        make_scheduler(
            SimpleNamespace(landmarker=engine.landmarker, facial_actions=engine.facial_actions, models=store)
        )
    )
    recorder.submit(FRAME)
    assert recorder.wait()[0].faces
    deadline = time.monotonic() + 60
    while recorder.client.session.model is not None:
        assert time.monotonic() < deadline, "the face tracks are not reset"
        time.sleep(0.005)


def test_many_sessions_leak_no_threads(make_scheduler):
    scheduler = make_scheduler(slow_engine(0), threads=2)
    before = threading.active_count()
    for _ in range(100):
        recorder = RecordingClient(scheduler)
        recorder.submit()
        scheduler.close_session(recorder.client)
    assert not scheduler._sessions
    assert threading.active_count() <= before + 2


def test_smoothing_does_not_depend_on_the_frame_rate():
    after = []
    for fps in (5, 15, 30):
        smoother = EmaSmoother()
        smoother.update(0.0, np.array([1.0, 0.0]), 0.5)
        for frame in range(1, fps + 1):
            value = smoother.update(frame / fps, np.array([0.0, 1.0]), 0.5)
        after.append(value)
    assert np.allclose(after, np.array([np.exp(-2), 1 - np.exp(-2)]))


def test_smoothing_may_be_off_and_timestamps_may_repeat():
    smoother = EmaSmoother()
    smoother.update(0.0, np.array([1.0, 0.0]), 0)
    assert smoother.update(0.0, np.array([0.0, 1.0]), 0).tolist() == [0, 1]
    assert smoother.update(0.0, np.array([1.0, 0.0]), 1.0).tolist() == [0, 1]


@pytest.mark.parametrize("fps", [4, 5, 7.5, 15, 30])
def test_a_window_has_five_samples_a_second_at_any_frame_rate(fps):
    window = SlidingWindow()
    for frame in range(int(6 * fps)):
        samples = window.add(frame / fps, frame)
    assert samples[-1] == frame
    assert 12 <= len(samples) <= 16
    sampled = [sample_time for sample_time in samples if sample_time is not None]
    assert sampled == sorted(set(sampled))
    assert (frame - sampled[0]) / fps == pytest.approx(2.9, abs=0.35)


def test_a_window_has_gaps_where_no_face_was_detected():
    window = SlidingWindow()
    for sample_time in (0.0, 0.2, 0.4, 1.4):
        samples = window.add(sample_time, sample_time)
    assert samples == [0.0, 0.2, 0.4, None, None, None, None, 1.4]
    assert window.add(9.0, 9.0) == [9.0]


def test_streaming_classification_equals_classification_of_the_clip(engine):
    detected = [(rgb, *engine.landmarker.detect_once(rgb)) for rgb in synthetic_frames.face_frames(20, 640, 360)]
    for name in ("moodreel-five", "face-expression", "compact-emotimesh"):
        predictor = engine.models.get(name)
        faces = [observe_face(rgb, face, predictor.crop_kind).features for rgb, face in detected]
        observed = [predictor.embed_faces([face])[0] for face in faces]
        [now] = predictor.classify_windows([observed])
        assert now.shape == (len(predictor.info.labels),)
        assert now.sum() == pytest.approx(1, abs=1e-5)
        if name == "moodreel-five":
            # More than sixteen: with fewer, the clip's faces are also classified mirrored.
            [clip] = predictor.predict([faces])
            assert now == pytest.approx(clip.probabilities, abs=1e-4)
            both = predictor.classify_windows([observed, [None, *observed[:3]]])
            assert both[0] == pytest.approx(now, abs=1e-4)


def second(load_controller, now, received, answered, milliseconds, size=(640, 360)):
    """Simulate one second, up to `now`."""
    for _ in range(received):
        load_controller.on_received()
    for _ in range(answered):
        load_controller.on_answered(milliseconds)
    return load_controller.update(now, size)


def test_a_server_that_keeps_up_suggests_nothing_and_keeps_the_frame_size():
    load_controller = LoadController(640, 15, 0)
    assert [second(load_controller, now, 15, 15, 30) for now in range(1, 60)] == [None] * 59
    assert load_controller.side == 640


def test_an_overloaded_server_reduces_the_frame_size_and_raises_it_again():
    load_controller = LoadController(640, 15, 0)
    sides = []
    for now in range(1, 40):
        slow = now <= 6
        second(load_controller, now, 15, 5 if slow else 15, 300 if slow else 30)
        sides.append(load_controller.side)
    assert sides[5] < 480
    assert min(sides) >= 256
    assert sides[-1] == 640
    # One step at a time, and never twice within the pause that a step up needs.
    steps = [(old, new) for old, new in itertools.pairwise(sides) if old != new]
    assert len(steps) == len(set(steps))


def test_failed_size_increases_are_retried_with_growing_delays():
    load_controller = LoadController(640, 15, 0)
    sides = []
    for now in range(1, 200):
        slow = load_controller.side > 480
        second(load_controller, now, 15, 5 if slow else 15, 300 if slow else 30)
        sides.append(load_controller.side)
    ups = [now for now, (old, new) in enumerate(itertools.pairwise(sides)) if new > old]
    waits = np.diff(ups)
    assert len(ups) >= 3
    assert (np.diff(waits) > 0).all()


def test_suggestions_have_values_are_rate_limited_and_are_withdrawn():
    load_controller = LoadController(640, 15, 0)
    suggestions = []
    for now in range(1, 40):
        slow = now <= 15
        suggestion = second(load_controller, now, 15, 6 if slow else 15, 250 if slow else 30, (1280, 720))
        if suggestion:
            suggestions.append((now, suggestion))
    assert [suggestion.reason for _, suggestion in suggestions] == ["drops"] * (len(suggestions) - 1) + [None]
    assert all(later - earlier >= 5 for (earlier, _), (later, _) in itertools.pairwise(suggestions))
    first, last = suggestions[0][1], suggestions[-1][1]
    assert first.frame_rate == 6
    assert first.width < 1280 and first.width / first.height == pytest.approx(16 / 9, rel=0.01)
    assert last == Suggestion(None, 15, 1280, 720)


def test_a_client_that_heeds_suggestions_is_never_asked_for_more_until_they_are_withdrawn():
    load_controller = LoadController(640, 15, 0)
    rate, size, suggestions = 15.0, (1280, 720), []
    for now in range(1, 60):
        slow = now <= 30
        suggestion = second(
            load_controller, now, int(rate), min(3, int(rate)) if slow else int(rate), 300 if slow else 30, size
        )
        if suggestion:
            suggestions.append(suggestion)
            rate, size = suggestion.frame_rate, (suggestion.width, suggestion.height)
    assert len(suggestions) > 2
    asked = [(suggestion.frame_rate, suggestion.width) for suggestion in suggestions[:-1]]
    assert asked == sorted(asked, reverse=True)
    assert suggestions[-1] == Suggestion(None, 15, 1280, 720)
    assert size == (1280, 720)


def test_one_slow_second_causes_no_suggestion():
    load_controller = LoadController(640, 15, 0)
    suggestions = [
        second(load_controller, now, 15, 1 if now == 5 else 15, 900 if now == 5 else 30) for now in range(1, 15)
    ]
    assert suggestions == [None] * 14
    assert load_controller.side == 640


def test_high_latency_alone_causes_a_suggestion():
    load_controller = LoadController(640, 15, 0)
    suggestions = [second(load_controller, now, 15, 15, 200) for now in range(1, 4)]
    assert [suggestion.reason for suggestion in suggestions if suggestion] == ["latency"]
    assert suggestions[1].frame_rate == 10


def test_an_excessive_send_rate_causes_a_suggestion_and_keeps_the_frame_size():
    load_controller = LoadController(640, 10, 0)
    suggestions = [second(load_controller, now, 60, 10, 30) for now in range(1, 4)]
    assert [suggestion.reason for suggestion in suggestions if suggestion] == ["rate"]
    assert suggestions[1].frame_rate == 10
    assert load_controller.side == 640


def test_a_slow_scheduler_suggests_and_adapts_by_itself(make_scheduler):
    engine = slow_engine(0.4)
    recorder = RecordingClient(make_scheduler(engine), frame_rate=15)
    big = synthetic_image.encode_image(np.full((480, 854, 3), 120, np.uint8))

    def send_until(enough):
        deadline = time.monotonic() + 60
        while not enough():
            assert time.monotonic() < deadline, recorder.outcomes
            recorder.submit(big)
            time.sleep(0.05)

    # The next frame after a suggestion may not be processed yet.
    send_until(lambda: recorder.all(Suggestion) and min(engine.landmarker.sides) < 640)
    suggestion = recorder.all(Suggestion)[0]
    assert suggestion.reason == "drops"
    assert suggestion.frame_rate < 5
    engine.landmarker.seconds = 0.0
    recorder.scheduler.configure(recorder.client, SessionSettings(frame_rate=5))
    assert recorder.client.session.load_controller.side == 640
