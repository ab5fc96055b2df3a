"""Test the recipes of the shipped models: each overfits synthetic faces, resumes bit for bit, and writes a model."""

import itertools
import json
import logging
import shutil
import zlib
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.faces.features import CropKind
from moodreel.models.face_registry import face_model_registry
from moodreel.models.networks import efficientnet_lite
from moodreel.models.networks.efficientnet_lite import EfficientNetLiteNet
from moodreel.training.__main__ import main
from moodreel.training.data.fer2013 import VOTE_COLUMNS
from moodreel.training.data.ferplus import FER2013_LABELS
from moodreel.training.data.label_mapping import map_label
from moodreel.training.data.loading import DataContext
from moodreel.training.engine import trainer
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.evaluation import predict as prediction
from moodreel.training.evaluation import pseudo_sequences
from moodreel.training.experiment.efficientnet_init import load_pretrained
from moodreel.training.experiment.preset import load_preset
from moodreel.training.experiment.recipe import STORE, RunRequest
from moodreel.training.recipes import face_expression, face_recipe, moodreel_five, multi_head_task
from moodreel.training.recipes.task_table import RECIPES, configure
from tests.models.test_multi_head import randomize_network
from tests.training.test_training import made_faces, votes, write_muxspace, write_split

SEVEN_OF_FIVE = ("anger", "happy", "surprise", "neutral", "sad")
"""One of the seven labels for each of the five, in their order."""


def request_for(preset, folder, *, model=None, data=None, out=None, **values):
    """Return a run of a preset with other values of its options."""
    preset = load_preset(preset)
    config, options = configure(preset, values)
    return RunRequest(
        preset=preset.name,
        architecture=preset.architecture,
        model={**preset.model, **(model or {})},
        config=config,
        options=options,
        data={"ferplus": folder, **(data or {})},
        out=out or folder / "out",
        context=DataContext(STORE, folder),
        command=f"python -m moodreel.training train {preset.name}",
    )


def run(request):
    """Train, write and measure a model. Returns the evaluation on its card."""
    reports = []
    measure = face_recipe.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            face_recipe, "evaluate", lambda *args, **kwargs: reports.append(measure(*args, **kwargs)) or reports[-1]
        )
        recipe_of(request).prepare(request)()
    return reports[0]


def recipe_of(request):
    return RECIPES[load_preset(request.preset).task]


def train(request):
    return recipe_of(request).train(request)


COLUMN_OF = {map_label(name, SEVEN): column for column, name in enumerate(VOTE_COLUMNS[:7])}
"""Index of the column of FER+'s votes for each label."""


def write_ferplus(folder, count):
    """Write FER+ arrays of blank images with all votes for one label. Returns the labels (N,)."""
    emotion = np.arange(count) % 5
    rows = [np.eye(10, dtype=np.uint8)[COLUMN_OF[SEVEN_OF_FIVE[index]]] * 10 for index in emotion]
    fer2013 = [FER2013_LABELS.index(SEVEN_OF_FIVE[index]) for index in emotion]
    for split in ("train", "valid"):
        write_split(folder, split, rows, fer2013=fer2013)
    return emotion


def patch_landmarker(monkeypatch, faces):
    """Make the face landmarker find these faces, in their order, in any images."""
    landmarks = np.repeat(np.arange(len(faces.crops), dtype=np.float32), 478 * 3).reshape(-1, 478, 3)
    monkeypatch.setattr(DataContext, "extract_faces", lambda *_: replace(faces, landmarks=landmarks))
    for module in (face_expression, moodreel_five, prediction):
        monkeypatch.setattr(module, "crop_image", lambda image, landmarks, kind: crop_of(faces, landmarks, kind))
    monkeypatch.setattr(pseudo_sequences, "SEQUENCES", 30)


def crop_of(faces, landmarks, kind):
    """Return the crop of the face that the landmarks number."""
    gray = faces.crops[int(landmarks[0, 0])]
    return gray if kind is CropKind.GRAY else np.repeat(cv2.resize(gray, (96, 96))[..., None], 3, axis=2)


TINY = {"width": 32, "embedding": 16, "hidden": 8, "dropout": 0.0}
SMALL_RUN = {"fer2013_weight": 0.0, "mixup_max": 0.0, "calibration_clips": 40, "batch_size": 64}
SMALL_RUN |= {"sequence_batch_size": 16}


@pytest.fixture(scope="module")
def compact_emotimesh(tmp_path_factory):
    """Train a compact EmotiMesh-Net. Returns its folder and its evaluation."""
    folder = tmp_path_factory.mktemp("compact-emotimesh")
    out, values = folder / "store" / "model", {**SMALL_RUN, "epochs": 60, "sequence_steps": 60}
    with pytest.MonkeyPatch.context() as patch:
        patch_landmarker(patch, made_faces(write_ferplus(folder, 150)))
        return out, run(request_for("compact-emotimesh", folder, out=out, model=TINY, **values))


@pytest.mark.training
def test_compact_emotimesh_overfits_synthetic_faces(compact_emotimesh):
    out, report = compact_emotimesh
    assert report.metrics.accuracy == 1
    assert report.metrics.confusion[:, :-1].tolist() == (30 * np.eye(5, dtype=int)).tolist()
    assert report.sequences.by_kind["steady"][0] > 0.9
    served = face_model_registry(out.parent, default="model").get()
    assert served.info.card.metrics[0]["value"] == 1
    assert "**1.000**" in (out / "CARD.md").read_text()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Return a function that makes requests for a tiny compact EmotiMesh-Net."""
    patch_landmarker(monkeypatch, made_faces(write_ferplus(tmp_path, 50)))
    values = {"fer2013_weight": 0.0, "calibration_clips": 20, "epochs": 1, "batch_size": 16, "sequence_batch_size": 4}
    model = {"width": 8, "embedding": 4, "hidden": 2}
    return partial(request_for, "compact-emotimesh", tmp_path, model=model, **values)


def test_one_seed_gives_the_same_weights(small):
    first, again = (train(small(sequence_steps=2)).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_run_interrupted_in_its_second_phase_resumes_to_the_same_weights(tmp_path, small, monkeypatch, interrupted_at):
    small = partial(small, sequence_steps=6, eval_every=2)
    whole = train(small(out=tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "fit", partial(interrupted_at, 12))
        train(small(out=tmp_path / "interrupted"))
    resumed = train(replace(small(out=tmp_path / "interrupted"), resume=True))
    assert same_weights(resumed.network, whole.network)
    assert resumed.fields["temperature"] == whole.fields["temperature"]
    assert (tmp_path / "interrupted" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def same_weights(network, other):
    return all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("missing", ["data", "valid", "muxspace"])
def test_data_is_checked_before_the_folder_is_changed(tmp_path, missing):
    data, out = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    out.mkdir()
    (out / "train.log").write_text("an older log")
    for split in ("train", "valid"):
        if split != missing:
            write_split(data, split, [votes(neutral=10)], fer2013=[6])
    ferplus = f"ferplus:{tmp_path / 'nowhere' if missing == 'data' else data}"
    arguments = ["--data", ferplus, "--data", f"muxspace:{tmp_path / 'nowhere'}", "--out", str(out), "--overwrite"]
    with pytest.raises(SystemExit, match=r"moodreel\.training: "):
        main(["train", "face-expression", *arguments])
    assert (out / "train.log").read_text() == "an older log"


@pytest.mark.parametrize("preset", ["vit", "compact-emotimesh"])
def test_arguments_of_the_network_are_checked_before_faces_are_found(tmp_path, preset):
    request = request_for(preset, tmp_path / "nowhere", model={"depth": 3})
    with pytest.raises(DataInvalid, match=f"{preset} cannot be built: .*'depth'. Check its --model-arg"):
        recipe_of(request).prepare(request)


def patch_banded_faces(monkeypatch, folder):
    """Make the landmarker find crops with a bright band whose height is the label. Returns the faces."""
    emotion = write_ferplus(folder, 150)
    faces = made_faces(emotion)
    faces.crops[:] = 60
    for row, index in enumerate(emotion):
        faces.crops[row, 9 * index : 9 * index + 9] = 200
    patch_landmarker(monkeypatch, faces)
    monkeypatch.setattr(multi_head_task, "augment_crops", lambda crops, rng, clean_prob=1: crops)
    return faces


@pytest.fixture
def banded_faces(tmp_path, monkeypatch):
    return patch_banded_faces(monkeypatch, tmp_path)


SHORT_RUN = {"steps": 40, "batch_size": 32, "tau": 0.0, "mixup_prob": 0.0, "ema_decay": 0.8}
SHORT_RUN |= {"label_smoothing": 0.0, "warmup": 5}
SMALL_VIT = {"width": 32, "heads": 2, "layers": 1}


@pytest.mark.training
def test_face_expression_and_moodreel_five_overfit_synthetic_faces(tmp_path, banded_faces, monkeypatch):
    # With its own momentum a short run would be evaluated with the statistics of its start.
    monkeypatch.setattr(efficientnet_lite, "_BATCHNORM_MOMENTUM", 0.3)
    store, pretrained = tmp_path / "store", tmp_path / "imagenet.pth"
    torch.save(published_weights(EfficientNetLiteNet()), pretrained)
    options = SHORT_RUN | {"steps": 48, "batch_size": 16, "lr": 1e-3, "pretrained": pretrained}
    report = run(request_for("face-expression", tmp_path, out=store / "frame", **options))
    assert report.metrics.accuracy > 0.95
    assert report.five.accuracy >= report.metrics.accuracy
    report = run(
        request_for("moodreel-five", tmp_path, out=store / "pooled", frame=str(store / "frame"), weights="float32")
    )
    assert report.metrics.accuracy > 0.95
    served = face_model_registry(store, default="pooled").get()
    assert served.info.labels == FIVE
    for name in ("frame", "pooled"):
        text = (store / name / "CARD.md").read_text() + (store / name / "model.json").read_text()
        assert str(tmp_path) not in text


def published_weights(network):
    """Return a network's weights by the names of the package efficientnet-pytorch."""
    kinds = {"stem": ["_conv_stem"], "top": ["_conv_head"]}
    names = {f"{part}.{inner}": outer for part, [name] in kinds.items() for inner, outer in layer("", name)}
    for number, block in enumerate(network.blocks):
        convs = ["_depthwise_conv", "_project_conv"]
        convs = convs if len(block.layers) == 2 else ["_expand_conv", *convs]
        for index, conv in enumerate(convs):
            names |= {f"blocks.{number}.layers.{index}.{a}": b for a, b in layer(f"_blocks.{number}.", conv)}
    return {names[key]: value for key, value in network.state_dict().items() if key in names}


def layer(prefix, conv):
    """Return pairs of our names and the package's, of a convolution and its batch normalization."""
    norm = {"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1"}
    own = ("weight", "bias", "running_mean", "running_var")
    yield "conv.weight", f"{prefix}{conv}.weight"
    yield from ((f"norm.{each}", f"{prefix}{norm.get(conv, '_bn2')}.{each}") for each in own)


def test_pretrained_weights_fill_all_layers_but_the_heads(tmp_path):
    torch.manual_seed(4)
    source, network = randomize_network(EfficientNetLiteNet()), EfficientNetLiteNet()
    torch.save(published_weights(source), tmp_path / "imagenet.pth")
    load_pretrained(network, tmp_path / "imagenet.pth")
    differ = {
        key.split(".")[0]
        for key, value in source.state_dict().items()
        if not torch.equal(value, network.state_dict()[key]) and not key.endswith("num_batches_tracked")
    }
    assert differ == {"heads"}
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DataInvalid, match="does not hold an EfficientNet-Lite0"):
        load_pretrained(network, tmp_path / "other.pth")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Train a small vision transformer on the banded faces. Returns its folder."""
    folder = tmp_path_factory.mktemp("teacher")
    out = folder / "store" / "appearance"
    with pytest.MonkeyPatch.context() as patch:
        patch_banded_faces(patch, folder)
        run(request_for("vit", folder, out=out, model=SMALL_VIT, **SHORT_RUN, teacher=""))
    return out


@pytest.mark.training
@pytest.mark.parametrize(
    ("preset", "model"),
    [("resemotenet", {"width": 1 / 8, "blank": 0.0, "dropout": 0.0}), ("vit", SMALL_VIT)],
    ids=["ResEmoteNet", "ViT"],
)
def test_student_learns_from_its_teacher(tmp_path, banded_faces, teacher, preset, model):
    store, neutral_only = tmp_path / "store", tmp_path / "neutral-only"
    neutral_only.mkdir()
    write_split(neutral_only, "train", [votes(neutral=10)] * 150, fer2013=[6] * 150)
    shutil.copy(tmp_path / "valid.npz", neutral_only)
    distillation = {"teacher": str(teacher), "distill_weight": 1.0}
    report = run(request_for(preset, neutral_only, out=store / preset, model=model, **SHORT_RUN, **distillation))
    assert report.metrics.accuracy > 0.95, "its own labels are all neutral"
    served = face_model_registry(store).get(preset)
    assert served.info.labels == SEVEN
    card = (store / preset / "CARD.md").read_text()
    assert "predictions of `appearance 1` for the crop" in card
    assert str(tmp_path) not in card + (store / preset / "model.json").read_text()


def test_an_alpha_of_zero_is_no_mixup(tmp_path, banded_faces):
    values = SHORT_RUN | {"steps": 2, "mixup_prob": 1.0, "teacher": ""}
    weights = [
        train(request_for("vit", tmp_path, model=SMALL_VIT, **values | mixup)).network.state_dict()
        for mixup in ({"mixup_alpha": 0.0}, {"mixup_prob": 0.0})
    ]
    assert all(map(torch.equal, weights[0].values(), weights[1].values()))


def test_shares_that_leave_none_for_ferplus_are_refused_before_data_is_read(tmp_path):
    shares = ["--webfaces-share=0.6", "--muxspace-share=0.6"]
    with pytest.raises(SystemExit, match=r"must add up to less than 1, not 1\.2"):
        main(["train", "vit", f"--data=ferplus:{tmp_path / 'nowhere'}", f"--out={tmp_path / 'model'}", *shares])
    assert not list(tmp_path.iterdir())


@pytest.mark.training
def test_each_head_learns_the_labels_of_its_convention(tmp_path, banded_faces, monkeypatch, interrupted_at):
    """muxspace's labels are those of FER+, rotated by one."""
    seven = np.array([SEVEN.index(SEVEN_OF_FIVE[index]) for index in np.arange(150) % 5])
    muxspace_label_of = {
        index: SEVEN[other] for index, other in zip(sorted({*seven}), np.roll(sorted({*seven}), 1), strict=True)
    }
    people = (f"P{number}" for number in itertools.count() if zlib.crc32(f"P{number}".encode()) % 5)
    people = {
        f"{name}_0001.jpg": (VOTE_COLUMNS[COLUMN_OF[muxspace_label_of[index]]], 90)
        for name, index in zip(people, seven, strict=False)
    }
    write_muxspace(tmp_path, people)
    values = SHORT_RUN | {"steps": 90, "batch_size": 64, "muxspace_share": 0.5, "teacher": ""}
    data = {"muxspace": tmp_path}
    request = request_for("vit", tmp_path, out=tmp_path / "kept", model=SMALL_VIT, data=data, **values)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "fit", partial(interrupted_at, 63))
        train(request)
    network = train(replace(request, resume=True)).network
    with torch.inference_mode():
        predicted = network.predict_batched(torch.from_numpy(banded_faces.crops)).argmax(dim=2).numpy()
    ferplus, _, _, muxspace = predicted.T
    assert (ferplus == seven).mean() > 0.95
    assert [SEVEN[label] for label in muxspace] == [muxspace_label_of[index] for index in seven]


@pytest.mark.training
def test_resumed_command_writes_the_same_model(tmp_path, banded_faces, monkeypatch, caplog, interrupted_at):
    caplog.set_level(logging.INFO)
    options = {**SHORT_RUN, "steps": 16, "mixup_prob": 0.5, "eval_every": 4, "teacher": ""}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += [f"--model-arg={name}={value}" for name, value in SMALL_VIT.items()]

    def command(out, *more):
        main(["train", "vit", f"--data=ferplus:{tmp_path}", f"--cache={tmp_path}", f"--out={out}", *words, *more])
        return json.loads((out / "model.json").read_text()), (out / "metrics.csv").read_text()

    whole = command(tmp_path / "whole" / "mine")
    out = tmp_path / "interrupted" / "mine"
    with monkeypatch.context() as patch:
        # After the evaluations at 4, 8 and 12, and before that of the last step.
        patch.setattr(trainer, "fit", partial(interrupted_at, 13))
        with pytest.raises(SystemExit):
            command(out)
    assert {path.name for path in out.iterdir()} == {CHECKPOINT, "metrics.csv", "tensorboard", "train.log"}
    augmented = []
    monkeypatch.setattr(
        multi_head_task, "augment_crops", lambda crops, rng, clean_prob=1: augmented.extend(crops) or crops
    )
    assert command(out, "--resume") == whole
    assert len(augmented) == 4 * 32, "only the remaining steps"
    assert face_model_registry(tmp_path / "interrupted").get("mine").info.labels == SEVEN, (
        "it loads beside its checkpoint"
    )
    logged = (out / "train.log").read_text()
    assert logged.index("training: step 4") < logged.index("step 12 of phase 1")
    curve = (out / "CARD.md").read_text().split("| step |")[1].splitlines()[2:6]
    assert [line.split("|")[1].strip() for line in curve] == ["4", "8", "12", "16"]


@pytest.mark.parametrize("teacher", ["compact-emotimesh", "moodreel-five"])
def test_models_that_cannot_be_teachers_are_refused(tmp_path, teacher):
    request = request_for("vit", tmp_path / "nowhere", teacher=teacher)
    with pytest.raises(DataInvalid, match="cannot be a teacher"):
        recipe_of(request).prepare(request)


def test_heads_that_are_not_trained_have_no_weight_in_the_output(tmp_path):
    weights = {"ferplus_weight": 0.0, "fer2013_weight": 0.0, "webfaces_weight": 1.0, "teacher": ""}
    request = request_for("vit", tmp_path / "nowhere", **weights)
    with pytest.raises(DataInvalid, match="raise --ferplus-weight"):
        recipe_of(request).prepare(request)
