"""Test the calibration of face models under each prior: cards, answers, and the way from the setting to an answer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from api.bootstrap import load_engine
from api.settings import Settings
from moodreel.emotions import FIVE
from moodreel.errors import ModelInvalid
from moodreel.faces.quality import MIN_CONFIDENCE
from moodreel.models.model_card import PRIORS, ModelCard, Prior, read_card
from moodreel.models.networks.base import FaceNetwork, TrackLogits
from moodreel.models.predictor import FacePredictor
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.video import VideoPipeline
from tests.models.test_multi_head import random_features
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import STORE

LOGITS = np.log([0.1, 0.2, 0.7])
LABELS = ("Anger", "Happy", "Neutral")
DIARY = {"offsets": {}, "temperature": 1.0, "moment_temperature": 2.0, "certain_from": 0.7}
BALANCED = {"offsets": {"Neutral": -1.0}, "temperature": 0.5, "moment_temperature": 1.0, "certain_from": 1}
CALIBRATIONS = {"diary": DIARY, "balanced": BALANCED}
CARD = ModelCard("made", "constant", LABELS, priors={name: Prior(**each) for name, each in CALIBRATIONS.items()})


class ConstantNet(FaceNetwork):
    """Answers `LOGITS` for every clip, frame and window."""

    def forward_tracks(self, tracks, *, per_frame):
        logits = torch.tensor(LOGITS).float()
        shares = [torch.full((len(track),), 1 / len(track)) for track in tracks]
        return [TrackLogits(logits, logits.expand(len(share), -1) if per_frame else None, share) for share in shares]

    def embed_faces(self, faces):
        return [torch.zeros(1) for _ in faces]

    def classify_windows(self, windows):
        return torch.tensor(LOGITS).float().expand(len(windows), -1)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


# Answers


@pytest.mark.parametrize(
    ("prior", "clip", "frame", "certain_from"),
    [
        ("diary", softmax(LOGITS), softmax(LOGITS / 2), 0.7),
        ("balanced", softmax((LOGITS - [0, 0, 1]) / 0.5), softmax(LOGITS - [0, 0, 1]), 1),
    ],
)
def test_a_prior_calibrates_clips_their_frames_and_live_windows(prior, clip, frame, certain_from):
    model = FacePredictor(ConstantNet(), CARD, sha256="", prior=prior)
    face = random_features(1)
    several, one = model.predict([[face, face], [face]])
    np.testing.assert_allclose(several.probabilities, clip, atol=1e-6)
    for probabilities in (*several.per_frame, *one.per_frame):
        np.testing.assert_allclose(probabilities, frame, atol=1e-6)
    [embedding] = model.embed_faces([face])
    first, later = model.classify_windows([[embedding], [None, embedding]])
    np.testing.assert_allclose(later, clip, atol=1e-6)
    for picture in (one.probabilities, first):
        np.testing.assert_allclose(picture, softmax(LOGITS - [0, 0, 1]), atol=1e-6)
    assert model.certain_from == certain_from


def test_offsets_follow_their_labels_when_these_are_reordered():
    card = replace(CARD, labels=("Neutral", "Sad", "Shock", "Happy", "Anger"))
    model = FacePredictor(FiveNet(), card, sha256="", prior="balanced")
    assert model.info.labels == FIVE
    [answer] = model.predict([[random_features(1)]])
    np.testing.assert_allclose(answer.probabilities, softmax([0, 0, 0, -1, 0]), atol=1e-6)


class FiveNet(ConstantNet):
    """Answers five equal logits."""

    def forward_tracks(self, tracks, *, per_frame):
        return [
            TrackLogits(torch.zeros(5), torch.zeros(len(track), 5) if per_frame else None, torch.ones(len(track)))
            for track in tracks
        ]


def test_without_priors_both_settings_answer_by_the_temperatures_of_the_card():
    card = ModelCard("made", "constant", LABELS, temperature=0.5, moment_temperature=2.0)
    face = random_features(1)
    for prior in PRIORS:
        model = FacePredictor(ConstantNet(), card, sha256="", prior=prior)
        several, one = model.predict([[face, face], [face]])
        for probabilities in (several.probabilities, one.probabilities, *model.classify_windows([[torch.zeros(1)]])):
            np.testing.assert_allclose(probabilities, softmax(LOGITS / 0.5), atol=1e-6)
        np.testing.assert_allclose(several.per_frame[0], softmax(LOGITS / 2), atol=1e-6)
        assert model.certain_from == MIN_CONFIDENCE


# Cards


def write_card(folder: Path, priors: object) -> Path:
    path = folder / "model.json"
    path.write_text(json.dumps({"labels": list(LABELS), "priors": priors}))
    return path


def test_a_card_has_a_calibration_for_each_prior(tmp_path):
    assert read_card(write_card(tmp_path, CALIBRATIONS)).priors == CARD.priors
    assert read_card(write_card(tmp_path, {})).priors == {}


@pytest.mark.parametrize(
    "priors",
    [
        None,
        [],
        0.5,
        {"diary": DIARY},
        {**CALIBRATIONS, "party": DIARY},
        {**CALIBRATIONS, "balanced": 1},
        *(
            {**CALIBRATIONS, "balanced": {**BALANCED, **wrong}}
            for wrong in (
                {"offsets": {"Calm": 1}},
                {"offsets": {"Neutral": "1"}},
                {"offsets": None},
                {"temperature": 0},
                {"moment_temperature": -1},
                {"moment_temperature": None},
                {"certain_from": 1.01},
                {"certain_from": -0.1},
                {"certain_from": True},
            )
        ),
        *({**CALIBRATIONS, "diary": {key: DIARY[key] for key in DIARY if key != gone}} for gone in DIARY),
    ],
)
def test_priors_that_cannot_be_used_are_refused(tmp_path, priors):
    with pytest.raises(ModelInvalid, match=r"needs priors for diary and balanced, each with .* from 0 to 1"):
        read_card(write_card(tmp_path, priors))


# From the setting to an answer


@pytest.fixture(scope="module")
def own_model(tmp_path_factory):
    """The shipped default with priors: under `diary` every clip is Sad, and under `balanced` nothing is certain."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    shutil.copytree(STORE / "moodreel-five", folder)
    card = json.loads((folder / "model.json").read_text())
    sad = {**DIARY, "offsets": {"Sad": 50}, "certain_from": 0}
    priors = {"diary": sad, "balanced": {**BALANCED, "offsets": {}}}
    (folder / "model.json").write_text(json.dumps({**card, "name": "mine", "priors": priors}))
    return folder


@pytest.mark.parametrize(
    ("prior", "emotion", "reason"),
    [("diary", "Sad", None), ("balanced", "Happy", "low_confidence")],
)
def test_the_setting_decides_on_clips_and_what_is_certain_and_not_on_pictures(own_model, prior, emotion, reason):
    engine = load_engine(Settings(api_key=("key",), model_path=own_model, prior=prior, use_gpu="0"))
    clip = VideoPipeline(engine).predict(synthetic_video.encode_video(synthetic_frames.face_frames(8), fps=5))
    assert (clip.emotion, clip.timeline[0].emotion) == (emotion, emotion)
    assert (clip.quality.reason, clip.certain) == (reason, reason is None)
    picture = ImagePipeline(engine).predict(synthetic_image.encode_image(synthetic_frames.portrait()), model="mine")
    assert picture.emotion == "Happy"
    assert (picture.faces[0].quality.reason, picture.certain) == (reason, reason is None)
    engine.close()
