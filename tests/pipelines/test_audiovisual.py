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
    NoFaceNoSound,
    NonCommercial,
    NoPictures,
    Overloaded,
    VideoCorrupt,
    VideoTooLong,
)
from moodreel.faces.facial_actions import Movements
from moodreel.faces.landmarker import FaceFinder
from moodreel.media.video import Limits
from moodreel.models.face_registry import ModelStore
from moodreel.pipelines.audiovisual import Viewer
from moodreel.pipelines.video import Analyser
from tests.support import media, synthetic_audio
from tests.support.audiovisual_models import write_model
from tests.support.server import STORE

BOTH = ("video", "audio")
FACE = media.face_frames(40, 160, 120)
BLACK = [np.zeros((48, 64, 3), np.uint8)] * 10


@pytest.fixture(scope="module")
def analyser():
    finder = FaceFinder(STORE / "face_landmarker" / "face_landmarker.task", again=True)
    return Analyser(finder, ModelStore(STORE), Movements.load(STORE / "movements"), wait_seconds=0.05)


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
    return Viewer.load(store, analyser)


@pytest.fixture(scope="module")
def talking():
    return synthetic_audio.recording(FACE, 4)


def test_the_default_sees_and_is_given_no_sound(viewer, talking):
    impression = viewer.view(talking)
    assert impression.model.name == "faces-eight"
    assert impression.labels == EIGHT
    assert (impression.modalities, impression.missing) == (("video",), {"audio": "not_read"})
    assert sum(impression.probabilities) == pytest.approx(1, abs=1e-5)
    assert impression.probabilities[impression.best] == max(impression.probabilities)
    assert (impression.frames, impression.faces, impression.mock) == (16, 1, False)
    assert set(impression.timings) == {"sound", "decode", "faces", "model"}


def test_a_model_of_both_says_what_each_window_had_and_answers_their_mean(viewer):
    impression = viewer.view(synthetic_audio.recording(FACE[:30], 6), model="both")
    assert impression.modalities == BOTH
    assert impression.missing == {}
    assert [glimpse.modalities for glimpse in impression.glimpses] == [BOTH, ("audio",)]
    assert [glimpse.start for glimpse in impression.glimpses] == pytest.approx([0, 3], abs=0.05)
    assert impression.glimpses[-1].end == pytest.approx(impression.seconds)
    each = np.array([glimpse.probabilities for glimpse in impression.glimpses])
    np.testing.assert_allclose(impression.probabilities, each.mean(axis=0), atol=1e-6)


def test_what_is_missing_is_named(viewer):
    silent = viewer.view(synthetic_audio.recording(FACE, 4, silent=True), model="both")
    hidden = viewer.view(synthetic_audio.recording(BLACK, 1), model="both")
    alone = viewer.view(
        synthetic_audio.encode(synthetic_audio.sine(300, 2), container="mp3", codec="libmp3lame"), model="both"
    )
    assert (silent.modalities, silent.missing) == (("video",), {"audio": "none"})
    assert (hidden.modalities, hidden.missing) == (("audio",), {"video": "no_face"})
    assert (alone.modalities, alone.missing, alone.frames) == (("audio",), {"video": "none"}, 0)


def test_the_same_clip_has_the_same_answer_from_any_number_of_threads(store, talking):
    finder = FaceFinder(STORE / "face_landmarker" / "face_landmarker.task", again=True)
    patient = Analyser(finder, ModelStore(STORE), Movements.load(STORE / "movements"), slots=2, wait_seconds=120)
    viewer = Viewer.load(store, patient)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: viewer.view(talking, model=name), ["both", "faces-eight"] * 4))
    for impression in found:
        np.testing.assert_allclose(
            impression.probabilities, viewer.view(talking, model=impression.model.name).probabilities, atol=1e-5
        )


def test_a_call_waits_for_its_turn_and_no_longer(viewer, analyser, talking):
    with analyser.slot(), pytest.raises(Overloaded):
        viewer.view(talking)


# What is refused


@pytest.mark.parametrize(
    ("clip", "model", "error"),
    [
        (media.encode(BLACK), "both", NoFaceNoSound),
        (media.encode(BLACK), None, NoFace),
        (synthetic_audio.encode(synthetic_audio.sine(300, 1)), None, NoPictures),
        (media.encode(BLACK)[:300], "both", VideoCorrupt),
        (media.encode(FACE), "nobody", ModelNotFound),
        (media.encode(FACE), "../both", ModelNotFound),
    ],
    ids=["neither", "no face", "sound for one that sees", "half a clip", "no such model", "a path"],
)
def test_what_cannot_be_answered_is_refused_as_such(viewer, clip, model, error):
    with pytest.raises(error):
        viewer.view(clip, model=model)


def test_limits_hold(store, analyser):
    with pytest.raises(VideoTooLong):
        Viewer.load(store, analyser, limits=Limits(seconds=1)).view(media.encode(FACE, fps=10))


# Licences


def test_weights_for_research_answer_only_where_they_are_allowed(store, analyser, talking):
    with pytest.raises(NonCommercial, match="NONCOMMERCIAL_MODELS=1"):
        Viewer.load(store, analyser).view(talking, model="audio-visual")
    allowed = Viewer.load(store, analyser, noncommercial=True)
    assert allowed.view(talking, model="audio-visual").model.card.licence == "CC BY-NC-SA 4.0"
    assert allowed.view(talking).model.name == "faces-eight"


def test_a_model_that_is_refused_is_not_loaded(store, analyser, talking):
    viewer = Viewer.load(store, analyser)
    with pytest.raises(NonCommercial):
        viewer.view(talking, model="audio-visual")
    assert "audio-visual" not in viewer.store._loaded


def test_an_operator_who_names_weights_for_research_has_them_answer(store, analyser, talking, caplog):
    viewer = Viewer.load(store, analyser, checkpoint=store / "audio-visual")
    assert viewer.view(talking).model.name == "audio-visual"
    assert viewer.view(talking, model="audio-visual").modalities == BOTH
    assert "not for commercial use" in caplog.text


def test_a_default_for_research_is_no_default(tmp_path, analyser, talking):
    write_model(tmp_path / "faces-eight", commercial=False)
    for noncommercial in (False, True):
        with pytest.raises(ModelMissing):
            Viewer.load(tmp_path, analyser, noncommercial=noncommercial).view(talking)


# Checkpoints


def test_a_checkpoint_from_elsewhere_answers_by_default(store, analyser, talking, tmp_path):
    folder = write_model(tmp_path / "mine", labels=("yes", "no"))
    for checkpoint in (folder, folder / "weights.safetensors"):
        impression = Viewer.load(store, analyser, checkpoint=checkpoint).view(talking)
        assert (impression.model.name, impression.labels) == ("mine", ("yes", "no"))


def test_a_checkpoint_that_is_no_good_stops_the_start_unless_there_is_a_fallback(store, analyser, talking, tmp_path):
    shutil.copytree(store / "both", tmp_path / "torn")
    (tmp_path / "torn" / "weights.safetensors").write_bytes(b"<html>")
    for checkpoint in (tmp_path / "torn", tmp_path / "nowhere"):
        with pytest.raises(ModelInvalid):
            Viewer.load(store, analyser, checkpoint=checkpoint)
        fallen = Viewer.load(store, analyser, checkpoint=checkpoint, model_fallback=True)
        assert fallen.view(talking).model.name == "faces-eight"


def test_without_any_model_calls_are_told_what_to_set(tmp_path, analyser, talking, caplog):
    with caplog.at_level(logging.WARNING):
        viewer = Viewer.load(tmp_path, analyser)
    assert "CHECKPOINT_PATH" in caplog.text
    with pytest.raises(ModelMissing, match=r"CHECKPOINT_PATH.*EMO_MOCK"):
        viewer.view(talking)


def test_the_card_of_a_model_that_is_there_but_broken_stops_the_start(tmp_path, analyser):
    folder = write_model(tmp_path / "faces-eight")
    card = json.loads((folder / "model.json").read_text()) | {"commercial": "perhaps"}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match="commercial"):
        Viewer.load(tmp_path, analyser)


# Answers that are made up


@pytest.fixture
def mock(tmp_path, analyser, caplog):
    with caplog.at_level(logging.WARNING):
        viewer = Viewer.load(tmp_path, analyser, mock=True, checkpoint=tmp_path / "nowhere")
    assert "EMO_MOCK=1" in caplog.text
    return viewer


def test_made_up_answers_come_from_the_content_alone_and_say_that_they_are(mock, talking):
    other = synthetic_audio.recording(FACE, 4, hertz=600)
    first, again, second = (mock.view(clip) for clip in (talking, talking, other))
    assert first.mock
    assert (first.model.name, first.labels, first.modalities) == ("mock", EIGHT, BOTH)
    assert first.probabilities == again.probabilities != second.probabilities
    assert sum(first.probabilities) == pytest.approx(1, abs=1e-5)
    strongest = np.frombuffer(hashlib.sha256(talking).digest(), ">u4").argmax()
    assert first.best == strongest, "the same on every machine"


def test_what_is_made_up_is_still_looked_at(mock):
    for clip, error in ((media.encode(BLACK)[:300], VideoCorrupt), (media.encode(BLACK), NoFaceNoSound)):
        with pytest.raises(error):
            mock.view(clip)
    with pytest.raises(ModelNotFound, match="EMO_MOCK"):
        mock.view(media.encode(FACE), model="faces-eight")
