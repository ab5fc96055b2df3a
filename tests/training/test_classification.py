"""Test the classification task: every architecture trains, and its model folder loads and has a card."""

import contextlib
import csv
import io
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from moodreel.emotions import EIGHT, FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.faces.features import FaceFeatures
from moodreel.models.audiovisual_registry import load_audiovisual_model
from moodreel.models.face_registry import face_model_registry, load_face_model
from moodreel.models.networks import efficientnet_lite
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.pipelines.clip_loader import MEL_STEPS
from moodreel.training.__main__ import main
from moodreel.training.augmentation import spectrogram
from moodreel.training.cli import export
from moodreel.training.data.dataset import IMAGES, Dataset, pair_with_faces
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import DATASETS, open_dataset
from moodreel.training.data.splits import Split, split
from moodreel.training.engine import checkpoint
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.evaluation.audiovisual_model import EvaluatedAudioVisualModel
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.experiment import audiovisual_adapter
from moodreel.training.experiment.adapter import ClassificationOptions
from moodreel.training.experiment.architecture_table import ADAPTERS
from moodreel.training.experiment.audiovisual_inputs import AudioInputs, ClipInputs, FaceInputs
from moodreel.training.experiment.classification import ClassificationTask
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.face_architectures import CropInputs, PortraitInputs, TrackInputs
from moodreel.training.experiment.recipe import STORE
from moodreel.training.experiment.runner import training_phases
from moodreel.training.export.model_folder import write_json
from tests.support import ravdess, synthetic_frames
from tests.support.whisper_weights import random_arrays, write_ctranslate2
from tests.training.test_trainer import fit

COUNT, LABELS = 32, ("one", "two", "three", "four")
TRUTH = np.arange(COUNT) % len(LABELS)


def bands(side, rng):
    """Return images uint8 (32, side, side): noise, and a bright band whose height is the label."""
    images = rng.integers(0, 90, (COUNT, side, side), dtype=np.uint8)
    for image, label in zip(images, TRUTH, strict=True):
        top = side * (1 + 2 * label) // 9
        image[top : top + side // 8] += 150
    return images


def plain_config(**values):
    """Options without mixup, label smoothing or class balancing."""
    return TrainConfig(**{"label_smoothing": 0.0, "mixup_alpha": 0.0, "class_balance_power": 0.0, **values})


def crops():
    return CropInputs(bands(48, np.random.default_rng(0)), clean_prob=1.0)


def color_crops():
    gray = bands(96, np.random.default_rng(0))
    return CropInputs(np.repeat(gray[..., None], 3, axis=3), clean_prob=1.0)


def face_squares():
    return PortraitInputs(bands(32, np.random.default_rng(0)), side=32)


def tracks(frames=3):
    rng = np.random.default_rng(0)
    follow = rng.normal(0, 1, (4, 478, 3)).astype(np.float32)

    def face(crop, label):
        shape = follow[label] + rng.normal(0, 0.05, (478, 3)).astype(np.float32)
        blendshapes = np.zeros(52, np.float32)
        blendshapes[10 + label] = 0.8
        return FaceFeatures(shape / 9, shape, blendshapes, np.zeros(3, np.float32), crop)

    images = bands(48, rng)
    return TrackInputs([[face(crop, label)] * frames for crop, label in zip(images, TRUTH, strict=True)])


def faces():
    return FaceInputs(bands(64, np.random.default_rng(0)))


def mel_bands():
    """Return spectrograms in which the band of the label is loud."""
    rng = np.random.default_rng(0)
    mels = rng.normal(-18, 1, (COUNT, 64, MEL_STEPS + 10)).astype(np.float32)
    for mel, label in zip(mels, TRUTH, strict=True):
        mel[8 + 12 * label : 14 + 12 * label] += 10
    return mels


def recordings_inputs():
    return AudioInputs(list(mel_bands()), [3.0] * COUNT)


def clips():
    images = torch.from_numpy(bands(64, np.random.default_rng(0)))[:, None, None, ..., None].expand(-1, 1, 2, -1, -1, 3)
    windows = [
        AudioVisualBatch(
            faces,
            torch.ones(1, 2, dtype=torch.bool),
            torch.from_numpy(mel[:, :MEL_STEPS])[None],
            torch.tensor([True]),
        )
        for faces, mel in zip(images, mel_bands(), strict=True)
    ]
    return ClipInputs(windows, drop_video=0.2, drop_audio=0.2)


TINY = [
    ("improved-cnn", {"channels": [8, 16, 32], "hidden": 64}, crops),
    ("resemotenet", {"width": 0.0625, "portrait": False, "blank": 0.05, "dropout": 0.2}, crops),
    ("efficientnet-lite", {}, color_crops),
    ("vit", {"stem": [8, 16, 32], "width": 48, "layers": 1}, crops),
    ("vit-scratch", {"side": 48, "width": 48, "layers": 1}, crops),
    ("compact-emotimesh", {"width": 48, "embedding": 24, "hidden": 8, "dropout": 0.1}, tracks),
    ("emotimesh", {"channels": 2, "hidden": 8, "dropout": 0.1}, tracks),
    ("temporal-vit", {"frame": {"stem": [8, 16, 32], "width": 48, "layers": 1}, "layers": 1}, tracks),
    ("resnet-50", {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "image_size": 32}, face_squares),
    (
        "vit-b-16",
        {
            "hidden_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "image_size": 32,
            "patch_size": 8,
        },
        face_squares,
    ),
    ("audio-visual", {"fusion": "late"}, faces),
    ("audio-visual", {"fusion": "concat"}, recordings_inputs),
    ("audio-visual", {"fusion": "xattn"}, clips),
]


def test_all_architectures_are_tested():
    assert {name for name, _, _ in TINY} == set(ADAPTERS)


@pytest.mark.training
@pytest.mark.parametrize(
    ("name", "arguments", "make_inputs"), TINY, ids=lambda value: getattr(value, "__name__", value)
)
def test_network_overfits_32_examples(name, arguments, make_inputs, monkeypatch):
    torch.manual_seed(0)
    # With its own momentum a short run would be evaluated with the statistics of its start.
    monkeypatch.setattr(efficientnet_lite, "_BATCHNORM_MOMENTUM", 0.3)
    for strength in ("SLACK_SECONDS", "MAX_MASK_STEPS", "MAX_MASK_BANDS"):
        monkeypatch.setattr(spectrogram, strength, 0)
    adapter, inputs = ADAPTERS[name], make_inputs()
    network = adapter.build(LABELS, arguments, None)
    rows = np.arange(COUNT)
    task = ClassificationTask(
        network,
        inputs,
        np.eye(4, dtype=np.float32)[TRUTH],
        rows,
        rows,
        plain_config(batch_size=8 if name == "audio-visual" else 16),
    )
    inputs.init_statistics(network, rows)
    # Transformers need more steps; ResNets on large images need few.
    audiovisual = 80 if make_inputs is recordings_inputs else 12
    few = {"efficientnet-lite": 40, "emotimesh": 40, "temporal-vit": 60}
    steps = {"vit-scratch": 500, "vit-b-16": 200, "audio-visual": audiovisual, **few}.get(name, 80)
    phase = Phase("all", steps, {"emotimesh": 1e-2, "vit-b-16": 1e-3, "audio-visual": 1e-3}.get(name, 3e-3))
    fitted = fit(task, [phase], TrainerConfig(eval_every=steps // 2))
    assert fitted.rows[-1]["loss"] < fitted.rows[0]["loss"]
    assert (task.predict_logits(rows).argmax(dim=1).numpy() == TRUTH).all()


def test_frozen_backbone_keeps_its_weights():
    config, adapter = TrainConfig(epochs=3, freeze_epochs=1), ADAPTERS["vit-b-16"]
    first, rest = training_phases(config, ClassificationOptions(), adapter.backbone, steps_per_epoch=10)
    assert (first.steps, rest.steps) == (10, 20)
    assert first.frozen == ("network.vit.",)
    assert rest.lr_scales == {"network.vit.": config.backbone_lr_scale}
    network = ADAPTERS["vit-b-16"].build(LABELS, TINY[9][1], None)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    task = ClassificationTask(
        network, face_squares(), np.eye(4, dtype=np.float32)[TRUTH], *[np.arange(COUNT)] * 2, plain_config()
    )
    fit(task, [replace(first, steps=2)], TrainerConfig())
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"network.classifier.weight", "network.classifier.bias"}


# Commands on images


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Return a folder of 32 face images of eight persons: dark at the bottom for happy, at the top for sad."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    face = cv2.resize(synthetic_frames.portrait()[:320, 60:380], (160, 160), interpolation=cv2.INTER_AREA)
    rows = []
    for index in range(32):
        label = ("happy", "sad")[index % 2]
        dark = np.linspace(1, 0.3, 160) if label == "happy" else np.linspace(0.3, 1, 160)
        image = face * dark[:, None, None] + rng.normal(0, 4, face.shape)
        path = folder / label / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8)[..., ::-1])
        rows.append((f"{label}/{path.name}", f"person {index // 4}", ("young", "old")[index // 16]))
    with (folder / "people.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "person", "group"), *rows])
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run(out, data, cache, *more, preset="improved-cnn"):
    short = [] if "--epochs" in more else ["--epochs", "12"]
    words = ["train", preset, "--data", data, "--out", str(out), "--cache", str(cache), "--val-fraction", "0.2", *short]
    main([*words, "--batch-size", "8", "--ema-decay", "0", *more])
    return json.loads((out / "model.json").read_text())


@pytest.fixture(scope="module")
def trained(image_folder, cache, tmp_path_factory):
    """Train on the images. Returns the model's folder, the fields of model.json, and what was printed."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        fields = run(out, f"images:{image_folder}", cache)
    return out, fields, printed.getvalue()


@pytest.mark.training
def test_train_writes_a_model_that_loads_and_a_card(image_folder, trained):
    out, fields, printed = trained
    assert load_face_model(out).info.labels == ("happy", "sad")
    metrics = {metric["name"]: metric["value"] for metric in fields["metrics"]}
    assert metrics["accuracy"] >= 0.8
    card = (out / "CARD.md").read_text()
    assert "Split by person: 6 trained on, 2 others held out." in card
    assert "train improved-cnn --data images:PATH --out DIR" in card
    assert str(image_folder) not in card + json.dumps(fields)
    assert card.strip() in printed
    assert {"metrics.csv", "checkpoint.pt", "train.log"} <= {path.name for path in out.iterdir()}


@pytest.mark.training
def test_an_export_says_that_training_may_have_seen_the_examples(image_folder, cache, trained, tmp_path):
    data, out = f"images:{image_folder}", tmp_path / "small"
    main(["export", str(trained[0]), "--weights", "int8", "--data", data, "--out", str(out), "--cache", str(cache)])
    card = " ".join((out / "CARD.md").read_text().split())
    assert f"8 images of {image_folder.name} that training may have seen (only the difference is meaningful)" in card
    assert "export mine --out DIR --weights int8 --data images:PATH" in card


@pytest.mark.training
def test_the_card_of_a_model_with_the_services_labels_is_right_whatever_their_order(cache, tmp_path):
    data, rng = tmp_path / "images", np.random.default_rng(0)
    face = cv2.resize(synthetic_frames.portrait()[:320, 60:380], (160, 160), interpolation=cv2.INTER_AREA)
    rising = np.linspace(0.3, 1, 160)
    lights = {"Anger": rising[None], "Happy": rising[None, ::-1], "Neutral": np.ones((1, 1)), "Sad": rising[:, None]}
    lights["Shock"] = rising[::-1, None]  # in serving: Anger, Happy, Shock, Neutral, Sad
    for label, light in lights.items():
        (data / label).mkdir(parents=True)
        for number in range(6):
            image = face * light[..., None] + rng.normal(0, 4, face.shape)
            cv2.imwrite(str(data / label / f"{number}.png"), image.clip(0, 255).astype(np.uint8)[..., ::-1])
    fields = run(tmp_path / "mine", f"images:{data}", cache, "--epochs", "20")
    [model] = open_models([str(tmp_path / "mine")], STORE)
    assert model.info.labels == FIVE
    dataset = open_dataset(f"images:{data}")
    held_out = [dataset.examples[row] for row in dataset.split().held_out]
    predicted = model.predict(held_out, IMAGES, DataContext(STORE, cache)).predicted
    right = [FIVE[label] == example.label for label, example in zip(predicted, held_out, strict=True)]
    assert fields["metrics"][0]["value"] == round(np.mean(right), 4) > 0.5


@pytest.mark.training
@pytest.mark.parametrize("name", ["resnet-50", "vit-b-16"])
def test_huggingface_folder_loads_beside_its_checkpoint(image_folder, cache, tmp_path, name):
    [sizes] = [sizes for architecture, sizes, _ in TINY if architecture == name]
    words = [word for size, value in sizes.items() for word in ("--model-arg", f"{size}={value}")]
    run(tmp_path / "mine", f"images:{image_folder}", cache, "--epochs", "1", *words, preset=name)
    assert (tmp_path / "mine" / "checkpoint.pt").is_file()
    store = face_model_registry(tmp_path)
    assert store.names() == ["mine"]
    assert store.get("mine").info.labels == ("happy", "sad")
    card = (tmp_path / "mine" / "CARD.md").read_text()
    assert f"architecture `{name}`" in card and "Labels: happy, sad." in card


@pytest.mark.training
def test_tracks_are_trained_without_mixup_by_default(image_folder, cache, tmp_path):
    words = ("--model-arg", "width=48", "--model-arg", "hidden=8", "--epochs", "1")
    fields = run(tmp_path / "mine", f"images:{image_folder}", cache, *words, preset="compact-emotimesh-classifier")
    assert fields["recipe"]["mixup_alpha"] == 0
    assert "mixup" not in (tmp_path / "mine" / "CARD.md").read_text()


@pytest.mark.training
def test_card_describes_only_the_options_in_use(image_folder, cache, tmp_path):
    words = ("--epochs", "1", "--class-balance-power", "0", "--patience", "2")
    fields = run(tmp_path / "mine", f"images:{image_folder}", cache, *words)
    card = (tmp_path / "mine" / "CARD.md").read_text()
    text = " ".join(card.split())
    assert "- at most 1 epoch; AdamW with learning rate 0.001" in text
    assert "early stopping after 2 evaluations without improvement, best weights kept" in text
    assert "moving average" not in text and "labels sampled" not in text
    assert fields["licence"] == "its owner's; state it in model.json", "the license is the owner's to state"
    command = next(line for line in card.splitlines() if line.startswith("python -m"))
    assert max(len(line) for line in card.splitlines() if line != command) <= 118


@pytest.mark.training
def test_random_split_is_marked_as_leaking(image_folder, cache, tmp_path):
    fields = run(tmp_path / "random", f"images:{image_folder}", cache, "--split-by", "random", "--epochs", "2")
    assert all("LEAKS" in metric["data"] for metric in fields["metrics"])
    card = (tmp_path / "random" / "CARD.md").read_text()
    assert "**LEAKS: split at random, as asked for" in card
    assert "persons are on both sides" in card


@pytest.mark.training
def test_resumed_run_ends_with_the_same_weights(image_folder, cache, trained, tmp_path, monkeypatch, capsys):
    out, whole, _ = trained
    batches = iter(range(1000))
    draw = ClassificationTask.sample_batch

    def interrupted(self, step, rng, phase):
        if next(batches) == 20:
            raise KeyboardInterrupt
        return draw(self, step, rng, phase)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(ClassificationTask, "sample_batch", interrupted)
        run(tmp_path / "interrupted", f"images:{image_folder}", cache)
    assert "interrupted. The same command with --resume continues" in capsys.readouterr().err
    interrupted_metrics = (tmp_path / "interrupted" / "metrics.csv").read_text()
    with pytest.raises(SystemExit, match="continue it with --resume"):
        run(tmp_path / "interrupted", f"images:{image_folder}", cache)
    assert (tmp_path / "interrupted" / "metrics.csv").read_text() == interrupted_metrics
    resumed = run(tmp_path / "interrupted", f"images:{image_folder}", cache, "--resume")
    assert (tmp_path / "interrupted" / "metrics.csv").read_text() == (out / "metrics.csv").read_text()
    assert resumed["sha256"] == whole["sha256"]
    assert resumed["metrics"] == whole["metrics"]


def test_an_overwritten_run_that_stops_leaves_no_checkpoint_of_the_older_one(
    image_folder, cache, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    for folder in (out, out / "fold-2"):
        folder.mkdir()
        (folder / "checkpoint.pt").write_text("an older run's")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassificationTask, "sample_batch", interrupted)
    with pytest.raises(SystemExit):
        run(out, f"images:{image_folder}", cache, "--folds", "2", "--overwrite")
    assert not list(out.rglob("checkpoint.pt"))


def test_split_by_person_separates_persons(image_folder):
    data = open_dataset(f"images:{image_folder}")
    by_person = data.split(0.25)
    sides = [{data.examples[row].person for row in rows} for rows in (by_person.train, by_person.held_out)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert not by_person.leaks
    random_split = split(data.examples, 0.25, by="random")
    assert random_split.leaks
    assert {data.examples[row].person for row in random_split.train} & {
        data.examples[row].person for row in random_split.held_out
    }


# Commands on RAVDESS


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ravdess")
    ravdess.write_recordings(folder, range(1, 5))
    return folder


@pytest.mark.training
def test_recordings_are_cross_validated_by_actor(recordings, cache, tmp_path):
    words = ("--model-arg", "fusion=late", "--folds", "2", "--epochs", "10", "--lr", "0.01", "--weights", "int8")
    fields = run(tmp_path / "audio", f"ravdess-audio:{recordings}", cache, *words, preset="audio-visual")
    assert fields["commercial"] is False
    assert fields["modalities"] == ["audio"]
    assert "CC BY-NC-SA 4.0" in fields["licence"]
    metrics = {metric["name"]: metric["value"] for metric in fields["metrics"]}
    assert metrics["balanced accuracy (UAR)"] > 0.5  # an eighth by chance
    card = (tmp_path / "audio" / "CARD.md").read_text()
    assert "**Not for commercial use.**" in card
    assert "2 folds, each held out in turn. Split by person: 2 trained on, 2 others held out." in card
    assert "| 1 | actor 0" in card and "± " in card
    predictor = load_audiovisual_model(tmp_path / "audio")
    assert predictor.info.labels == EIGHT
    assert predictor.modalities == ("audio",)


@pytest.mark.training
def test_clips_are_evaluated_with_each_modality_missing(cache, tmp_path):
    for actor in (1, 2, 3):
        for emotion in ("happy", "sad"):
            path = tmp_path / "tree" / f"Actor_{actor:02}" / f"{ravdess.file_stem(emotion, actor, modality=1)}.mp4"
            ravdess.write_clip(path, emotion, actor, face=True)
    words = ("--epochs", "1", "--test-fraction", "0.34", "--model-arg", "fusion=gated")
    fields = run(tmp_path / "clips", f"ravdess:{tmp_path / 'tree'}", cache, *words, preset="audio-visual")
    assert fields["modalities"] == ["video", "audio"]
    assert set(fields["modality_temperatures"]) == {"audio", "video"}
    card = (tmp_path / "clips" / "CARD.md").read_text()
    assert "| audio alone |" in card and "| video alone |" in card


@pytest.mark.training
def test_synthetic_pairs_are_named_in_model_json_and_card(recordings, cache, tmp_path, monkeypatch):
    faces = faces_of_eight()
    monkeypatch.setitem(DATASETS, "ferplus", lambda path: faces)

    def alone(self, examples, media, means):
        raise AssertionError("A recording's file has no face: the metrics would be of audio alone.")

    monkeypatch.setattr(EvaluatedAudioVisualModel, "predict", alone)
    words = ("--faces", f"ferplus:{recordings}", "--epochs", "2", "--freeze-epochs", "2", "--model-arg", "fusion=gated")
    fields = run(tmp_path / "pairs", f"ravdess-audio:{recordings}", cache, *words, preset="audio-visual")
    assert fields["data"].startswith("synthetic pairing of RAVDESS, audio with faces of FER+")
    assert all(metric["data"].startswith("synthetic pairing") for metric in fields["metrics"])
    assert fields["commercial"] is False
    card = (tmp_path / "pairs" / "CARD.md").read_text()
    assert "synthetic pairing" in card and "--faces ferplus:PATH" in card
    assert "| audio alone |" in card and "| video alone |" in card


@pytest.mark.training
def test_whisper_hears_pairs_and_is_named_in_model_json(recordings, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "ferplus", lambda path: faces_of_eight())
    write_ctranslate2(tmp_path / "model.bin", random_arrays(layers=2))
    monkeypatch.setattr(audiovisual_adapter, "find_pretrained", lambda: tmp_path / "model.bin")
    words = ("--faces", f"ferplus:{recordings}", "--epochs", "2", "--mixup-prob", "1", "--model-arg", "fusion=gated")
    words += ("--model-arg", "voice=whisper", "--weights", "float16")
    fields = run(tmp_path / "pairs", f"ravdess-audio:{recordings}", cache, *words, preset="audio-visual")
    assert "OpenAI's Whisper tiny.en (MIT)" in fields["licence"]
    assert "sound at 16 kHz" in fields["input"]
    encoder = load_audiovisual_model(tmp_path / "pairs").network.audio.encoder
    expected = random_arrays(layers=2)["encoder/layer_1/ffn/linear_0/weight"]
    np.testing.assert_array_equal(encoder.layers[1].linear1.weight.detach(), expected)
    assert open_models([str(tmp_path / "pairs")], STORE)[0].run_once()


def faces_of_eight() -> Dataset:
    """Return two images of each of FER+'s seven labels on each side."""
    images = np.random.default_rng(0).integers(0, 255, (28, 48, 48), dtype=np.uint8)
    examples = tuple(Example(SEVEN[index % 7], image) for index, image in enumerate(images))
    own = Split(np.arange(14), np.arange(14, 28), leaks=False, reason="Made up.")
    return Dataset("FER+", "images", SEVEN, examples, "none", published_split=own)


def test_pairing_names_labels_without_faces(recordings):
    data = pair_with_faces(open_dataset(f"ravdess-audio:{recordings}"), faces_of_eight())
    assert data.name == "synthetic pairing of RAVDESS, audio with faces of FER+"
    assert not data.commercial
    few = replace(faces_of_eight(), labels=("happy", "sad"))
    with pytest.raises(DataInvalid, match="no faces for anger, disgust, fear, neutral, surprise"):
        pair_with_faces(open_dataset(f"ravdess-audio:{recordings}"), few)


# Refusals


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["improved-cnn", "--data", "nothing:here"],
            "There is no set 'nothing' of images, clips or recordings; name one of ferplus",
        ),
        (["improved-cnn", "--data", "images:nowhere"], "There is no nowhere; name the folder"),
        (["audio-visual", "--data", "{image_folder}", "--model-arg", "fusion=early"], "fusion early"),
        (["audio-visual", "--data", "{image_folder}", "--model-arg", "voice=whisper"], "takes voice=cnn only"),
        (["improved-cnn", "--data", "{image_folder}", "--model-arg", "hidden"], "--model-arg takes NAME=VALUE"),
        (["improved-cnn", "--data", "{image_folder}", "--model-arg", "depth=3"], "improved-cnn cannot be built"),
        (["improved-cnn", "--data", "{image_folder}", "--pretrained", "x"], "omit --pretrained"),
        (["compact-emotimesh-classifier", "--data", "{image_folder}", "--mixup-alpha", "0.2"], "train without mixup"),
        (
            ["improved-cnn", "--data", "{image_folder}", "--freeze-epochs", "2"],
            "improved-cnn has no backbone to freeze",
        ),
        (["improved-cnn", "--data", "{image_folder}", "--model-arg", "hidden=-3"], "improved-cnn cannot be built"),
        (["improved-cnn", "--data", "{image_folder}", "--epochs", "0"], "--epochs must be at least 1; it is 0"),
        (["improved-cnn", "--data", "{image_folder}", "--batch-size", "0"], "--batch-size must be at least 1; it is 0"),
        (["improved-cnn", "--data", "{image_folder}", "--eval-every", "0"], "--eval-every must be at least 1; it is 0"),
        (
            ["improved-cnn", "--data", "{image_folder}", "--grad-accumulation", "0"],
            "--grad-accumulation must be at least 1; it is 0",
        ),
        (["improved-cnn", "--data", "{image_folder}", "--seed", "-1"], "--seed must be at least 0 and .*; it is -1"),
        (["improved-cnn", "--data", "{image_folder}", "--lr", "nan"], "--lr must be more than 0; it is nan"),
        (
            ["improved-cnn", "--data", "{image_folder}", "--val-fraction", "0"],
            "--val-fraction must be more than 0 and less than 1; it is 0",
        ),
        (
            ["improved-cnn", "--data", "{image_folder}", "--mixup-prob", "1.2"],
            "--mixup-prob must be at least 0 and at most 1; it is 1.2",
        ),
        (
            ["audio-visual", "--data", "{image_folder}", "--drop-video", "0.7", "--drop-audio", "0.7"],
            "add up to at most 1, not 1.4",
        ),
        (["improved-cnn", "--data", "{one}"], "one has one label, happy; a classifier needs two or more"),
        (["improved-cnn", "--data", "{image_folder}", "--folds", "2", "--patience", "3"], "omit --patience or --folds"),
        (["improved-cnn", "--data", "{image_folder}", "--seed", "1" + 30 * "0"], "--seed must be .* at most"),
        (["emotimesh", "--data", "{faceless}", "--model-arg", "depth=3"], "emotimesh cannot be built"),
        (["emotimesh", "--data", "{faceless}"], "0 of 4 images can be trained on, .* no face or sound was found"),
        (
            ["improved-cnn", "--data", "{recordings}"],
            "improved-cnn reads images, but RAVDESS, audio holds recordings",
        ),
        (
            ["vit-scratch", "--data", "{image_folder}", "--test-fraction", "1.5"],
            "--test-fraction must be more than 0 and less than 1",
        ),
    ],
)
def test_invalid_options_and_data_are_refused(words, reason, image_folder, recordings, cache, tmp_path):
    (tmp_path / "one").mkdir()
    shutil.copytree(image_folder / "happy", tmp_path / "one" / "happy")
    for name in ("happy/1", "happy/2", "sad/3", "sad/4"):
        (tmp_path / "faceless" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "faceless" / f"{name}.png"), np.full((32, 32, 3), 60 * int(name[-1]), np.uint8))
    sets = {"image_folder": f"images:{image_folder}", "one": f"pictures:{tmp_path / 'one'}"}
    sets["faceless"] = f"images:{tmp_path / 'faceless'}"
    words = [word.format(**sets, recordings=f"ravdess-audio:{recordings}") for word in words]
    with pytest.raises(SystemExit, match=reason):
        main(["train", *words, "--out", str(tmp_path / "out"), "--cache", str(cache)])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--weights", "bf16", "choose from 'float32', 'float16', 'int8'"),
        ("--bf16", "yes", "'yes' is not 1, 0, true or false"),
        ("--threads", "0", "'0' is not a whole number, 1 or more"),
    ],
)
def test_invalid_values_are_refused_by_the_parser(option, value, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "improved-cnn", "--data", "images:nowhere", "--out", str(tmp_path), option, value])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train improved-cnn", "explain resemotenet", "compare vit"])
def test_out_that_is_a_file_is_refused_before_any_work(command, tmp_path):
    (tmp_path / "photo.jpg").write_text("the user's")
    with pytest.raises(SystemExit, match=r"photo\.jpg is a file; name another folder with --out"):
        main([*command.split(), "--data", f"images:{tmp_path}", "--out", str(tmp_path / "photo.jpg")])
    assert (tmp_path / "photo.jpg").read_text() == "the user's"


def test_refused_command_keeps_the_log_of_an_older_model(image_folder, tmp_path):
    (tmp_path / "train.log").write_text("an older log")
    with pytest.raises(SystemExit, match="--model-arg takes NAME=VALUE"):
        main(f"train improved-cnn --data images:{image_folder} --out {tmp_path} --model-arg hidden".split())
    assert (tmp_path / "train.log").read_text() == "an older log"


def test_a_full_disk_ends_in_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("unexpected pos 387264 vs 387160")

    checkpoint.save(tmp_path / "checkpoint.pt", {"step": 1})
    with monkeypatch.context() as patch, pytest.raises(DataInvalid, match="make room on its disk, and continue"):
        patch.setattr(torch, "save", full)
        checkpoint.save(tmp_path / "checkpoint.pt", {"step": 2})
    assert torch.load(tmp_path / "checkpoint.pt") == {"step": 1}

    def unwritten(args):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(export, "run", unwritten)
    with pytest.raises(SystemExit, match="No space left on device; make room on their disk"):
        main(["export", "vit", "--weights", "int8", "--data", "images:nowhere", "--out", str(tmp_path / "out")])


def test_a_model_json_that_cannot_be_written_stays_as_it_was(tmp_path):
    write_json(tmp_path, {"name": "mine"})
    with pytest.raises(UnicodeEncodeError):
        write_json(tmp_path, {"name": "\udcff"})
    assert json.loads((tmp_path / "model.json").read_text()) == {"name": "mine"}
