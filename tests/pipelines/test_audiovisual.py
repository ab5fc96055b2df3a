"""What a clip showed and sounded like: which model answers, what from, and what is refused."""

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
from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.media.video_decoder import VideoLimits
from moodreel.models.face_registry import FaceModelRegistry
from moodreel.pipelines.audiovisual import AudioVisualPipeline
from moodreel.pipelines.video import VideoPipeline
from tests.support import synthetic_audio, synthetic_frames, synthetic_video
from tests.support.audiovisual_models import write_model
from tests.support.server import STORE

BOTH = ("video", "audio")
FACE = synthetic_frames.face_frames(40, 160, 120)
BLACK = [np.zeros((48, 64, 3), np.uint8)] * 10


@pytest.fixture(scope="module")
def analyser():
    finder = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", use_fallbacks=True)
    return VideoPipeline(
        finder, FaceModelRegistry(STORE), FacialActionExplainer.load(STORE / "movements"), wait_seconds=0.05
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a default that sees, one that sees and hears, and one that is for research; tests leave it so."""
    root = tmp_path_factory.mktemp("store")
    write_model(root / "faces-eight", modalities=["video"])
    write_model(root / "both", fusion="gated")
    write_model(root / "audio-visual", commercial=False, licence="CC BY-NC-SA 4.0")
    return root


@pytest.fixture(scope="module")
def viewer(store, analyser):
    return AudioVisualPipeline.load(store, analyser)


@pytest.fixture(scope="module")
def talking():
    return synthetic_audio.encode_sine_clip(FACE, 4)


def test_the_default_sees_and_is_given_no_sound(viewer, talking):
    impression = viewer.predict(talking)
    assert impression.model.name == "faces-eight"
    assert impression.labels == EIGHT
    assert (impression.modalities, impression.missing) == (("video",), {"audio": "not_read"})
    assert sum(impression.probabilities) == pytest.approx(1, abs=1e-5)
    assert impression.probabilities[impression.best] == max(impression.probabilities)
    assert (impression.frames, impression.faces, impression.mock) == (16, 1, False)
    assert set(impression.timings) == {"sound", "decode", "faces", "model"}


def test_a_model_of_both_says_what_each_window_had_and_answers_their_mean(viewer):
    impression = viewer.predict(synthetic_audio.encode_sine_clip(FACE[:30], 6), model="both")
    assert impression.modalities == BOTH
    assert impression.missing == {}
    assert [glimpse.modalities for glimpse in impression.windows] == [BOTH, ("audio",)]
    assert [glimpse.start for glimpse in impression.windows] == pytest.approx([0, 3], abs=0.05)
    assert impression.windows[-1].end == pytest.approx(impression.seconds)
    each = np.array([glimpse.probabilities for glimpse in impression.windows])
    np.testing.assert_allclose(impression.probabilities, each.mean(axis=0), atol=1e-6)


def test_what_is_missing_is_named(viewer):
    silent = viewer.predict(synthetic_audio.encode_sine_clip(FACE, 4, silent=True), model="both")
    hidden = viewer.predict(synthetic_audio.encode_sine_clip(BLACK, 1), model="both")
    alone = viewer.predict(
        synthetic_audio.encode_audio(synthetic_audio.sine(300, 2), container="mp3", codec="libmp3lame"), model="both"
    )
    assert (silent.modalities, silent.missing) == (("video",), {"audio": "none"})
    assert (hidden.modalities, hidden.missing) == (("audio",), {"video": "no_face"})
    assert (alone.modalities, alone.missing, alone.frames) == (("audio",), {"video": "none"}, 0)


def test_the_same_clip_has_the_same_answer_from_any_number_of_threads(store, talking):
    finder = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", use_fallbacks=True)
    patient = VideoPipeline(
        finder, FaceModelRegistry(STORE), FacialActionExplainer.load(STORE / "movements"), slots=2, wait_seconds=120
    )
    viewer = AudioVisualPipeline.load(store, patient)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: viewer.predict(talking, model=name), ["both", "faces-eight"] * 4))
    for impression in found:
        np.testing.assert_allclose(
            impression.probabilities, viewer.predict(talking, model=impression.model.name).probabilities, atol=1e-5
        )


def test_a_call_waits_for_its_turn_and_no_longer(viewer, analyser, talking):
    with analyser.slot(), pytest.raises(Overloaded):
        viewer.predict(talking)


# What is refused


@pytest.mark.parametrize(
    ("clip", "model", "error"),
    [
        (synthetic_video.encode_video(BLACK), "both", NoFaceNoAudio),
        (synthetic_video.encode_video(BLACK), None, NoFace),
        (synthetic_audio.encode_audio(synthetic_audio.sine(300, 1)), None, NoVideoStream),
        (synthetic_video.encode_video(BLACK)[:300], "both", VideoCorrupt),
        (synthetic_video.encode_video(FACE), "nobody", ModelNotFound),
        (synthetic_video.encode_video(FACE), "../both", ModelNotFound),
    ],
    ids=["neither", "no face", "sound for one that sees", "half a clip", "no such model", "a path"],
)
def test_what_cannot_be_answered_is_refused_as_such(viewer, clip, model, error):
    with pytest.raises(error):
        viewer.predict(clip, model=model)


def test_limits_hold(store, analyser):
    with pytest.raises(VideoTooLong):
        AudioVisualPipeline.load(store, analyser, limits=VideoLimits(seconds=1)).predict(
            synthetic_video.encode_video(FACE, fps=10)
        )


# Licences


def test_weights_for_research_answer_only_where_they_are_allowed(store, analyser, talking):
    with pytest.raises(NonCommercialModel, match="NONCOMMERCIAL_MODELS=1"):
        AudioVisualPipeline.load(store, analyser).predict(talking, model="audio-visual")
    allowed = AudioVisualPipeline.load(store, analyser, noncommercial=True)
    assert allowed.predict(talking, model="audio-visual").model.card.licence == "CC BY-NC-SA 4.0"
    assert allowed.predict(talking).model.name == "faces-eight"


def test_a_model_that_is_refused_is_not_loaded(store, analyser, talking):
    viewer = AudioVisualPipeline.load(store, analyser)
    with pytest.raises(NonCommercialModel):
        viewer.predict(talking, model="audio-visual")
    assert "audio-visual" not in viewer.store._loaded


def test_an_operator_who_names_weights_for_research_has_them_answer(store, analyser, talking, caplog):
    viewer = AudioVisualPipeline.load(store, analyser, checkpoint=store / "audio-visual")
    assert viewer.predict(talking).model.name == "audio-visual"
    assert viewer.predict(talking, model="audio-visual").modalities == BOTH
    assert "not for commercial use" in caplog.text


def test_a_default_for_research_is_no_default(tmp_path, analyser, talking):
    write_model(tmp_path / "faces-eight", commercial=False)
    for noncommercial in (False, True):
        with pytest.raises(ModelMissing):
            AudioVisualPipeline.load(tmp_path, analyser, noncommercial=noncommercial).predict(talking)


# Checkpoints


def test_a_checkpoint_from_elsewhere_answers_by_default(store, analyser, talking, tmp_path):
    folder = write_model(tmp_path / "mine", labels=("yes", "no"))
    for checkpoint in (folder, folder / "weights.safetensors"):
        impression = AudioVisualPipeline.load(store, analyser, checkpoint=checkpoint).predict(talking)
        assert (impression.model.name, impression.labels) == ("mine", ("yes", "no"))


def test_a_checkpoint_that_is_no_good_stops_the_start_unless_there_is_a_fallback(store, analyser, talking, tmp_path):
    shutil.copytree(store / "both", tmp_path / "torn")
    (tmp_path / "torn" / "weights.safetensors").write_bytes(b"<html>")
    for checkpoint in (tmp_path / "torn", tmp_path / "nowhere"):
        with pytest.raises(ModelInvalid):
            AudioVisualPipeline.load(store, analyser, checkpoint=checkpoint)
        fallen = AudioVisualPipeline.load(store, analyser, checkpoint=checkpoint, model_fallback=True)
        assert fallen.predict(talking).model.name == "faces-eight"


def test_without_any_model_calls_are_told_what_to_set(tmp_path, analyser, talking, caplog):
    with caplog.at_level(logging.WARNING):
        viewer = AudioVisualPipeline.load(tmp_path, analyser)
    assert "CHECKPOINT_PATH" in caplog.text
    with pytest.raises(ModelMissing, match=r"CHECKPOINT_PATH.*EMO_MOCK"):
        viewer.predict(talking)


def test_the_card_of_a_model_that_is_there_but_broken_stops_the_start(tmp_path, analyser):
    folder = write_model(tmp_path / "faces-eight")
    card = json.loads((folder / "model.json").read_text()) | {"commercial": "perhaps"}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match="commercial"):
        AudioVisualPipeline.load(tmp_path, analyser)


# Answers that are made up


@pytest.fixture
def mock(tmp_path, analyser, caplog):
    with caplog.at_level(logging.WARNING):
        viewer = AudioVisualPipeline.load(tmp_path, analyser, mock=True, checkpoint=tmp_path / "nowhere")
    assert "EMO_MOCK=1" in caplog.text
    return viewer


def test_made_up_answers_come_from_the_content_alone_and_say_that_they_are(mock, talking):
    other = synthetic_audio.encode_sine_clip(FACE, 4, hertz=600)
    first, again, second = (mock.predict(clip) for clip in (talking, talking, other))
    assert first.mock
    assert (first.model.name, first.labels, first.modalities) == ("mock", EIGHT, BOTH)
    assert first.probabilities == again.probabilities != second.probabilities
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-5)
    strongest = np.frombuffer(hashlib.sha256(talking).digest(), ">u4").argmax()
    assert first.best == strongest, "the same on every machine"


def test_what_is_made_up_is_still_looked_at(mock):
    for clip, error in (
        (synthetic_video.encode_video(BLACK)[:300], VideoCorrupt),
        (synthetic_video.encode_video(BLACK), NoFaceNoAudio),
    ):
        with pytest.raises(error):
            mock.predict(clip)
    with pytest.raises(ModelNotFound, match="EMO_MOCK"):
        mock.predict(synthetic_video.encode_video(FACE), model="faces-eight")
