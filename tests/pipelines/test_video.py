import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from moodreel.emotions import FIVE
from moodreel.errors import ModelNotFound, NoFace, Overloaded, UnsupportedMedia, VideoTooLong
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.video import VideoPipeline
from tests.support import synthetic_frames, synthetic_video

STORE = Path(__file__).parents[2] / "model_store"


@pytest.fixture(scope="module")
def pipeline():
    return VideoPipeline(Engine.load(STORE), limits=VideoLimits(seconds=10))


def test_a_smile_is_happy_with_everything_that_the_answer_promises(pipeline):
    analysis = pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(75)))
    assert analysis.emotion == "Happy"
    assert tuple(analysis.probabilities) == FIVE
    assert sum(analysis.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert analysis.confidence == analysis.probabilities["Happy"] == max(analysis.probabilities.values())
    assert analysis.face_coverage == 1.0
    assert analysis.duration == pytest.approx(3.0)
    assert analysis.frames_analysed == len(analysis.timeline) == 15
    assert (analysis.width, analysis.height) == (320, 240)
    assert set(analysis.timings) == {"decode", "faces", "model"}


def test_a_smile_is_explained_by_the_corners_of_its_lips(pipeline):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(25))
    assert pipeline.predict(data).explanation is None
    explanation = pipeline.predict(data, explain=True).explanation
    assert explanation.actions[0].name == "lip corners up"
    assert 0.5 < explanation.actions[0].weight <= 1
    seven = pipeline.predict(data, model="face-expression", explain=True).explanation
    assert seven.actions[0].name == "lip corners up", "whatever set of labels the model has"


def test_the_timeline_follows_the_face_in_pixels_of_the_upright_video(pipeline):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(75, 640, 480))
    timeline = pipeline.predict(data).timeline
    assert [moment.time for moment in timeline] == pytest.approx(np.arange(15) * 0.2, abs=0.01)
    lefts = [moment.box[0] for moment in timeline]
    assert lefts[-1] - lefts[0] == pytest.approx(70, abs=10), "the face drifts a pixel a frame"
    x, y, w, h = timeline[0].box
    assert 200 < x < x + w < 440 and 60 < y < y + h < 440


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_phone_held_sideways_gives_the_same_answer(pipeline, rotation):
    upright = synthetic_frames.face_frames(20, 240, 320)
    stored = [np.rot90(frame, -rotation // 90) for frame in upright]
    turned = pipeline.predict(synthetic_video.encode_video(stored, rotation=rotation))
    plain = pipeline.predict(synthetic_video.encode_video(upright))
    assert (turned.width, turned.height) == (240, 320)
    assert turned.emotion == plain.emotion == "Happy"
    assert turned.timeline[0].box == pytest.approx(plain.timeline[0].box, abs=6)


def test_a_face_in_part_of_the_clip_is_enough(pipeline):
    analysis = pipeline.predict(
        synthetic_video.encode_video(synthetic_frames.noise_frames(25) + synthetic_frames.face_frames(25))
    )
    assert analysis.emotion == "Happy"
    assert analysis.face_coverage == pytest.approx(0.5, abs=0.11)
    assert min(moment.time for moment in analysis.timeline) == pytest.approx(1.0, abs=0.21)


def test_of_two_faces_the_larger_over_time_is_answered_and_both_are_in_the_timeline(pipeline):
    large, small = synthetic_frames.face_frames(25, 400, 400), synthetic_frames.face_frames(25, 300, 300)
    frames = [
        np.hstack([cv2.copyMakeBorder(b, 50, 50, 20, 20, cv2.BORDER_REPLICATE), a])
        for a, b in zip(large, small, strict=True)
    ]
    analysis = pipeline.predict(synthetic_video.encode_video(frames))
    boxes = {moment.track: moment.box for moment in analysis.timeline}
    for track in boxes:
        assert sum(moment.weight for moment in analysis.timeline if moment.track == track) == pytest.approx(1, abs=1e-4)
    assert len(boxes) == 2
    assert boxes[analysis.track][2] == max(box[2] for box in boxes.values())


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_frames_are_answered(pipeline, count):
    analysis = pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(count)))
    assert (analysis.emotion, analysis.frames_analysed) == ("Happy", count)
    assert [moment.time for moment in analysis.timeline] == pytest.approx(np.arange(count) * 0.04, abs=0.001)


def test_a_short_clip_is_looked_at_closer_and_to_its_last_frame(pipeline):
    """The face comes into the last frames of 0.6 s: five samples a second would see one of them, and not the last."""
    data = synthetic_video.encode_video(synthetic_frames.noise_frames(10) + synthetic_frames.face_frames(5))
    analysis = pipeline.predict(data)
    assert 11 <= analysis.frames_analysed <= 13
    assert analysis.duration == pytest.approx(0.6)
    times = [moment.time for moment in analysis.timeline]
    assert len(times) >= 3
    assert times[-1] == pytest.approx(0.56)
    assert 0.4 <= analysis.peak <= 0.56
    cover = pipeline.thumbnail(data, duration=1.0)
    assert (cover.emotion, cover.frames_analysed) == ("Happy", analysis.frames_analysed)
    assert cover.boomerang.peak == pytest.approx(analysis.peak)


def test_a_good_clip_is_certain_and_its_measures_are_those_of_the_face(pipeline):
    analysis = pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(75, 640, 480)))
    quality = analysis.quality
    assert (analysis.certain, quality.reason, quality.tip) == (True, None, None)
    assert quality.face_coverage == analysis.face_coverage
    assert quality.size == pytest.approx(np.median([max(moment.box[2:]) for moment in analysis.timeline]), abs=1)
    assert 0.4 < quality.brightness < 0.8
    assert 0 <= quality.yaw < 20


SPOILT = {
    "dark": lambda frame: frame // 12,
    "bright": lambda frame: np.minimum(frame * 2.2, 255).astype(np.uint8),
    "blurred": lambda frame: cv2.GaussianBlur(frame, (0, 0), 4),
    "small": lambda frame: cv2.resize(frame, (56, 42), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("reason", SPOILT)
def test_a_spoilt_clip_is_not_certain_and_says_why(pipeline, reason):
    frames = [SPOILT[reason](frame) for frame in synthetic_frames.face_frames(10)]
    analysis = pipeline.predict(synthetic_video.encode_video(frames, options={"crf": "12"}))
    assert (analysis.certain, analysis.quality.reason) == (False, reason)


def test_a_face_in_a_small_part_of_the_clip_is_not_enough_to_be_certain(pipeline):
    analysis = pipeline.predict(
        synthetic_video.encode_video(synthetic_frames.noise_frames(65) + synthetic_frames.face_frames(10))
    )
    assert analysis.face_coverage < 0.2
    assert (analysis.certain, analysis.quality.reason) == (False, "little_face")


def test_only_the_answered_face_is_judged(pipeline):
    """A second, smaller face in the shade beside the first counts for nothing."""
    large, small = synthetic_frames.face_frames(10, 400, 400), synthetic_frames.face_frames(10, 300, 300)
    frames = [
        np.hstack([cv2.copyMakeBorder(b // 4, 50, 50, 20, 20, cv2.BORDER_REPLICATE), a])
        for a, b in zip(large, small, strict=True)
    ]
    both, alone = (
        pipeline.predict(synthetic_video.encode_video(frames)),
        pipeline.predict(synthetic_video.encode_video(large)),
    )
    assert len({moment.track for moment in both.timeline}) == 2
    assert both.quality.reason is None
    assert both.quality.brightness == pytest.approx(alone.quality.brightness, abs=0.02)
    assert both.quality.size == pytest.approx(alone.quality.size, abs=10)


def test_the_same_clip_gives_the_same_answer_whatever_came_before(pipeline):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(25))
    first = pipeline.predict(data)
    pipeline.predict(synthetic_video.encode_video([frame[:, ::-1] for frame in synthetic_frames.face_frames(25)]))
    assert pipeline.predict(data).probabilities == first.probabilities


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (synthetic_video.encode_video(synthetic_frames.noise_frames(10)), NoFace),
        (b"not a video", UnsupportedMedia),
        (synthetic_video.encode_video(synthetic_frames.counter_frames(12), fps=1), VideoTooLong),
    ],
    ids=["no face", "no video", "too long"],
)
def test_what_cannot_be_answered_is_refused_by_name_and_the_pipeline_goes_on(pipeline, data, error):
    with pytest.raises(error):
        pipeline.predict(data)
    assert pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(3))).emotion == "Happy"


def test_an_unknown_model_is_refused_with_the_names_there_are(pipeline):
    with pytest.raises(ModelNotFound, match="compact-emotimesh"):
        pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(1)), model="nonsense")


def test_a_cover_turns_at_the_peak_of_the_answered_emotion(pipeline):
    frames = synthetic_frames.noise_frames(40) + synthetic_frames.face_frames(20)
    cover = pipeline.thumbnail(synthetic_video.encode_video(frames), duration=1.0)
    assert cover.emotion == "Happy"
    assert 1.6 <= cover.boomerang.peak <= 2.4
    assert cover.boomerang.duration <= 1.0
    assert set(cover.timings) == {"decode", "faces", "model", "encode"}


def test_a_cover_without_a_face_shows_the_liveliest_moment(pipeline):
    still = synthetic_frames.corner_frames(1, 320, 240) * 50
    data = synthetic_video.encode_video(still + synthetic_frames.noise_frames(10) + still)
    cover = pipeline.thumbnail(data, duration=1.0)
    assert cover.emotion is None
    assert 1.8 <= cover.boomerang.peak <= 2.6


def test_a_caller_who_waits_too_long_for_a_slot_is_told_so():
    pipeline = VideoPipeline(Engine.load(STORE, slots=1, wait_seconds=0.05))
    inside, leave = threading.Event(), threading.Event()

    def hold(_time: float) -> None:
        inside.set()
        leave.wait(20)

    data = synthetic_video.encode_video(synthetic_frames.face_frames(2))
    holder = threading.Thread(target=pipeline.predict, args=(data,), kwargs={"progress": hold})
    holder.start()
    try:
        assert inside.wait(20)
        with pytest.raises(Overloaded):
            pipeline.predict(data)
    finally:
        leave.set()
        holder.join()
    assert pipeline.predict(data).emotion == "Happy"
