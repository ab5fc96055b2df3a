"""The audio-visual pipeline: choice of the model, modalities, licenses and errors."""

import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from moodreel.emotions import EIGHT
from moodreel.errors import (
    ModelInvalid,
    ModelMissing,
    ModelNotFound,
    NoFace,
    NoFaceNoAudio,
    NonCommercialModel,
    NoVideoStream,
    Overloaded,
    VideoCorrupt,
    VideoTooLong,
)
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.audiovisual import AudioVisualPipeline
from moodreel.pipelines.engine import Engine
from tests.support import synthetic_audio, synthetic_frames, synthetic_video
from tests.support.audiovisual_models import write_model
from tests.support.server import STORE

BOTH = ("video", "audio")
FACE = synthetic_frames.face_frames(40, 160, 120)
BLACK = [np.zeros((48, 64, 3), np.uint8)] * 10


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a video-only default, a model of both modalities and a non-commercial one; tests only read it."""
    root = tmp_path_factory.mktemp("store")
    write_model(root / "faces-eight", modalities=["video"])
    write_model(root / "both", fusion="gated")
    write_model(root / "audio-visual", commercial=False, licence="CC BY-NC-SA 4.0")
    return root


@pytest.fixture(scope="module")
def pipeline(store, engine):
    return AudioVisualPipeline.load(store, engine)


@pytest.fixture(scope="module")
def talking():
    return synthetic_audio.encode_sine_clip(FACE, 4)


def test_the_default_model_reads_video_only(pipeline, talking):
    result = pipeline.predict(talking)
    assert result.model.name == "faces-eight"
    assert result.labels == EIGHT
    assert (result.modalities, result.missing) == (("video",), {"audio": "not_read"})
    assert sum(result.probabilities) == pytest.approx(1, abs=1e-5)
    assert result.probabilities[result.best] == max(result.probabilities)
    assert (result.frames, result.faces, result.mock) == (16, 1, False)
    assert set(result.timings) == {"sound", "decode", "faces", "model"}


def test_a_model_of_both_modalities_averages_its_windows_and_lists_their_modalities(pipeline):
    result = pipeline.predict(synthetic_audio.encode_sine_clip(FACE[:30], 6), model="both")
    assert result.modalities == BOTH
    assert result.missing == {}
    assert [window.modalities for window in result.windows] == [BOTH, ("audio",)]
    assert [window.start for window in result.windows] == pytest.approx([0, 3], abs=0.05)
    assert result.windows[-1].end == pytest.approx(result.seconds)
    each = np.array([window.probabilities for window in result.windows])
    np.testing.assert_allclose(result.probabilities, each.mean(axis=0), atol=1e-6)


def test_missing_modalities_have_a_reason(pipeline):
    silent = pipeline.predict(synthetic_audio.encode_sine_clip(FACE, 4, silent=True), model="both")
    hidden = pipeline.predict(synthetic_audio.encode_sine_clip(BLACK, 1), model="both")
    alone = pipeline.predict(
        synthetic_audio.encode_audio(synthetic_audio.sine(300, 2), container="mp3", codec="libmp3lame"), model="both"
    )
    assert (silent.modalities, silent.missing) == (("video",), {"audio": "none"})
    assert (hidden.modalities, hidden.missing) == (("audio",), {"video": "no_face"})
    assert (alone.modalities, alone.missing, alone.frames) == (("audio",), {"video": "none"}, 0)


def test_concurrent_calls_give_the_same_result(store, talking):
    pipeline = AudioVisualPipeline.load(store, Engine.load(STORE, slots=2, wait_seconds=120))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: pipeline.predict(talking, model=name), ["both", "faces-eight"] * 4))
    for result in found:
        np.testing.assert_allclose(
            result.probabilities, pipeline.predict(talking, model=result.model.name).probabilities, atol=1e-5
        )


def test_a_call_without_a_free_slot_is_overloaded(pipeline, engine, talking):
    with engine.slot(), pytest.raises(Overloaded):
        pipeline.predict(talking)


# Errors


@pytest.mark.parametrize(
    ("clip", "model", "error"),
    [
        (synthetic_video.encode_video(BLACK), "both", NoFaceNoAudio),
        (synthetic_video.encode_video(BLACK), None, NoFace),
        (synthetic_audio.encode_audio(synthetic_audio.sine(300, 1)), None, NoVideoStream),
        (synthetic_video.encode_video(BLACK)[:300], "both", VideoCorrupt),
        (synthetic_video.encode_video(FACE), "unknown", ModelNotFound),
        (synthetic_video.encode_video(FACE), "../both", ModelNotFound),
    ],
    ids=["no face, no audio", "no face", "audio for a video-only model", "truncated", "unknown model", "path"],
)
def test_unreadable_clips_raise_the_matching_error(pipeline, clip, model, error):
    with pytest.raises(error):
        pipeline.predict(clip, model=model)


def test_limits_are_enforced(store, engine):
    with pytest.raises(VideoTooLong):
        AudioVisualPipeline.load(store, engine, limits=VideoLimits(seconds=1)).predict(
            synthetic_video.encode_video(FACE, fps=10)
        )


# Licences


def test_noncommercial_weights_need_permission(store, engine, talking):
    with pytest.raises(NonCommercialModel, match="NONCOMMERCIAL_MODELS=1"):
        AudioVisualPipeline.load(store, engine).predict(talking, model="audio-visual")
    allowed = AudioVisualPipeline.load(store, engine, noncommercial=True)
    assert allowed.predict(talking, model="audio-visual").model.card.licence == "CC BY-NC-SA 4.0"
    assert allowed.predict(talking).model.name == "faces-eight"


def test_a_refused_model_is_not_loaded(store, engine, talking):
    pipeline = AudioVisualPipeline.load(store, engine)
    with pytest.raises(NonCommercialModel):
        pipeline.predict(talking, model="audio-visual")
    assert "audio-visual" not in pipeline.models.loaded()


def test_noncommercial_weights_that_the_operator_names_are_the_default(store, engine, talking, caplog):
    pipeline = AudioVisualPipeline.load(store, engine, checkpoint=store / "audio-visual")
    assert pipeline.predict(talking).model.name == "audio-visual"
    assert pipeline.predict(talking, model="audio-visual").modalities == BOTH
    assert "not for commercial use" in caplog.text


def test_noncommercial_weights_of_the_store_are_never_the_default(tmp_path, engine, talking):
    write_model(tmp_path / "faces-eight", commercial=False)
    for noncommercial in (False, True):
        with pytest.raises(ModelMissing):
            AudioVisualPipeline.load(tmp_path, engine, noncommercial=noncommercial).predict(talking)


# Checkpoints


def test_a_checkpoint_outside_the_store_becomes_the_default(store, engine, talking, tmp_path):
    folder = write_model(tmp_path / "mine", labels=("yes", "no"))
    for checkpoint in (folder, folder / "weights.safetensors"):
        result = AudioVisualPipeline.load(store, engine, checkpoint=checkpoint).predict(talking)
        assert (result.model.name, result.labels) == ("mine", ("yes", "no"))


def test_an_invalid_checkpoint_stops_the_start_unless_a_fallback_is_allowed(store, engine, talking, tmp_path):
    shutil.copytree(store / "both", tmp_path / "corrupt")
    (tmp_path / "corrupt" / "weights.safetensors").write_bytes(b"<html>")
    for checkpoint in (tmp_path / "corrupt", tmp_path / "nowhere"):
        with pytest.raises(ModelInvalid):
            AudioVisualPipeline.load(store, engine, checkpoint=checkpoint)
        fallback = AudioVisualPipeline.load(store, engine, checkpoint=checkpoint, model_fallback=True)
        assert fallback.predict(talking).model.name == "faces-eight"


def test_without_a_model_the_error_names_the_settings(tmp_path, engine, talking, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline = AudioVisualPipeline.load(tmp_path, engine)
    assert "CHECKPOINT_PATH" in caplog.text
    with pytest.raises(ModelMissing, match=r"CHECKPOINT_PATH.*EMO_MOCK"):
        pipeline.predict(talking)


def test_an_invalid_model_card_stops_the_start(tmp_path, engine):
    folder = write_model(tmp_path / "faces-eight")
    card = json.loads((folder / "model.json").read_text()) | {"commercial": "perhaps"}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match="commercial"):
        AudioVisualPipeline.load(tmp_path, engine)


# The mock


@pytest.fixture
def mock(tmp_path, engine, caplog):
    with caplog.at_level(logging.WARNING):
        pipeline = AudioVisualPipeline.load(tmp_path, engine, mock=True, checkpoint=tmp_path / "nowhere")
    assert "EMO_MOCK=1" in caplog.text
    return pipeline


def test_mock_results_depend_only_on_the_content_and_are_marked(mock, talking):
    other = synthetic_audio.encode_sine_clip(FACE, 4, hertz=600)
    first, again, second = (mock.predict(clip) for clip in (talking, talking, other))
    assert first.mock
    assert (first.model.name, first.labels, first.modalities) == ("mock", EIGHT, BOTH)
    assert first.probabilities == again.probabilities != second.probabilities
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-5)
    strongest = np.frombuffer(hashlib.sha256(talking).digest(), ">u4").argmax()
    assert first.best == strongest, "the same on every machine"


def test_the_mock_still_validates_its_input(mock):
    for clip, error in (
        (synthetic_video.encode_video(BLACK)[:300], VideoCorrupt),
        (synthetic_video.encode_video(BLACK), NoFaceNoAudio),
    ):
        with pytest.raises(error):
            mock.predict(clip)
    with pytest.raises(ModelNotFound, match="EMO_MOCK"):
        mock.predict(synthetic_video.encode_video(FACE), model="faces-eight")
