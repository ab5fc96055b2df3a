"""Models: networks, checkpoints of any origin, the store, and the verdicts that come out."""

import dataclasses
import json
import os
import pickle
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from moodreel.emotions import EMOTIMESH_TRAINED_ORDER, FIVE, SEVEN
from moodreel.errors import ModelInvalid, ModelNotFound, MoodreelError
from moodreel.faces.features import FaceFeatures, extract_features
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models import download, face_registry, predictor
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.model_card import emotimesh_card, read_card
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.networks.emotimesh import EmotiMeshNet
from moodreel.models.networks.multi_head import standardize
from moodreel.models.networks.se_resnet import FaceExpressionNet
from moodreel.models.networks.two_stream import TwoStreamNet
from moodreel.models.predictor import FacePredictor, resolve_device

STORE = Path(__file__).parents[2] / "model_store"

SMALL = {"width": 16, "embedding": 8, "hidden": 4}
"""Arguments of a compact network that is quick to make."""

TINY = {"hidden": 4, "channels": 2}
"""Arguments of an original network of a few thousand parameters."""


FACE = {"widths": (8, 8), "depths": (1, 1)}
"""Arguments of a face-expression network that is quick to make."""


def someone(seed=0, moments=1):
    """A track of made features, each moment another face."""
    rng = np.random.default_rng(seed)
    return [
        FaceFeatures(
            landmarks=rng.random((478, 3), np.float32),
            normalized_landmarks=rng.normal(0, 4, (478, 3)).astype(np.float32),
            blendshapes=rng.random(52, np.float32),
            pose=np.zeros(3, np.float32),
            crop=rng.integers(0, 256, (48, 48), dtype=np.uint8),
        )
        for _ in range(moments)
    ]


def random_network(kind, arguments, classes=5):
    torch.manual_seed(1)
    network = kind(classes=classes, **arguments)
    if isinstance(network, EmotiMeshNet):  # statistics as after training, so that eval mode differs from the start
        network.input_bn.running_mean.uniform_(0, 1)
        network.bn_fc1.running_var.uniform_(0.1, 2)
    return network.eval()


def save(folder, network, *, architecture="compact-emotimesh", arguments=SMALL, labels=FIVE, **fields):
    """Write a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    card = {"architecture": architecture, "arguments": arguments, "labels": list(labels)} | fields
    (folder / "model.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def compact():
    card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=FIVE)
    return FacePredictor(random_network(CompactEmotiMeshNet, SMALL), card, sha256="")


@pytest.fixture(scope="module")
def original():
    return FacePredictor(random_network(EmotiMeshNet, TINY), emotimesh_card("tiny"), sha256="")


@pytest.fixture(scope="module")
def appearance():
    card = dataclasses.replace(emotimesh_card("face"), architecture="face-expression", labels=FIVE)
    return FacePredictor(random_network(FaceExpressionNet, FACE), card, sha256="")


@pytest.fixture(scope="module")
def joint():
    card = dataclasses.replace(emotimesh_card("joint"), architecture="joint", labels=FIVE)
    arguments = {"appearance": FACE, "landmarks": SMALL, "hidden": 4}
    return FacePredictor(random_network(TwoStreamNet, arguments), card, sha256="")


@pytest.fixture(params=["compact", "original", "appearance", "joint"])
def model(request):
    return request.getfixturevalue(request.param)


# Verdicts


@pytest.mark.parametrize("moments", [1, 2, 7, 40])
def test_a_verdict_is_probabilities_moments_and_weights(model, moments):
    (verdict,) = model.predict([someone(moments=moments)])
    assert verdict.probabilities.shape == (5,)
    assert verdict.per_frame.shape == (moments, 5)
    assert verdict.weights.shape == (moments,)
    assert verdict.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert verdict.weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(verdict.per_frame.sum(axis=1), 1, atol=1e-5)


def test_a_moment_without_a_face_has_no_weight_and_no_probabilities(model):
    track = someone(moments=5)
    track[0] = track[3] = None
    (verdict,) = model.predict([track])
    assert np.isnan(verdict.per_frame).any(axis=1).tolist() == [True, False, False, True, False]
    assert (verdict.weights > 0).tolist() == [False, True, True, False, True]


def test_moments_are_left_out_when_not_asked_for(model):
    track = someone(moments=3)
    (verdict,) = model.predict([track], per_frame=False)
    assert np.isnan(verdict.per_frame).all()
    np.testing.assert_allclose(verdict.probabilities, model.predict([track])[0].probabilities, atol=1e-6)


def test_a_track_gets_the_same_verdict_alone_and_beside_others(model):
    tracks = [someone(1, 3), [None, *someone(2, 6)], someone(3, 1)]
    for track, together in zip(tracks, model.predict(tracks), strict=True):
        (alone,) = model.predict([track])
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(together.per_frame, alone.per_frame, atol=1e-5)
        np.testing.assert_allclose(together.weights, alone.weights, atol=1e-5)


def test_no_tracks_give_no_verdicts(model):
    assert model.predict([]) == []


@pytest.mark.parametrize("track", [[], [None], [None, None]])
def test_a_track_without_any_face_is_refused(model, track):
    with pytest.raises(ValueError, match="at least one face"):
        model.predict([someone(), track])


def test_many_threads_get_the_answers_of_their_own_tracks(model):
    tracks = [someone(seed, 4) for seed in range(8)]
    alone = [model.predict([track])[0].probabilities for track in tracks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda track: model.predict([track])[0].probabilities, tracks))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_higher_temperature_makes_a_model_less_sure_but_of_the_same_mind():
    network = random_network(CompactEmotiMeshNet, SMALL)
    card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=FIVE)
    cold, warm = (
        FacePredictor(network, dataclasses.replace(card, temperature=t, moment_temperature=t), sha256="")
        for t in (0.02, 0.2)
    )
    (sure,), (unsure,) = cold.predict([someone(moments=3)]), warm.predict([someone(moments=3)])
    assert sure.probabilities.argmax() == unsure.probabilities.argmax()
    assert sure.probabilities.max() > unsure.probabilities.max() + 0.05
    assert (sure.per_frame.max(axis=1) > unsure.per_frame.max(axis=1)).all()


def test_five_labels_come_in_the_order_of_five_whatever_the_checkpoint_has():
    network = random_network(CompactEmotiMeshNet, SMALL)
    answers = {}
    for labels in (FIVE, EMOTIMESH_TRAINED_ORDER):
        card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=labels)
        model = FacePredictor(network, card, sha256="")
        assert model.info.labels == FIVE
        answers[labels] = model.predict([someone()])[0].probabilities
    by_name = dict(zip(EMOTIMESH_TRAINED_ORDER, answers[FIVE], strict=True))
    np.testing.assert_allclose(answers[EMOTIMESH_TRAINED_ORDER], [by_name[label] for label in FIVE], atol=1e-6)


def test_other_label_sets_keep_their_own_order():
    labels = ("calm", "joy", "anger")
    card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=labels)
    model = FacePredictor(random_network(CompactEmotiMeshNet, SMALL, classes=3), card, sha256="")
    assert model.info.labels == labels
    assert model.predict([someone()])[0].probabilities.shape == (3,)


# The original EmotiMesh-Net


def test_the_original_layout_has_its_keys_and_shapes():
    with torch.device("meta"):
        state = EmotiMeshNet().state_dict()
    assert {key.split(".")[0] for key in state} == {"input_bn", "conv1", "lstm", "fc1", "bn_fc1", "fc2"}
    assert state["input_bn.weight"].shape == (1404,)
    assert state["conv1.weight"].shape == (128, 1, 7)
    assert state["lstm.weight_ih_l0"].shape == (4 * 192, 89_728)
    assert state["lstm.weight_ih_l1_reverse"].shape == (4 * 192, 2 * 192)
    assert state["fc1.weight"].shape == (192, 384)
    assert state["fc2.weight"].shape == (5, 192)
    parameters = sum(state[key].numel() for key in state if "running" not in key and "num_batches" not in key)
    assert round(parameters / 1e6) == 139


def test_the_original_reads_x_y_z_of_468_points_at_15_moments_from_first_to_last(original):
    track = someone(moments=29)
    landmarks = torch.tensor(np.stack([f.landmarks[:468].reshape(1404) for f in track[::2]]))
    with torch.inference_mode():
        expected = original.network(landmarks[None])[0].softmax(dim=0)
    by_label = dict(zip(EMOTIMESH_TRAINED_ORDER, expected.tolist(), strict=True))
    (verdict,) = original.predict([track])
    np.testing.assert_allclose(verdict.probabilities, [by_label[label] for label in FIVE], atol=1e-6)


def test_the_original_repeats_the_last_known_face_where_there_is_none(original):
    a, b = someone(moments=2)
    holes = [None, a, None, b, None]
    filled = [a, a, a, b, b]
    np.testing.assert_allclose(
        original.predict([holes])[0].probabilities, original.predict([filled])[0].probabilities, atol=1e-6
    )


def test_a_moment_of_the_original_is_its_face_held_still(original):
    track = someone(moments=3)
    (verdict,) = original.predict([track])
    for features, moment in zip(track, verdict.per_frame, strict=True):
        np.testing.assert_allclose(moment, original.predict([[features]])[0].probabilities, atol=1e-5)


# Appearance


def test_light_and_contrast_of_a_picture_as_a_whole_change_nothing():
    crop = torch.randint(60, 120, (1, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(standardize(2 * crop + 10), standardize(crop), atol=1e-4, rtol=0)


def test_a_plain_crop_gives_numbers_all_the_same(appearance):
    plain = dataclasses.replace(someone()[0], crop=np.full((48, 48), 7, np.uint8))
    assert np.isfinite(appearance.predict([[plain]])[0].probabilities).all()


def test_few_faces_are_read_mirrored_too_and_many_are_not(appearance):
    face = someone()[0]
    other = dataclasses.replace(face, crop=face.crop[:, ::-1].copy())
    few, mirrored = appearance.predict([[face], [other]])
    np.testing.assert_allclose(few.probabilities, mirrored.probabilities, atol=1e-5)
    many, mirrored = appearance.predict(
        [[face] * (FaceExpressionNet.mirror_below + 1), [other] * (FaceExpressionNet.mirror_below + 1)]
    )
    assert np.abs(many.probabilities - mirrored.probabilities).max() > 1e-5


def test_the_mixture_of_the_two_conventions_follows_its_share():
    logits = torch.tensor([[[4.0, 0, 0], [0, 0, 4.0]]])
    first, second = (
        FaceExpressionNet(classes=3, shares=(1 - share, share), tau=0, **FACE).mix_heads(logits)[0]
        for share in (0.1, 0.9)
    )
    assert (first.argmax(), second.argmax()) == (0, 2)


def test_the_adjustment_for_the_prior_favours_what_is_rare():
    network = FaceExpressionNet(classes=3, shares=(0.5, 0.5), tau=1, **FACE)
    network.prior.copy_(torch.tensor([[0.8, 0.1, 0.1]] * 2))
    assert network.mix_heads(torch.tensor([[[1.0, 0.5, 0]] * 2])).argmax() == 1


def test_seven_opinions_of_appearance_count_for_five(joint):
    network = joint.network
    surprised_or_afraid = torch.full((1, 2, 7), -9.0)
    surprised_or_afraid[..., [SEVEN.index("surprise"), SEVEN.index("fear")]] = 9.0
    with torch.inference_mode():
        opinions = network.stream_logits(surprised_or_afraid.flatten(1), torch.zeros(1, len(network.landmarks.mean)))
    assert FIVE[opinions[0, 0].argmax()] == "Shock"


def test_a_joint_network_hears_both_opinions(joint):
    one, other = someone(1)[0], someone(2)[0]
    base = joint.predict([[one]])[0].probabilities
    for changed in ({"crop": other.crop}, {"normalized_landmarks": other.normalized_landmarks}):
        assert np.abs(joint.predict([[dataclasses.replace(one, **changed)]])[0].probabilities - base).max() > 1e-5


# Checkpoints from elsewhere


def test_a_checkpoint_of_the_full_original_layout_loads_and_predicts(tmp_path):
    with torch.device("meta"):
        shapes = {key: tensor for key, tensor in EmotiMeshNet().state_dict().items()}
    # Every tensor has its full shape but repeats one stored number: with all of them the file would have 556 MB.
    weights = {key: torch.full((), 0.001, dtype=tensor.dtype).expand(tensor.shape) for key, tensor in shapes.items()}
    torch.save(weights, tmp_path / "emotimesh_5.pth")
    del weights
    models = face_model_registry(tmp_path / "store")
    assert models.register(tmp_path / "emotimesh_5.pth") == "emotimesh_5"
    (verdict,) = models.get().predict([someone(moments=2)])
    assert verdict.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert models.get().info.labels == FIVE


def tiny_weights():
    return random_network(EmotiMeshNet, TINY).state_dict()


def described(folder, **fields):
    """A model.json beside a checkpoint of the tiny original layout."""
    card = {"name": "mine", "architecture": "emotimesh", "arguments": TINY, "labels": list(EMOTIMESH_TRAINED_ORDER)}
    (folder / "model.json").write_text(json.dumps(card | fields))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model_state_dict": weights, "loss": 0.1},
        lambda weights: {f"module.{key}": tensor for key, tensor in weights.items()},
        lambda weights: {"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}},
    ],
)
def test_a_checkpoint_loads_in_the_wrappings_that_training_scripts_use(tmp_path, original, wrap):
    torch.save(wrap(tiny_weights()), tmp_path / "some.pt")
    described(tmp_path)
    loaded = load_face_model(tmp_path / "some.pt")
    track = someone(moments=4)
    np.testing.assert_allclose(
        loaded.predict([track])[0].probabilities, original.predict([track])[0].probabilities, atol=1e-6
    )


def test_a_checkpoint_in_half_precision_loads(tmp_path, original):
    half = {key: t.half() if t.is_floating_point() else t for key, t in tiny_weights().items()}
    safetensors.torch.save_file(half, tmp_path / "some.safetensors")
    described(tmp_path)
    (verdict,) = load_face_model(tmp_path / "some.safetensors").predict([someone()])
    np.testing.assert_allclose(verdict.probabilities, original.predict([someone()])[0].probabilities, atol=1e-2)


def test_the_card_beside_a_checkpoint_names_the_label_order(tmp_path):
    torch.save(tiny_weights(), tmp_path / "some.pth")
    answers = []
    for labels in (EMOTIMESH_TRAINED_ORDER, tuple(reversed(EMOTIMESH_TRAINED_ORDER))):
        described(tmp_path, labels=labels)
        (verdict,) = load_face_model(tmp_path / "some.pth").predict([someone()])
        answers.append(dict(zip(FIVE, verdict.probabilities, strict=True)))
    assert answers[0]["Anger"] == pytest.approx(answers[1]["Shock"])
    assert answers[0]["Happy"] == pytest.approx(answers[1]["Sad"])


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def _without(key):
    return {k: v for k, v in tiny_weights().items() if k != key}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>", "web page"),
        (b"\n <html></html>", "web page"),
        (b"\x00" * 64, "incomplete"),
        (pickle.dumps(Bomb()), "incomplete, or is not a safetensors or weights-only"),
        (lambda path: torch.save(Bomb(), path), "incomplete, or is not a safetensors or weights-only"),
        (lambda path: torch.save({"epoch": 3}, path), "no state dict"),
        (lambda path: torch.save([1, 2], path), "no state dict"),
        (lambda path: torch.save({}, path), "no state dict"),
        (lambda path: torch.save(_without("fc2.weight"), path), "missing fc2.weight"),
        (lambda path: torch.save(tiny_weights() | {"head.bias": torch.zeros(2)}, path), "unexpected head.bias"),
        (lambda path: torch.save(tiny_weights() | {"fc2.bias": torch.zeros(7)}, path), r"fc2.bias is \(7,\), not"),
        (lambda path: torch.save(tiny_weights() | {"fc2.bias": torch.full((5,), torch.nan)}, path), "not finite"),
    ],
)
def test_a_bad_checkpoint_is_refused_and_the_default_stays(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "bad.pth"
    if callable(content):
        content(checkpoint)
    else:
        checkpoint.write_bytes(content)
    described(tmp_path)
    models = face_model_registry(tmp_path / "store", default="good")
    with pytest.raises(ModelInvalid, match=message) as refusal:
        models.register(checkpoint)
    assert models.default == "good"
    assert str(tmp_path) not in str(refusal.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_truncated_checkpoint_is_refused(tmp_path, suffix, share):
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(tiny_weights(), whole)
    part.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    described(tmp_path)
    with pytest.raises(ModelInvalid, match="incomplete"):
        load_face_model(part)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ModelInvalid, match="no readable checkpoint"):
        load_face_model(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "resnet"}, "known are compact-emotimesh, emotimesh, face-expression, improved-cnn, joint"),
        ({"arguments": {"hidden": 4, "depth": 9}}, "does not take"),
        ({"arguments": {"hidden": -1}}, "does not take"),
        ({"labels": ["a", "b"], "arguments": TINY | {"classes": 5}}, "2 labels for 5 classes"),
        ({"labels": ["a", "a", "b", "c", "d"]}, "labels that differ"),
        ({"labels": 5}, "at least labels"),
        ({"temperature": 0}, "temperatures above 0"),
        ({"sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, fields, message):
    torch.save(tiny_weights(), tmp_path / "some.pth")
    described(tmp_path, **fields)
    with pytest.raises(ModelInvalid, match=message):
        load_face_model(tmp_path / "some.pth")


def test_a_card_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelInvalid, match="as JSON"):
        read_card(tmp_path / "model.json")


# The store


@pytest.fixture(scope="module")
def shipped():
    return face_model_registry(STORE).get()


def test_the_shipped_default_fits_its_card_and_says_how_it_was_measured(shipped):
    assert shipped.info.labels == FIVE
    assert shipped.info.sha256 == shipped.info.card.sha256
    assert shipped.info.card.licence
    assert all({"name", "value", "data", "command"} <= metric.keys() for metric in shipped.info.card.metrics)
    accuracy = next(m["value"] for m in shipped.info.card.metrics if m["name"].startswith("accuracy"))
    assert accuracy > 0.85
    assert (STORE / "moodreel-five" / "weights.safetensors").stat().st_size < 10e6


def test_every_shipped_model_fits_its_card_and_all_of_them_fit_a_small_machine():
    models = face_model_registry(STORE)
    assert {"compact-emotimesh", "face-expression", "moodreel-five", "resemotenet", "vit"} <= set(models.names())
    for name in models.names():
        info = models.get(name).info
        assert info.sha256 == info.card.sha256
        assert info.card.metrics
    assert sum((STORE / name / "weights.safetensors").stat().st_size for name in models.names()) < 40e6


@pytest.mark.parametrize("name", ["compact-emotimesh", "face-expression", "moodreel-five", "resemotenet", "vit"])
def test_every_shipped_model_takes_a_smile_for_happy_in_one_moment_and_in_many(name, portrait):
    shipped = face_model_registry(STORE).get(name)
    picture = np.ascontiguousarray(portrait[:300])
    finder = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", max_faces=1)
    smile = extract_features(picture, finder.detect(picture)[0])
    finder.close()
    for track in ([smile], [None, smile], [smile] * 20):
        (verdict,) = shipped.predict([track])
        assert shipped.info.labels[verdict.probabilities.argmax()].lower() == "happy"
        assert shipped.info.labels[np.nanargmax(verdict.per_frame[-1])].lower() == "happy"


def test_the_store_lists_and_loads_models_by_name(tmp_path):
    save(tmp_path / "b", random_network(CompactEmotiMeshNet, SMALL), version="7")
    save(tmp_path / "a", random_network(EmotiMeshNet, TINY), architecture="emotimesh", arguments=TINY)
    (tmp_path / "face_landmarker").mkdir()
    (tmp_path / "face_landmarker" / "model.json").write_text("{}")
    models = face_model_registry(tmp_path, default="b")
    assert models.names() == ["a", "b"]
    assert models.get("a").info.architecture == "emotimesh"
    assert (models.get().info.name, models.get().info.version) == ("b", "7")


def test_a_model_is_loaded_once_however_many_ask_at_once(tmp_path, monkeypatch):
    save(tmp_path / "one", random_network(CompactEmotiMeshNet, SMALL))
    loads = []
    monkeypatch.setattr(
        face_registry, "load_face_model", lambda *args, **kwargs: loads.append(args) or load_face_model(*args, **kwargs)
    )
    models = face_model_registry(tmp_path, default="one")
    assert loads == []
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: models.get(), range(16)))
    assert len(loads) == len(answers) == 1


def test_an_unknown_name_is_answered_with_those_there_are(tmp_path):
    save(tmp_path / "one", random_network(CompactEmotiMeshNet, SMALL))
    with pytest.raises(ModelNotFound, match="'two'; there are one"):
        face_model_registry(tmp_path).get("two")


@pytest.mark.parametrize("name", ["../one", "one/../one", "."])
def test_a_name_cannot_leave_the_store(tmp_path, name):
    save(tmp_path / "one", random_network(CompactEmotiMeshNet, SMALL))
    with pytest.raises(ModelNotFound):
        face_model_registry(tmp_path / "one").get(name)


def test_shipped_weights_must_have_the_sha256_of_their_card(tmp_path):
    folder = save(tmp_path / "one", random_network(CompactEmotiMeshNet, SMALL), sha256="0" * 64)
    with pytest.raises(ModelInvalid, match="SHA-256"):
        face_model_registry(tmp_path).get(folder.name)


def test_a_registered_folder_becomes_the_default_under_its_own_name(tmp_path):
    save(tmp_path / "store" / "one", random_network(CompactEmotiMeshNet, SMALL))
    outside = save(tmp_path / "elsewhere", random_network(CompactEmotiMeshNet, SMALL), name="mine")
    models = face_model_registry(tmp_path / "store", default="one")
    assert models.register(outside) == "mine"
    assert models.get().info.name == "mine"
    assert models.names() == ["mine", "one"]
    assert models.get("one").info.name == "one"


def test_a_folder_of_the_store_itself_can_be_made_the_default(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name, random_network(CompactEmotiMeshNet, SMALL))
    models = face_model_registry(tmp_path, default="one")
    assert models.register(tmp_path / "two") == "two"
    assert models.get().info.name == "two"


def test_a_model_from_outside_cannot_take_the_name_of_one_in_the_store(tmp_path):
    save(tmp_path / "store" / "one", random_network(CompactEmotiMeshNet, SMALL))
    outside = save(tmp_path / "elsewhere", random_network(CompactEmotiMeshNet, SMALL), name="one")
    models = face_model_registry(tmp_path / "store", default="one")
    with pytest.raises(ModelInvalid, match="already"):
        models.register(outside)


def test_the_device_follows_the_setting(monkeypatch):
    monkeypatch.setattr(predictor.torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("0") == "cpu"
    with pytest.raises(MoodreelError, match="USE_GPU"):
        resolve_device("1")
    monkeypatch.setattr(predictor.torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("1") == "cuda"
    assert resolve_device("0") == "cpu"


def test_a_device_setting_that_is_none_is_refused():
    with pytest.raises(MoodreelError, match="auto, 0 or 1"):
        resolve_device("yes")


# Download

DRIVE_ID = "1AbCdEfGhIjKlMnOp-_q"


@pytest.fixture
def drive(monkeypatch):
    """A fake gdown: `drive.content` is what Google Drive serves, an exception to raise, or None for a refusal."""
    fake = types.SimpleNamespace(content=None, downloads=0)

    def get(*, id, output, quiet):
        assert id == DRIVE_ID
        fake.downloads += 1
        if isinstance(fake.content, Exception):
            raise fake.content
        if fake.content is None:
            return None
        fake.content(output)
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=get))
    return fake


def test_a_download_becomes_a_checkpoint_and_is_not_fetched_again(tmp_path, drive):
    described(tmp_path)
    drive.content = lambda path: torch.save(tiny_weights(), path)
    checkpoint = download.download_checkpoint(DRIVE_ID, tmp_path)
    assert load_face_model(checkpoint).info.architecture == "emotimesh"
    assert download.download_checkpoint(DRIVE_ID, tmp_path) == checkpoint
    assert drive.downloads == 1


def _write(content):
    def write(path):
        Path(path).write_bytes(content)

    return write


@pytest.mark.parametrize(
    "content",
    [None, OSError("no route"), RuntimeError("no"), _write(b"<html>Sign in"), _write(b"PK\x03\x04half"), _write(b"")],
)
def test_a_broken_download_leaves_nothing_behind(tmp_path, drive, content):
    drive.content = content
    with pytest.raises(ModelInvalid, match="download"):
        download.download_checkpoint(DRIVE_ID, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("drive_id", ["", "short", "../../etc/passwd", "https://drive.google.com/file/d/x"])
def test_what_is_no_drive_id_is_refused_before_any_download(tmp_path, drive, drive_id):
    with pytest.raises(ModelInvalid, match="MODEL_DOWNLOAD_ID"):
        download.download_checkpoint(drive_id, tmp_path)
    assert drive.downloads == 0


def test_gdown_takes_the_arguments_that_the_download_gives_it():
    import inspect

    import gdown

    inspect.signature(gdown.download).bind(id=DRIVE_ID, output="x", quiet=True)
