"""Face models: networks, checkpoints of any origin, the registry and the predictions."""

import dataclasses
import json
import os
import pickle
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from moodreel.emotions import EMOTIMESH_TRAINED_ORDER, FIVE, SEVEN
from moodreel.errors import ModelInvalid, ModelNotFound, MoodreelError
from moodreel.faces.features import CropKind, extract_features
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models import download, face_registry, predictor
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.model_card import emotimesh_card, read_card
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.models.networks.emotimesh import EmotiMeshNet
from moodreel.models.networks.frame_pooling import FramePoolingNet
from moodreel.models.networks.multi_head import standardize
from moodreel.models.networks.vit import ViTNet
from moodreel.models.predictor import FacePredictor, resolve_device
from moodreel.models.registry import WEIGHTS_FILE
from tests.models.test_multi_head import random_features, save
from tests.support.server import STORE

SMALL = {"width": 16, "embedding": 8, "hidden": 4}
"""Arguments of a compact network that is quick to make."""

TINY = {"hidden": 4, "channels": 2}
"""Arguments of an original network of a few thousand parameters."""


FACE = {"stem": (4, 8, 8), "width": 16, "heads": 2, "layers": 1}
"""Arguments of a vision transformer that is quick to make."""


def random_track(seed=0, frames=1, kind=CropKind.GRAY):
    """Return a track of random features, each frame another face."""
    rng = np.random.default_rng(seed)
    return [random_features(rng, kind) for _ in range(frames)]


def random_network(kind, arguments, classes=5):
    torch.manual_seed(1)
    network = kind(classes=classes, **arguments)
    if isinstance(network, EmotiMeshNet):  # statistics as after training, so that eval mode differs from the start
        network.input_bn.running_mean.uniform_(0, 1)
        network.bn_fc1.running_var.uniform_(0.1, 2)
    return network.eval()


def save_compact(folder, network=None, **fields):
    """Write the folder of a Compact EmotiMesh-Net."""
    return save(
        folder, network or random_network(CompactEmotiMeshNet, SMALL), "compact-emotimesh", SMALL, FIVE, **fields
    )


@pytest.fixture(scope="module")
def compact():
    card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=FIVE)
    return FacePredictor(random_network(CompactEmotiMeshNet, SMALL), card, sha256="")


@pytest.fixture(scope="module")
def original():
    return FacePredictor(random_network(EmotiMeshNet, TINY), emotimesh_card("tiny"), sha256="")


@pytest.fixture(scope="module")
def appearance():
    card = dataclasses.replace(emotimesh_card("face"), architecture="vit", labels=FIVE)
    return FacePredictor(random_network(ViTNet, FACE | {"shares": (0.8, 0.2), "tau": 0.3}), card, sha256="")


@pytest.fixture(scope="module")
def pooling():
    card = dataclasses.replace(emotimesh_card("pooling"), architecture="frame-pooling", labels=FIVE)
    return FacePredictor(random_network(FramePoolingNet, {}), card, sha256="")


@pytest.fixture(params=["compact", "original", "appearance", "pooling"])
def model(request):
    return request.getfixturevalue(request.param)


# Predictions


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_prediction_has_probabilities_per_frame_and_weights(model, frames):
    (prediction,) = model.predict([random_track(frames=frames, kind=model.crop_kind)])
    assert prediction.probabilities.shape == (5,)
    assert prediction.per_frame.shape == (frames, 5)
    assert prediction.weights.shape == (frames,)
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert prediction.weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(prediction.per_frame.sum(axis=1), 1, atol=1e-5)


def test_frame_without_face_has_no_weight_and_no_probabilities(model):
    track = random_track(frames=5, kind=model.crop_kind)
    track[0] = track[3] = None
    (prediction,) = model.predict([track])
    assert np.isnan(prediction.per_frame).any(axis=1).tolist() == [True, False, False, True, False]
    assert (prediction.weights > 0).tolist() == [False, True, True, False, True]


def test_per_frame_probabilities_are_optional(model):
    track = random_track(frames=3, kind=model.crop_kind)
    (prediction,) = model.predict([track], per_frame=False)
    assert np.isnan(prediction.per_frame).all()
    np.testing.assert_allclose(prediction.probabilities, model.predict([track])[0].probabilities, atol=1e-6)


def test_prediction_does_not_depend_on_the_batch(model):
    kind = model.crop_kind
    tracks = [random_track(1, 3, kind), [None, *random_track(2, 6, kind)], random_track(3, 1, kind)]
    for track, together in zip(tracks, model.predict(tracks), strict=True):
        (alone,) = model.predict([track])
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(together.per_frame, alone.per_frame, atol=1e-5)
        np.testing.assert_allclose(together.weights, alone.weights, atol=1e-5)


def test_no_tracks_give_no_predictions(model):
    assert model.predict([]) == []


@pytest.mark.parametrize("track", [[], [None], [None, None]])
def test_track_without_any_face_is_rejected(model, track):
    with pytest.raises(ValueError, match="at least one face"):
        model.predict([random_track(), track])


def test_concurrent_threads_get_the_predictions_of_their_own_tracks(model):
    tracks = [random_track(seed, 4, model.crop_kind) for seed in range(8)]
    alone = [model.predict([track])[0].probabilities for track in tracks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda track: model.predict([track])[0].probabilities, tracks))
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_higher_temperature_lowers_confidence_and_keeps_the_label():
    network = random_network(CompactEmotiMeshNet, SMALL)
    card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=FIVE)
    cold, warm = (
        FacePredictor(network, dataclasses.replace(card, temperature=t, moment_temperature=t), sha256="")
        for t in (0.02, 0.2)
    )
    (sure,), (unsure,) = cold.predict([random_track(frames=3)]), warm.predict([random_track(frames=3)])
    assert sure.probabilities.argmax() == unsure.probabilities.argmax()
    assert sure.probabilities.max() > unsure.probabilities.max() + 0.05
    assert (sure.per_frame.max(axis=1) > unsure.per_frame.max(axis=1)).all()


def test_five_labels_are_reordered_from_checkpoint_order():
    network = random_network(CompactEmotiMeshNet, SMALL)
    probabilities = {}
    for labels in (FIVE, EMOTIMESH_TRAINED_ORDER):
        card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=labels)
        model = FacePredictor(network, card, sha256="")
        assert model.info.labels == FIVE
        probabilities[labels] = model.predict([random_track()])[0].probabilities
    by_name = dict(zip(EMOTIMESH_TRAINED_ORDER, probabilities[FIVE], strict=True))
    np.testing.assert_allclose(probabilities[EMOTIMESH_TRAINED_ORDER], [by_name[label] for label in FIVE], atol=1e-6)


def test_other_label_sets_keep_checkpoint_order():
    labels = ("calm", "joy", "anger")
    card = dataclasses.replace(emotimesh_card("small"), architecture="compact-emotimesh", labels=labels)
    model = FacePredictor(random_network(CompactEmotiMeshNet, SMALL, classes=3), card, sha256="")
    assert model.info.labels == labels
    assert model.predict([random_track()])[0].probabilities.shape == (3,)


# The original EmotiMesh-Net


def test_original_emotimesh_has_expected_keys_and_shapes():
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


def test_original_emotimesh_reads_468_landmarks_of_15_frames(original):
    track = random_track(frames=29)
    landmarks = torch.tensor(np.stack([f.landmarks[:468].reshape(1404) for f in track[::2]]))
    with torch.inference_mode():
        expected = original.network(landmarks[None])[0].softmax(dim=0)
    by_label = dict(zip(EMOTIMESH_TRAINED_ORDER, expected.tolist(), strict=True))
    (prediction,) = original.predict([track])
    np.testing.assert_allclose(prediction.probabilities, [by_label[label] for label in FIVE], atol=1e-6)


def test_original_emotimesh_repeats_the_last_face_for_missing_ones(original):
    a, b = random_track(frames=2)
    gaps = [None, a, None, b, None]
    filled = [a, a, a, b, b]
    np.testing.assert_allclose(
        original.predict([gaps])[0].probabilities, original.predict([filled])[0].probabilities, atol=1e-6
    )


def test_original_emotimesh_per_frame_prediction_is_of_a_still_face(original):
    track = random_track(frames=3)
    (prediction,) = original.predict([track])
    for features, frame in zip(track, prediction.per_frame, strict=True):
        np.testing.assert_allclose(frame, original.predict([[features]])[0].probabilities, atol=1e-5)


# Appearance


def test_standardize_is_invariant_to_brightness_and_contrast():
    crop = torch.randint(60, 120, (1, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(standardize(2 * crop + 10), standardize(crop), atol=1e-4, rtol=0)


def test_constant_crop_gives_finite_probabilities(appearance):
    plain = dataclasses.replace(random_track()[0], crop=np.full((48, 48), 7, np.uint8))
    assert np.isfinite(appearance.predict([[plain]])[0].probabilities).all()


def test_only_short_tracks_are_also_read_mirrored(appearance):
    face = random_track()[0]
    other = dataclasses.replace(face, crop=face.crop[:, ::-1].copy())
    few, mirrored = appearance.predict([[face], [other]])
    np.testing.assert_allclose(few.probabilities, mirrored.probabilities, atol=1e-5)
    many, mirrored = appearance.predict([[face] * (ViTNet.mirror_below + 1), [other] * (ViTNet.mirror_below + 1)])
    assert np.abs(many.probabilities - mirrored.probabilities).max() > 1e-5


def test_shares_weigh_the_labeling_conventions():
    logits = torch.tensor([[[4.0, 0, 0], [0, 0, 4.0]]])
    first, second = (
        ViTNet(classes=3, shares=(1 - share, share), tau=0, **FACE).mix_heads(logits)[0] for share in (0.1, 0.9)
    )
    assert (first.argmax(), second.argmax()) == (0, 2)


def test_heads_are_pooled_by_their_geometric_mean():
    network = ViTNet(classes=3, shares=(0.75, 0.25), tau=0, temperatures=(1.0, 2.0), **FACE)
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    logits = torch.tensor(np.log(probabilities) * [[1.0], [2.0]]).float()[None]
    expected = (probabilities ** [[0.75], [0.25]]).prod(axis=0)
    np.testing.assert_allclose(network.mix_heads(logits).softmax(1)[0], expected / expected.sum(), atol=1e-6)


def test_logit_adjustment_favors_rare_labels():
    network = ViTNet(classes=3, shares=(0.5, 0.5), tau=1, **FACE)
    network.prior.copy_(torch.tensor([[0.8, 0.1, 0.1]] * 2))
    assert network.mix_heads(torch.tensor([[[1.0, 0.5, 0]] * 2])).argmax() == 1


def test_frame_pooling_sums_seven_labels_into_five(pooling):
    surprised_or_afraid = torch.full((1, 4, 7), -9.0)
    surprised_or_afraid[..., [SEVEN.index("surprise"), SEVEN.index("fear")]] = 9.0
    with torch.inference_mode():
        log_probs = pooling.network.merge_logits(surprised_or_afraid)
    assert FIVE[log_probs[0].argmax()] == "Shock"
    assert log_probs.exp().sum() == pytest.approx(1, abs=1e-3)


def test_frame_pooling_takes_the_geometric_mean_of_the_frames(pooling):
    track = random_track(frames=20, kind=pooling.crop_kind)
    track[3] = None
    (prediction,) = pooling.predict([track])
    geometric = np.exp(np.nanmean(np.log(prediction.per_frame), axis=0))
    np.testing.assert_allclose(prediction.probabilities, geometric / geometric.sum(), atol=1e-4)
    assert prediction.weights == pytest.approx([0 if face is None else 1 / 19 for face in track])


# Checkpoints of other projects


def test_full_size_original_checkpoint_loads_and_predicts(tmp_path):
    with torch.device("meta"):
        shapes = {key: tensor for key, tensor in EmotiMeshNet().state_dict().items()}
    # Every tensor has its full shape but repeats one stored number: with all of them the file would have 556 MB.
    weights = {key: torch.full((), 0.001, dtype=tensor.dtype).expand(tensor.shape) for key, tensor in shapes.items()}
    torch.save(weights, tmp_path / "emotimesh_5.pth")
    del weights
    models = face_model_registry(tmp_path / "store")
    assert models.register(tmp_path / "emotimesh_5.pth") == "emotimesh_5"
    (prediction,) = models.get().predict([random_track(frames=2)])
    assert prediction.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert models.get().info.labels == FIVE


def tiny_weights():
    return random_network(EmotiMeshNet, TINY).state_dict()


def write_card(folder, **fields):
    """Write a model.json beside a checkpoint of the tiny original layout."""
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
def test_checkpoint_loads_from_common_training_script_formats(tmp_path, original, wrap):
    torch.save(wrap(tiny_weights()), tmp_path / "some.pt")
    write_card(tmp_path)
    loaded = load_face_model(tmp_path / "some.pt")
    track = random_track(frames=4)
    np.testing.assert_allclose(
        loaded.predict([track])[0].probabilities, original.predict([track])[0].probabilities, atol=1e-6
    )


def test_half_precision_checkpoint_loads(tmp_path, original):
    half = {key: t.half() if t.is_floating_point() else t for key, t in tiny_weights().items()}
    safetensors.torch.save_file(half, tmp_path / "some.safetensors")
    write_card(tmp_path)
    (prediction,) = load_face_model(tmp_path / "some.safetensors").predict([random_track()])
    np.testing.assert_allclose(prediction.probabilities, original.predict([random_track()])[0].probabilities, atol=1e-2)


def test_card_sets_the_label_order_of_a_checkpoint(tmp_path):
    torch.save(tiny_weights(), tmp_path / "some.pth")
    probabilities = []
    for labels in (EMOTIMESH_TRAINED_ORDER, tuple(reversed(EMOTIMESH_TRAINED_ORDER))):
        write_card(tmp_path, labels=labels)
        (prediction,) = load_face_model(tmp_path / "some.pth").predict([random_track()])
        probabilities.append(dict(zip(FIVE, prediction.probabilities, strict=True)))
    assert probabilities[0]["Anger"] == pytest.approx(probabilities[1]["Shock"])
    assert probabilities[0]["Happy"] == pytest.approx(probabilities[1]["Sad"])


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
def test_bad_checkpoint_is_rejected_and_the_default_stays(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "bad.pth"
    if callable(content):
        content(checkpoint)
    else:
        checkpoint.write_bytes(content)
    write_card(tmp_path)
    models = face_model_registry(tmp_path / "store", default="good")
    with pytest.raises(ModelInvalid, match=message) as refusal:
        models.register(checkpoint)
    assert models.default == "good"
    assert str(tmp_path) not in str(refusal.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_truncated_checkpoint_is_rejected(tmp_path, suffix, share):
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    (torch.save if suffix == ".pth" else safetensors.torch.save_file)(tiny_weights(), whole)
    part.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    write_card(tmp_path)
    with pytest.raises(ModelInvalid, match="incomplete"):
        load_face_model(part)


def test_missing_checkpoint_is_rejected(tmp_path):
    with pytest.raises(ModelInvalid, match="no readable checkpoint"):
        load_face_model(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architecture": "resnet"},
            "known are compact-emotimesh, efficientnet-lite, emotimesh, frame-pooling",
        ),
        ({"arguments": {"hidden": 4, "depth": 9}}, "does not take"),
        ({"arguments": {"hidden": -1}}, "does not take"),
        ({"labels": ["a", "b"], "arguments": TINY | {"classes": 5}}, "2 labels for 5 classes"),
        ({"labels": ["a", "a", "b", "c", "d"]}, "labels that differ"),
        ({"labels": 5}, "at least labels"),
        ({"temperature": 0}, "temperatures above 0"),
        ({"sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_card_that_does_not_fit_is_rejected(tmp_path, fields, message):
    torch.save(tiny_weights(), tmp_path / "some.pth")
    write_card(tmp_path, **fields)
    with pytest.raises(ModelInvalid, match=message):
        load_face_model(tmp_path / "some.pth")


def test_card_that_is_not_json_is_rejected(tmp_path):
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelInvalid, match="as JSON"):
        read_card(tmp_path / "model.json")


# The store


@pytest.fixture(scope="module")
def shipped():
    return face_model_registry(STORE).get()


def test_shipped_default_fits_its_card_and_states_its_metrics(shipped):
    assert shipped.info.labels == FIVE
    assert shipped.info.sha256 == shipped.info.card.sha256
    assert shipped.info.card.licence
    assert all({"name", "value", "data", "command"} <= metric.keys() for metric in shipped.info.card.metrics)
    accuracy = next(m["value"] for m in shipped.info.card.metrics if m["name"].startswith("accuracy"))
    assert accuracy > 0.8
    recall = next(m["value"] for m in shipped.info.card.metrics if m["name"].startswith("mean recall"))
    assert recall > 0.85
    assert (STORE / "moodreel-five" / "weights.safetensors").stat().st_size < 10e6


def test_shipped_models_fit_their_cards_and_a_size_limit():
    models = face_model_registry(STORE)
    assert {"compact-emotimesh", "face-expression", "moodreel-five", "resemotenet", "vit"} <= set(models.names())
    for name in models.names():
        info = models.get(name).info
        assert info.sha256 == info.card.sha256
        assert info.card.metrics
    assert sum((STORE / name / "weights.safetensors").stat().st_size for name in models.names()) < 40e6


@pytest.mark.parametrize("name", ["compact-emotimesh", "face-expression", "moodreel-five", "resemotenet", "vit"])
def test_shipped_models_predict_happy_for_a_smile(name, portrait):
    shipped = face_model_registry(STORE).get(name)
    photo = np.ascontiguousarray(portrait[:300])
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", max_faces=1)
    smile = extract_features(photo, landmarker.detect(photo)[0], shipped.crop_kind)
    landmarker.close()
    for track in ([smile], [None, smile], [smile] * 20):
        (prediction,) = shipped.predict([track])
        assert shipped.info.labels[prediction.probabilities.argmax()].lower() == "happy"
        assert shipped.info.labels[np.nanargmax(prediction.per_frame[-1])].lower() == "happy"


def test_registry_lists_and_loads_models_by_name(tmp_path):
    save_compact(tmp_path / "b", version="7")
    save(tmp_path / "a", random_network(EmotiMeshNet, TINY), "emotimesh", TINY, FIVE)
    (tmp_path / "face_landmarker").mkdir()
    (tmp_path / "face_landmarker" / "model.json").write_text("{}")
    models = face_model_registry(tmp_path, default="b")
    assert models.names() == ["a", "b"]
    assert models.get("a").info.architecture == "emotimesh"
    assert (models.get().info.name, models.get().info.version) == ("b", "7")


def test_model_is_loaded_once_under_concurrency(tmp_path, monkeypatch):
    save_compact(tmp_path / "one")
    loads = []
    monkeypatch.setattr(
        face_registry, "load_face_model", lambda *args, **kwargs: loads.append(args) or load_face_model(*args, **kwargs)
    )
    models = face_model_registry(tmp_path, default="one")
    assert loads == []
    with ThreadPoolExecutor(8) as pool:
        loaded = set(pool.map(lambda _: models.get(), range(16)))
    assert len(loads) == len(loaded) == 1


def test_loading_a_model_makes_no_caller_of_another_one_wait(tmp_path, monkeypatch):
    for name in ("warm", "cold"):
        save_compact(tmp_path / name)
    started, go_on = threading.Event(), threading.Event()

    def load(path, **options):
        if path.name == "cold":
            started.set()
            assert go_on.wait(60)
        return load_face_model(path, **options)

    monkeypatch.setattr(face_registry, "load_face_model", load)
    models = face_model_registry(tmp_path, default="warm")
    warm = models.get()
    with ThreadPoolExecutor(2) as pool:
        cold = pool.submit(models.get, "cold")
        assert started.wait(60)
        try:
            assert pool.submit(models.get).result(60) is warm
            assert not cold.done()
        finally:
            go_on.set()
        assert cold.result(60).info.name == "cold"


def test_the_least_recently_used_model_is_dropped_but_never_the_default(tmp_path):
    names = ["default", *"abcd"]
    for name in names:
        save_compact(tmp_path / name)
    models = face_model_registry(tmp_path, default="default")
    first = [models.get(name) for name in ("default", "a", "b", "c")][1]
    assert models.get("a") is first
    models.get("d")
    assert models.loaded() == ["a", "c", "d", "default"]
    assert models.get("a") is first
    assert models.names() == sorted(names)


def test_a_model_that_failed_to_load_is_named_in_the_log_and_tried_again(tmp_path, caplog):
    folder = save_compact(tmp_path / "one")
    weights = (folder / WEIGHTS_FILE).read_bytes()
    models = face_model_registry(tmp_path, default="one")
    (folder / WEIGHTS_FILE).write_bytes(weights[:100])
    with pytest.raises(ModelInvalid):
        models.get()
    assert "The model 'one' cannot be loaded." in caplog.text
    assert models.loaded() == []
    (folder / WEIGHTS_FILE).write_bytes(weights)
    assert models.get().info.name == "one"


def test_the_default_is_verified_without_being_loaded(tmp_path):
    network = random_network(CompactEmotiMeshNet, SMALL)
    save_compact(tmp_path / "one", network)
    save_compact(tmp_path / "broken", network, sha256="0" * 64)
    models = face_model_registry(tmp_path, default="one")
    models.verify_default()
    assert models.loaded() == []
    with pytest.raises(ModelInvalid, match="SHA-256"):
        face_model_registry(tmp_path, default="broken").verify_default()
    with pytest.raises(ModelNotFound):
        face_model_registry(tmp_path, default="none").verify_default()


def test_unknown_model_error_lists_the_known_ones(tmp_path):
    save_compact(tmp_path / "one")
    with pytest.raises(ModelNotFound, match="'two'; there are one"):
        face_model_registry(tmp_path).get("two")


@pytest.mark.parametrize("name", ["../one", "one/../one", "."])
def test_model_name_cannot_escape_the_store(tmp_path, name):
    save_compact(tmp_path / "one")
    with pytest.raises(ModelNotFound):
        face_model_registry(tmp_path / "one").get(name)


def test_weights_must_match_the_sha256_of_their_card(tmp_path):
    folder = save_compact(tmp_path / "one", sha256="0" * 64)
    with pytest.raises(ModelInvalid, match="SHA-256"):
        face_model_registry(tmp_path).get(folder.name)


def test_registered_folder_becomes_the_default_under_its_name(tmp_path):
    save_compact(tmp_path / "store" / "one")
    outside = save_compact(tmp_path / "elsewhere", name="mine")
    models = face_model_registry(tmp_path / "store", default="one")
    assert models.register(outside) == "mine"
    assert models.get().info.name == "mine"
    assert models.names() == ["mine", "one"]
    assert models.get("one").info.name == "one"


def test_folder_inside_the_store_can_become_the_default(tmp_path):
    for name in ("one", "two"):
        save_compact(tmp_path / name)
    models = face_model_registry(tmp_path, default="one")
    assert models.register(tmp_path / "two") == "two"
    assert models.get().info.name == "two"


def test_registered_model_cannot_reuse_a_store_name(tmp_path):
    save_compact(tmp_path / "store" / "one")
    outside = save_compact(tmp_path / "elsewhere", name="one")
    models = face_model_registry(tmp_path / "store", default="one")
    with pytest.raises(ModelInvalid, match="already"):
        models.register(outside)


@pytest.mark.parametrize(("cuda", "mps", "found"), [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps")])
def test_device_follows_the_setting(monkeypatch, cuda, mps, found):
    monkeypatch.setattr(predictor.torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(predictor.torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == resolve_device("1") == found
    assert resolve_device("0") == "cpu"


def test_without_a_gpu_the_cpu_is_used_or_refused(monkeypatch):
    monkeypatch.setattr(predictor.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(predictor.torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("0") == "cpu"
    with pytest.raises(MoodreelError, match="USE_GPU"):
        resolve_device("1")


def test_invalid_device_setting_is_rejected():
    with pytest.raises(MoodreelError, match="auto, 0 or 1"):
        resolve_device("yes")


# Download

DRIVE_ID = "1AbCdEfGhIjKlMnOp-_q"


@pytest.fixture
def fake_gdown(monkeypatch):
    """A fake gdown: `content` writes what Google Drive serves, is an exception to raise, or None for a rejection."""
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


def test_download_is_cached_as_a_checkpoint(tmp_path, fake_gdown):
    write_card(tmp_path)
    fake_gdown.content = lambda path: torch.save(tiny_weights(), path)
    checkpoint = download.download_checkpoint(DRIVE_ID, tmp_path)
    assert load_face_model(checkpoint).info.architecture == "emotimesh"
    assert download.download_checkpoint(DRIVE_ID, tmp_path) == checkpoint
    assert fake_gdown.downloads == 1


def _write(content):
    def write(path):
        Path(path).write_bytes(content)

    return write


@pytest.mark.parametrize(
    "content",
    [None, OSError("no route"), RuntimeError("no"), _write(b"<html>Sign in"), _write(b"PK\x03\x04half"), _write(b"")],
)
def test_broken_download_leaves_no_file(tmp_path, fake_gdown, content):
    fake_gdown.content = content
    with pytest.raises(ModelInvalid, match="download"):
        download.download_checkpoint(DRIVE_ID, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("drive_id", ["", "short", "../../etc/passwd", "https://drive.google.com/file/d/x"])
def test_invalid_drive_id_is_rejected_before_downloading(tmp_path, fake_gdown, drive_id):
    with pytest.raises(ModelInvalid, match="MODEL_DOWNLOAD_ID"):
        download.download_checkpoint(drive_id, tmp_path)
    assert fake_gdown.downloads == 0


def test_gdown_accepts_our_arguments():
    import inspect

    import gdown

    inspect.signature(gdown.download).bind(id=DRIVE_ID, output="x", quiet=True)
