"""The words behind a face: what moved, what weighed, and where the numbers come from."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import ModelInvalid
from moodreel.faces.facial_actions import ACTIONS, MAX_ACTIONS, MIN_ACTIVATION, FacialActionExplainer
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.training.recipes import facial_actions as training
from moodreel.training.recipes.facial_actions import fit_facial_actions, write_facial_actions
from tests.training.test_training import LANDMARKER, made_faces

SHIPPED = Path(__file__).parents[2] / "model_store" / "movements"


@pytest.fixture(scope="module")
def movements():
    return FacialActionExplainer.load(SHIPPED)


def face(**moved):
    """Blendshapes (52,) of a face at rest but for these movements, by the beginning of their names."""
    blendshapes = np.zeros(52)
    for begin, value in moved.items():
        columns = [column for column, name in enumerate(BLENDSHAPES) if name.startswith(begin)]
        assert columns, begin
        blendshapes[columns] = value
    return blendshapes


def answer(emotion, labels=FIVE):
    return {label: 0.8 if label == emotion else 0.2 / (len(labels) - 1) for label in labels}


def test_a_blendshape_belongs_to_one_movement_at_most():
    named = [name for names in ACTIONS.values() for name in names]
    assert len(named) == len(set(named)) and set(named) <= set(BLENDSHAPES)


def test_what_moved_is_named_strongest_first(movements):
    seen = movements.active_actions(face(mouthSmile=0.9, eyeSquint=0.5))
    assert [movement.name for movement in seen] == ["lip corners up", "eyes narrowed"]
    assert 1 >= seen[0].activation > seen[1].activation >= MIN_ACTIVATION


def test_one_side_alone_counts_by_half(movements):
    half, both = (
        movements.active_actions(face(**{name: 0.5}))[0].activation for name in ("mouthSmileLeft", "mouthSmile")
    )
    assert half == pytest.approx(both / 2, abs=0.01)


def test_a_face_at_rest_moved_nothing(movements):
    assert movements.active_actions(face()) == ()
    explanation = movements.explain(face(), answer("Neutral"), "Neutral")
    assert (explanation.actions, explanation.text) == ((), "no marked movement")


@pytest.mark.parametrize(
    ("moved", "emotion", "first"),
    [
        ({"mouthSmile": 0.8, "eyeSquint": 0.5}, "Happy", "lip corners up"),
        ({"mouthSmile": 0.8, "eyeSquint": 0.5}, "happy", "lip corners up"),
        ({"jawOpen": 0.6, "eyeWide": 0.3, "mouthSmile": 0.2}, "Shock", "jaw dropped"),
        ({"jawOpen": 0.6, "eyeWide": 0.3, "mouthSmile": 0.2}, "surprise", "jaw dropped"),
        ({"browInnerUp": 0.8, "mouthSmile": 0.3}, "sad", "inner brows raised"),
        ({"browDown": 0.6, "eyeSquint": 0.6, "mouthSmile": 0.3}, "Anger", "eyes narrowed"),
    ],
)
def test_what_weighed_most_goes_with_the_answer(movements, moved, emotion, first):
    labels = FIVE if emotion in FIVE else SEVEN
    explanation = movements.explain(face(**moved), answer(emotion, labels), emotion)
    assert explanation.actions[0].name == first
    assert explanation.text.startswith(first)


def test_a_smile_does_not_speak_for_sadness(movements):
    explanation = movements.explain(face(mouthSmile=0.8, browInnerUp=0.5), answer("Sad"), "Sad")
    assert "lip corners up" not in explanation.text


def test_at_most_three_are_named_with_their_shares(movements):
    everything = movements.explain(np.full(52, 0.9), answer("Happy"), "Happy").actions
    weights = [movement.weight for movement in everything]
    assert len(everything) == MAX_ACTIONS
    assert weights == sorted(weights, reverse=True) and 0 < sum(weights) <= 1


def test_moments_count_as_far_as_they_decided(movements):
    moments = np.stack([face(mouthSmile=0.9), face(jawOpen=0.6)])
    for weights, word in (([1, 0], "lip corners up"), ([0, 1], "jaw dropped")):
        named = [m.name for m in movements.explain(moments, answer("Happy"), "Happy", weights).actions]
        assert set(named) <= {word}
    both = movements.explain(moments, answer("Happy"), "Happy", [0.5, 0.5]).actions[0]
    one = movements.explain(moments, answer("Happy"), "Happy", [1, 0]).actions[0]
    assert both.activation == pytest.approx(one.activation / 2)


def test_a_label_that_no_set_knows_has_no_explanation(movements):
    assert movements.explain(face(mouthSmile=0.9), {"bored": 0.9, "happy": 0.1}, "bored").actions == ()


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
def test_numbers_that_cannot_be_used_are_refused(tmp_path, write):
    folder = shutil.copytree(SHIPPED, tmp_path / "movements")
    write(folder)
    with pytest.raises(ModelInvalid, match="restore"):
        FacialActionExplainer.load(folder)


# Where the numbers come from


SHOWS = {44: "anger", 45: "happy", 46: "surprise", 48: "sad"}
"""Which blendshape tells what in the faces of `made_faces`."""


class Knows:
    """Answers what `made_faces` shows, as if it had read the picture."""

    def predict(self, tracks, *, moments):
        shown = [np.flatnonzero(features.blendshapes > 0.5) for [features] in tracks]
        labels = [SHOWS[int(columns[0])] if len(columns) else "neutral" for columns in shown]
        return [
            SimpleNamespace(probabilities=np.array([0.88 if k == label else 0.02 for k in SEVEN])) for label in labels
        ]


def test_fitting_finds_what_the_answers_go_with(tmp_path, monkeypatch, movements):
    emotion = np.arange(300) % 5
    truth = np.where(emotion == FIVE.index("Neutral"), SEVEN.index("neutral"), -1)
    monkeypatch.setattr(training, "read_split", lambda *_, **__: SimpleNamespace(images=emotion, truth=truth))
    monkeypatch.setattr(training, "find_all", lambda *_, **__: made_faces(emotion))
    surrogate = fit_facial_actions(tmp_path, LANDMARKER, tmp_path, Knows())
    assert surrogate.agreement > 0.7, "and a fifth by chance"
    assert surrogate.named["surprise"][0][0] == "lips stretched wide"
    write_facial_actions(tmp_path / "movements", surrogate, "a network")
    fitted = FacialActionExplainer.load(tmp_path / "movements")
    assert fitted.explain(face(jawOpen=0, mouthStretch=0.8), answer("surprise", SEVEN), "surprise").text == (
        "lips stretched wide"
    )
    assert "| lips stretched wide (" in (tmp_path / "movements" / "CARD.md").read_text()
