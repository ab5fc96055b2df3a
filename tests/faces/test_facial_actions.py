"""Test facial actions, explanations, and the fit of the surrogate model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import ModelInvalid
from moodreel.faces.facial_actions import ACTIONS, MAX_ACTIONS, MIN_ACTIVATION, FacialActionExplainer
from moodreel.faces.features import CropKind
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.training.recipes import facial_actions as training
from moodreel.training.recipes.facial_actions import fit_facial_actions, write_facial_actions
from tests.training.test_training import made_faces

SHIPPED = Path(__file__).parents[2] / "model_store" / "movements"


@pytest.fixture(scope="module")
def explainer():
    return FacialActionExplainer.load(SHIPPED)


def face(**actions):
    """Blendshapes (52,) of a face at rest, except for those whose names start with the given prefixes."""
    blendshapes = np.zeros(52)
    for prefix, value in actions.items():
        columns = [column for column, name in enumerate(BLENDSHAPES) if name.startswith(prefix)]
        assert columns, prefix
        blendshapes[columns] = value
    return blendshapes


def probabilities_of(emotion, labels=FIVE):
    return {label: 0.8 if label == emotion else 0.2 / (len(labels) - 1) for label in labels}


def test_each_blendshape_belongs_to_at_most_one_action():
    named = [name for names in ACTIONS.values() for name in names]
    assert len(named) == len(set(named)) and set(named) <= set(BLENDSHAPES)


def test_active_actions_are_sorted_by_activation(explainer):
    active = explainer.active_actions(face(mouthSmile=0.9, eyeSquint=0.5))
    assert [action.name for action in active] == ["lip corners up", "eyes narrowed"]
    assert 1 >= active[0].activation > active[1].activation >= MIN_ACTIVATION


def test_one_side_alone_has_half_the_activation(explainer):
    half, both = (
        explainer.active_actions(face(**{name: 0.5}))[0].activation for name in ("mouthSmileLeft", "mouthSmile")
    )
    assert half == pytest.approx(both / 2, abs=0.01)


def test_face_at_rest_has_no_active_actions(explainer):
    assert explainer.active_actions(face()) == ()
    explanation = explainer.explain(face(), probabilities_of("Neutral"), "Neutral")
    assert (explanation.actions, explanation.text) == ((), "no marked movement")


@pytest.mark.parametrize(
    ("actions", "emotion", "first"),
    [
        ({"mouthSmile": 0.8, "eyeSquint": 0.5}, "Happy", "lip corners up"),
        ({"mouthSmile": 0.8, "eyeSquint": 0.5}, "happy", "lip corners up"),
        ({"jawOpen": 0.6, "eyeWide": 0.3, "mouthSmile": 0.2}, "Shock", "jaw dropped"),
        ({"jawOpen": 0.6, "eyeWide": 0.3, "mouthSmile": 0.2}, "surprise", "jaw dropped"),
        ({"browInnerUp": 0.8, "mouthSmile": 0.3}, "sad", "inner brows raised"),
        ({"browDown": 0.6, "eyeSquint": 0.6, "mouthSmile": 0.3}, "Anger", "brows lowered"),
    ],
)
def test_largest_weight_fits_the_prediction(explainer, actions, emotion, first):
    labels = FIVE if emotion in FIVE else SEVEN
    explanation = explainer.explain(face(**actions), probabilities_of(emotion, labels), emotion)
    assert explanation.actions[0].name == first
    assert explanation.text.startswith(first)


def test_smile_is_no_evidence_for_sadness(explainer):
    explanation = explainer.explain(face(mouthSmile=0.8, browInnerUp=0.5), probabilities_of("Sad"), "Sad")
    assert "lip corners up" not in explanation.text


def test_explanation_has_at_most_three_actions_with_weights(explainer):
    actions = explainer.explain(np.full(52, 0.9), probabilities_of("Happy"), "Happy").actions
    weights = [action.weight for action in actions]
    assert len(actions) == MAX_ACTIONS
    assert weights == sorted(weights, reverse=True) and 0 < sum(weights) <= 1


def test_frames_count_by_their_weights(explainer):
    frames = np.stack([face(mouthSmile=0.9), face(jawOpen=0.6)])
    for weights, action_name in (([1, 0], "lip corners up"), ([0, 1], "jaw dropped")):
        names = [
            action.name for action in explainer.explain(frames, probabilities_of("Happy"), "Happy", weights).actions
        ]
        assert set(names) <= {action_name}
    both = explainer.explain(frames, probabilities_of("Happy"), "Happy", [0.5, 0.5]).actions[0]
    one = explainer.explain(frames, probabilities_of("Happy"), "Happy", [1, 0]).actions[0]
    assert both.activation == pytest.approx(one.activation / 2)


def test_unknown_label_has_no_explanation(explainer):
    assert explainer.explain(face(mouthSmile=0.9), {"bored": 0.9, "happy": 0.1}, "bored").actions == ()


def broken(change):
    def write(folder):
        card = json.loads((SHIPPED / "model.json").read_text())
        change(card)
        (folder / "model.json").write_text(json.dumps(card))

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "model.json").unlink(),
        lambda folder: (folder / "model.json").write_text("not JSON"),
        broken(lambda card: card["movements"].pop("jaw dropped")),
        broken(lambda card: card["bias"].pop("happy")),
        broken(lambda card: card["movements"]["jaw dropped"].update(calm="much")),
        broken(lambda card: card["movements"]["jaw dropped"].update(full=0)),
        broken(lambda card: card["movements"]["jaw dropped"]["weights"].update(happy=float("nan"))),
    ],
)
def test_invalid_parameters_are_refused(tmp_path, write):
    folder = shutil.copytree(SHIPPED, tmp_path / "movements")
    write(folder)
    with pytest.raises(ModelInvalid, match="restore"):
        FacialActionExplainer.load(folder)


LABEL_OF_BLENDSHAPE = {44: "anger", 45: "happy", 46: "surprise", 48: "sad"}
"""Label that each blendshape stands for in the faces of `made_faces`."""


class PerfectPredictor:
    """Predict the label that `made_faces` encoded in the blendshapes. Like the shipped network it reads color crops."""

    crop_kind = CropKind.COLOR
    info = SimpleNamespace(labels=SEVEN)

    def predict(self, tracks, *, per_frame):
        assert {features.crop.shape for [features] in tracks} == {(96, 96, 3)}
        active = [np.flatnonzero(features.blendshapes > 0.5) for [features] in tracks]
        labels = [LABEL_OF_BLENDSHAPE[int(columns[0])] if len(columns) else "neutral" for columns in active]
        return [
            SimpleNamespace(probabilities=np.array([0.88 if k == label else 0.02 for k in SEVEN])) for label in labels
        ]


def test_fitted_surrogate_finds_the_action_behind_each_label(tmp_path, monkeypatch, explainer):
    emotion = np.arange(300) % 5
    truth = np.where(emotion == FIVE.index("Neutral"), SEVEN.index("neutral"), -1)
    images, landmarks = np.zeros((300, 48, 48), np.uint8), np.random.default_rng(1).random((300, 478, 3), np.float32)
    faces = replace(made_faces(emotion), landmarks=landmarks)
    monkeypatch.setattr(training, "read_split", lambda *_, **__: SimpleNamespace(images=images, truth=truth))
    context = SimpleNamespace(extract_faces=lambda _: faces)
    request = SimpleNamespace(data={"ferplus": tmp_path}, context=context)
    surrogate = fit_facial_actions(request, PerfectPredictor())
    assert surrogate.agreement > 0.7, "chance level is one fifth"
    assert surrogate.named["surprise"][0][0] == "lips stretched wide"
    write_facial_actions(tmp_path / "movements", surrogate, "a network", "the command")
    fitted = FacialActionExplainer.load(tmp_path / "movements")
    assert fitted.explain(face(jawOpen=0, mouthStretch=0.8), probabilities_of("surprise", SEVEN), "surprise").text == (
        "lips stretched wide"
    )
    assert "| lips stretched wide (" in (tmp_path / "movements" / "CARD.md").read_text()
