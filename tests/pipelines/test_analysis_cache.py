"""Analyses that are recalled: the same answers as new ones, from numbers alone."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from moodreel.errors import NoFace, VideoCorrupt
from moodreel.media.video import VideoReader
from moodreel.pipelines.boomerang import LoopOptions
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.video import VideoPipeline
from tests.support import synthetic_frames, synthetic_video

LOOP = LoopOptions(duration=1.0, size=160)


@pytest.fixture
def cache() -> "DictCache":
    return DictCache()


@pytest.fixture
def pipeline(engine: Engine, cache: "DictCache") -> VideoPipeline:
    return VideoPipeline(engine, cache=cache)


class DictCache:
    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.hits = 0

    def get(self, key: str) -> str | None:
        self.hits += key in self.texts
        return self.texts.get(key)

    def put(self, key: str, text: str) -> None:
        self.texts[key] = text


@pytest.fixture(scope="module")
def smile() -> bytes:
    frames = synthetic_frames.noise_frames(15) + synthetic_frames.face_frames(45)
    return synthetic_video.encode_video(frames, options={"g": "12"})


def test_a_recalled_prediction_is_the_same(pipeline: VideoPipeline, cache: DictCache, smile: bytes) -> None:
    first, second = pipeline.predict(smile, explain=True), pipeline.predict(smile, explain=True)
    assert (cache.hits, len(cache.texts)) == (1, 1)
    assert {**vars(second), "timings": {}} == {**vars(first), "timings": {}}
    assert second.timings.keys() == {"decode", "faces", "model", "cache"}
    assert second.timings["decode"] == 0 < first.timings["decode"]
    assert pipeline.predict(smile).explanation is None


@pytest.mark.parametrize("rotation", [None, 90])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_loop_of_a_recalled_analysis_is_the_same(
    engine: Engine, pipeline: VideoPipeline, cache: DictCache, container: str, rotation: int | None
) -> None:
    frames = synthetic_frames.noise_frames(15) + synthetic_frames.face_frames(45)
    if rotation:
        frames = [np.rot90(frame, -1) for frame in frames]
    clip = synthetic_video.encode_video(frames, container=container, rotation=rotation, options={"g": "12"})
    alone = VideoPipeline(engine).thumbnail(clip, LOOP)
    pipeline.predict(clip)
    recalled, in_one_call = pipeline.thumbnail(clip, LOOP), pipeline.predict(clip, loop=LOOP)
    assert cache.hits == 2
    assert recalled.timings.keys() == {"decode", "faces", "model", "cache", "encode"}
    for result in (recalled, in_one_call):
        assert result.emotion == alone.emotion == "Happy"
        loop = result.boomerang
        assert loop is not None
        assert (loop.peak, loop.width, loop.height) == (
            alone.boomerang.peak,
            alone.boomerang.width,
            alone.boomerang.height,
        )
        # Where the loop begins depends on the motion in a few frames, which were scaled once or twice.
        assert loop.start == pytest.approx(alone.boomerang.start, abs=0.1)
        assert np.abs(picture(loop.poster) - picture(alone.boomerang.poster)).mean() < 4


def picture(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)), dtype=float)


def test_a_recalled_loop_decodes_its_own_moment_only(
    pipeline: VideoPipeline, smile: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = pipeline.predict(smile).peak
    starts = []
    loop_frames = VideoReader.loop_frames

    def record(self: VideoReader, **options: float) -> object:
        starts.append(options.get("start", 0.0))
        return loop_frames(self, **options)

    monkeypatch.setattr(VideoReader, "loop_frames", record)
    pipeline.thumbnail(smile, LOOP)
    assert starts == [pytest.approx(peak - 0.5)]


def test_a_video_without_a_face_is_recalled_too(pipeline: VideoPipeline, cache: DictCache) -> None:
    clip = synthetic_video.encode_video(synthetic_frames.noise_frames(20))
    first = pipeline.thumbnail(clip, LOOP)
    for _ in range(2):
        with pytest.raises(NoFace):
            pipeline.predict(clip, loop=LOOP)
    second = pipeline.thumbnail(clip, LOOP)
    assert cache.hits == 3
    assert (second.emotion, second.boomerang.peak) == (None, first.boomerang.peak)


def test_other_bytes_models_and_frame_rates_are_other_analyses(
    pipeline: VideoPipeline, cache: DictCache, smile: bytes
) -> None:
    pipeline.predict(smile)
    pipeline.predict(smile, model="face-expression")
    pipeline.predict(smile, fps=12)
    pipeline.predict(smile + b"\0" * 8)
    assert (cache.hits, len(cache.texts)) == (0, 4)


def test_only_numbers_and_labels_are_kept(pipeline: VideoPipeline, cache: DictCache, smile: bytes) -> None:
    pipeline.predict(smile)
    [(key, text)] = cache.texts.items()
    assert len(key) == 64
    assert len(text) < 40_000
    kept = json.loads(text)
    assert kept.keys() == {"prediction", "peak", "peak_size", "frames_analysed", "geometry"}
    assert kept["prediction"].keys() == {
        *("emotion", "confidence", "probabilities", "peak", "face_coverage", "certain", "quality", "frames_analysed"),
        *("duration", "width", "height", "timeline", "track", "explanation"),
    }
    point = kept["prediction"]["timeline"][0]
    assert point.keys() == {"time", "emotion", "probabilities", "weight", "box", "track"}


def test_a_refused_video_is_not_kept(pipeline: VideoPipeline, cache: DictCache) -> None:
    with pytest.raises(VideoCorrupt):
        pipeline.predict(synthetic_video.encode_video(synthetic_frames.counter_frames(25))[:200])
    assert not cache.texts
