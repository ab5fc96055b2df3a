import threading

import cv2
import numpy as np
import pytest

from moodreel.emotions import FIVE
from moodreel.errors import ModelNotFound, NoFace, Overloaded, UnsupportedMedia, VideoTooLong
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.boomerang import LoopOptions
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.video import VideoPipeline
from tests.support import synthetic_frames, synthetic_video
from tests.support.server import STORE


@pytest.fixture(scope="module")
def pipeline():
    return VideoPipeline(Engine.load(STORE), limits=VideoLimits(seconds=10))


def test_a_smile_is_happy_and_the_result_is_complete(pipeline):
    result = pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(100)))
    assert result.emotion == "Happy"
    assert tuple(result.probabilities) == FIVE
    assert sum(result.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert result.confidence == result.probabilities["Happy"] == max(result.probabilities.values())
    assert result.face_coverage == 1.0
    assert result.duration == pytest.approx(4.0)
    assert result.frames_analysed == len(result.timeline) == 13
    assert (result.width, result.height) == (320, 240)
    assert set(result.timings) == {"decode", "faces", "model"}


def test_a_smile_is_explained_by_the_lip_corners(pipeline):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(25))
    assert pipeline.predict(data).explanation is None
    explanation = pipeline.predict(data, explain=True).explanation
    assert explanation.actions[0].name == "lip corners up"
    assert 0.5 < explanation.actions[0].weight <= 1
    seven = pipeline.predict(data, model="face-expression", explain=True).explanation
    assert seven.actions[0].name == "lip corners up", "whatever set of labels the model has"


def test_the_timeline_follows_the_face_in_pixels_of_the_upright_video(pipeline):
    data = synthetic_video.encode_video(synthetic_frames.face_frames(100, 640, 480))
    timeline = pipeline.predict(data).timeline
    assert [point.time for point in timeline] == pytest.approx(np.arange(13) * 0.32, abs=0.01)
    lefts = [point.box[0] for point in timeline]
    assert lefts[-1] - lefts[0] == pytest.approx(96, abs=10), "the face drifts a pixel a frame"
    x, y, w, h = timeline[0].box
    assert 200 < x < x + w < 440 and 60 < y < y + h < 440


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_video_gives_the_same_result(pipeline, rotation):
    upright = synthetic_frames.face_frames(20, 240, 320)
    stored = [np.rot90(frame, -rotation // 90) for frame in upright]
    turned = pipeline.predict(synthetic_video.encode_video(stored, rotation=rotation))
    plain = pipeline.predict(synthetic_video.encode_video(upright))
    assert (turned.width, turned.height) == (240, 320)
    assert turned.emotion == plain.emotion == "Happy"
    assert turned.timeline[0].box == pytest.approx(plain.timeline[0].box, abs=6)


def test_a_face_in_part_of_the_video_is_enough(pipeline):
    result = pipeline.predict(
        synthetic_video.encode_video(synthetic_frames.noise_frames(25) + synthetic_frames.face_frames(25))
    )
    assert result.emotion == "Happy"
    assert result.face_coverage == pytest.approx(0.5, abs=0.11)
    assert min(point.time for point in result.timeline) == pytest.approx(1.0, abs=0.21)


def test_the_face_that_is_larger_over_time_answers_and_both_are_in_the_timeline(pipeline):
    large, small = synthetic_frames.face_frames(25, 400, 400), synthetic_frames.face_frames(25, 300, 300)
    frames = [
        np.hstack([cv2.copyMakeBorder(b, 50, 50, 20, 20, cv2.BORDER_REPLICATE), a])
        for a, b in zip(large, small, strict=True)
    ]
    result = pipeline.predict(synthetic_video.encode_video(frames))
    boxes = {point.track: point.box for point in result.timeline}
    for track in boxes:
        assert sum(point.weight for point in result.timeline if point.track == track) == pytest.approx(1, abs=1e-4)
    assert len(boxes) == 2
    assert boxes[result.track][2] == max(box[2] for box in boxes.values())


@pytest.mark.parametrize("count", [1, 2])
def test_videos_of_one_and_two_frames_are_classified(pipeline, count):
    result = pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(count)))
    assert (result.emotion, result.frames_analysed) == ("Happy", count)
    assert [point.time for point in result.timeline] == pytest.approx(np.arange(count) * 0.04, abs=0.001)


def test_a_short_video_is_sampled_densely_and_to_its_last_frame(pipeline):
    """The face comes into the last frames of 0.6 s: five samples a second would see one of them, and not the last."""
    data = synthetic_video.encode_video(synthetic_frames.noise_frames(10) + synthetic_frames.face_frames(5))
    result = pipeline.predict(data)
    assert 11 <= result.frames_analysed <= 13
    assert result.duration == pytest.approx(0.6)
    times = [point.time for point in result.timeline]
    assert len(times) >= 3
    assert times[-1] == pytest.approx(0.56)
    assert 0.4 <= result.peak <= 0.56
    thumbnail = pipeline.thumbnail(data, LoopOptions(duration=1.0))
    assert (thumbnail.emotion, thumbnail.frames_analysed) == ("Happy", result.frames_analysed)
    assert thumbnail.boomerang.peak == pytest.approx(result.peak)


def test_a_good_video_is_certain_and_its_quality_is_that_of_the_face(pipeline):
    result = pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(75, 640, 480)))
    quality = result.quality
    assert (result.certain, quality.reason, quality.tip) == (True, None, None)
    assert quality.face_coverage == result.face_coverage
    assert quality.size == pytest.approx(np.median([max(point.box[2:]) for point in result.timeline]), abs=1)
    assert 0.4 < quality.brightness < 0.8
    assert 0 <= quality.yaw < 20


def test_a_person_who_leaves_and_returns_is_one(pipeline):
    faces, nobody = synthetic_frames.face_frames(10), [np.full((240, 320, 3), 120, np.uint8)] * 20
    frames = [*faces, *nobody, *(np.roll(frame, 60, axis=1) for frame in faces)]
    result = pipeline.predict(synthetic_video.encode_video(frames, fps=5))
    assert result.emotion == "Happy"
    assert result.face_coverage == pytest.approx(0.5, abs=0.03)
    assert {point.track for point in result.timeline} == {0}
    assert sum(point.weight for point in result.timeline) == pytest.approx(1, abs=1e-4)


def test_a_face_in_one_stray_frame_is_none(pipeline):
    nobody = [np.full((240, 320, 3), 120, np.uint8)] * 10
    with pytest.raises(NoFace):
        pipeline.predict(synthetic_video.encode_video([*nobody, *synthetic_frames.face_frames(1), *nobody], fps=5))


def test_an_upside_down_video_gives_the_boxes_of_its_own_pixels(pipeline):
    frames = synthetic_frames.face_frames(20)
    upright = pipeline.predict(synthetic_video.encode_video(frames))
    turned = pipeline.predict(synthetic_video.encode_video([frame[::-1, ::-1] for frame in frames]))
    assert (turned.emotion, turned.face_coverage) == ("Happy", 1.0)
    x, y, w, h = upright.timeline[0].box
    assert turned.timeline[0].box == pytest.approx((320 - x - w, 240 - y - h, w, h), abs=6)


def test_a_video_of_a_drawn_face_has_no_face(pipeline):
    data = synthetic_video.encode_video([synthetic_frames.cartoon()] * 10)
    with pytest.raises(NoFace):
        pipeline.predict(data)
    thumbnail = pipeline.thumbnail(data, LoopOptions(duration=1.0))
    assert (thumbnail.emotion, thumbnail.certain) == (None, None)


SPOILT = {
    "dark": lambda frame: frame // 12,
    "bright": lambda frame: np.minimum(frame * 2.2, 255).astype(np.uint8),
    "blurred": lambda frame: cv2.GaussianBlur(frame, (0, 0), 3.5),
    "small": lambda frame: cv2.resize(frame, (56, 42), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("reason", SPOILT)
def test_a_bad_video_is_uncertain_with_a_reason(pipeline, reason):
    frames = [SPOILT[reason](frame) for frame in synthetic_frames.face_frames(10)]
    result = pipeline.predict(synthetic_video.encode_video(frames, options={"crf": "12"}))
    assert (result.certain, result.quality.reason) == (False, reason)


def test_a_face_in_a_small_part_of_the_video_is_uncertain(pipeline):
    result = pipeline.predict(
        synthetic_video.encode_video(synthetic_frames.noise_frames(85) + synthetic_frames.face_frames(15))
    )
    assert result.face_coverage < 0.2
    assert (result.certain, result.quality.reason) == (False, "little_face")


def test_quality_is_that_of_the_main_face(pipeline):
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
    assert len({point.track for point in both.timeline}) == 2
    assert both.quality.reason is None
    assert both.quality.brightness == pytest.approx(alone.quality.brightness, abs=0.02)
    assert both.quality.size == pytest.approx(alone.quality.size, abs=10)


def test_the_result_does_not_depend_on_earlier_calls(pipeline):
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
def test_an_error_does_not_break_the_pipeline(pipeline, data, error):
    with pytest.raises(error):
        pipeline.predict(data)
    assert pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(3))).emotion == "Happy"


def test_an_unknown_model_is_refused_with_the_names_there_are(pipeline):
    with pytest.raises(ModelNotFound, match="compact-emotimesh"):
        pipeline.predict(synthetic_video.encode_video(synthetic_frames.face_frames(1)), model="nonsense")


def test_a_thumbnail_turns_at_the_peak_of_the_emotion(pipeline):
    frames = synthetic_frames.noise_frames(40) + synthetic_frames.face_frames(20)
    thumbnail = pipeline.thumbnail(synthetic_video.encode_video(frames), LoopOptions(duration=1.0))
    assert thumbnail.emotion == "Happy"
    assert 1.6 <= thumbnail.boomerang.peak <= 2.4
    assert thumbnail.boomerang.duration <= 1.0
    assert set(thumbnail.timings) == {"decode", "faces", "model", "encode"}


@pytest.mark.parametrize(("aspect", "size"), [("square", (240, 240)), ("portrait", (134, 240))])
def test_a_thumbnail_of_another_aspect_shows_the_face(pipeline, aspect, size):
    """The face is in the left third of a wide video, and drifts to the right."""
    wide = [np.hstack([frame, np.full((240, 400, 3), 90, np.uint8)]) for frame in synthetic_frames.face_frames(50)]
    loop = pipeline.thumbnail(synthetic_video.encode_video(wide), LoopOptions(duration=2, aspect=aspect)).boomerang
    assert (loop.width, loop.height) == size
    shown = pipeline.predict(loop.data)
    assert (shown.emotion, shown.face_coverage) == ("Happy", 1.0)
    for point in shown.timeline:
        x, _, width, _ = point.box
        assert x + width / 2 == pytest.approx(size[0] / 2, abs=size[0] / 8)


@pytest.mark.parametrize("duration", [1.0, 4.0], ids=["after the turn", "longer than since the turn"])
@pytest.mark.parametrize(
    ("aspect", "moment", "size"),
    [
        ("original", "expressive", (320, 240)),
        ("square", "expressive", (240, 240)),
        ("portrait", "expressive", (134, 240)),
        ("original", "whole", (240, 320)),
    ],
)
def test_a_thumbnail_of_a_phone_that_was_turned_has_the_proportions_of_its_moment(
    pipeline, aspect, moment, size, duration
):
    portrait, landscape = synthetic_frames.noise_frames(40, 240, 320), synthetic_frames.face_frames(30)
    landscape = [np.roll(frame, -60, axis=1) for frame in landscape]
    options = LoopOptions(duration=duration, aspect=aspect, moment=moment)
    thumbnail = pipeline.thumbnail(synthetic_video.encode_sizes(portrait, landscape), options)
    loop = thumbnail.boomerang
    assert (loop.width, loop.height) == size
    if moment == "expressive":
        frames = synthetic_video.decode_frames(loop.data)
        assert min(edge.mean() for frame in frames for edge in (frame[:4], frame[-4:])) > 30, "no black borders"
        shown = pipeline.predict(loop.data)
        assert (shown.emotion, shown.face_coverage) == ("Happy", 1.0)


def test_a_thumbnail_without_a_face_shows_the_moment_of_most_motion(pipeline):
    still = synthetic_frames.corner_frames(1, 320, 240) * 50
    data = synthetic_video.encode_video(still + synthetic_frames.noise_frames(10) + still)
    thumbnail = pipeline.thumbnail(data, LoopOptions(duration=1.0))
    assert thumbnail.emotion is None
    assert 1.8 <= thumbnail.boomerang.peak <= 2.6


def test_the_moment_of_most_motion_is_no_cut(pipeline):
    dark, light = [np.full((240, 320, 3), 20, np.uint8)] * 40, [np.full((240, 320, 3), 200, np.uint8)] * 40
    moving = [np.roll(synthetic_frames.corner_frames(1, 320, 240)[0] // 4, 8 * index, axis=1) for index in range(20)]
    data = synthetic_video.encode_video([*dark, *light, *moving, *light])
    assert 3.2 <= pipeline.thumbnail(data).boomerang.peak <= 4.1


def test_a_caller_that_waits_too_long_for_a_slot_is_overloaded():
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
