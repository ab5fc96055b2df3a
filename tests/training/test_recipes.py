"""The recipes of the shipped models: each learns a made set, resumes bit for bit, and writes a model that serves."""

import itertools
import json
import logging
import shutil
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import DataInvalid
from moodreel.models.face_registry import face_model_registry
from moodreel.training.__main__ import main
from moodreel.training.data.ferplus import FER2013_LABELS, VOTE_LABELS_FIVE, VOTE_LABELS_SEVEN
from moodreel.training.data.loading import DataContext
from moodreel.training.data.muxspace import LABEL_NAMES
from moodreel.training.engine import trainer
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.evaluation import evaluate as evaluation
from moodreel.training.evaluation import pseudo_sequences
from moodreel.training.experiment.preset import load_preset
from moodreel.training.experiment.recipe import STORE, RunRequest
from moodreel.training.recipes import face_recipe
from moodreel.training.recipes import moodreel_five as joint_training
from moodreel.training.recipes import multi_head_task as crops_training
from moodreel.training.recipes.task_table import RECIPES, configure
from tests.training.test_training import made_faces, votes, write_muxspace, write_split


def request_for(preset, folder, *, model=None, data=None, out=None, **values):
    """A run of a preset with other values of its options; without `out` nothing is written."""
    preset = load_preset(preset)
    config, options = configure(preset, values)
    return RunRequest(
        preset=preset.name,
        architecture=preset.architecture,
        model={**preset.model, **(model or {})},
        config=config,
        options=options,
        data={"ferplus": folder, **(data or {})},
        out=out or folder / "nothing",
        context=DataContext(STORE, folder),
        save=out is not None,
        command=f"python -m moodreel.training train {preset.name}",
    )


def run(request):
    """Train, write and measure a model; returns the evaluation that its card is about, and the model."""
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


def write_made_set(folder, count):
    """Blank images of which each shows one emotion for certain. Returns the emotions (N,)."""
    emotion = np.arange(count) % 5
    rows = [np.eye(10, dtype=np.uint8)[VOTE_LABELS_FIVE.index(FIVE[index])] * 10 for index in emotion]
    meant = [FER2013_LABELS.index(VOTE_LABELS_SEVEN[VOTE_LABELS_FIVE.index(FIVE[index])]) for index in emotion]
    for split in ("train", "valid"):
        write_split(folder, split, rows, fer2013=meant)
    return emotion


def find_only(monkeypatch, faces):
    """Have the face landmarker, which is the seam, find these faces in whatever images."""
    for module in (face_recipe, evaluation):
        monkeypatch.setattr(module, "extract_faces", lambda *args, **kwargs: faces)
    monkeypatch.setattr(pseudo_sequences, "SEQUENCES", 30)


TINY = {"width": 32, "embedding": 16, "hidden": 8, "dropout": 0.0}
EASY = {"fer2013_weight": 0.0, "mixup_max": 0.0, "calibration_clips": 40, "batch_size": 64, "sequence_batch_size": 16}


@pytest.mark.training
def test_the_compact_network_learns_a_made_set_by_heart_and_leaves_a_model_that_serves(tmp_path, monkeypatch):
    find_only(monkeypatch, made_faces(write_made_set(tmp_path, 150)))
    out = tmp_path / "store" / "learnt"
    report = run(request_for("compact-emotimesh", tmp_path, out=out, model=TINY, **EASY, epochs=60, sequence_steps=60))
    assert report.metrics.accuracy == 1
    assert report.metrics.confusion[:, :-1].tolist() == (30 * np.eye(5, dtype=int)).tolist()
    assert report.sequences.by_kind["steady"][0] > 0.9
    served = face_model_registry(tmp_path / "store", default="learnt").get()
    assert served.info.card.metrics[0]["value"] == 1
    assert "**1.000**" in (out / "CARD.md").read_text()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """What makes a request for a compact network of the smallest size."""
    find_only(monkeypatch, made_faces(write_made_set(tmp_path, 50)))
    values = {"fer2013_weight": 0.0, "calibration_clips": 20, "epochs": 1, "batch_size": 16, "sequence_batch_size": 4}
    model = {"width": 8, "embedding": 4, "hidden": 2}
    return partial(request_for, "compact-emotimesh", tmp_path, model=model, **values)


def test_the_same_recipe_trains_the_same_network(small):
    first, again = (train(small(sequence_steps=2)).network.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_recipe_that_was_ended_in_its_second_phase_goes_on_to_the_same_network(
    tmp_path, small, monkeypatch, killed_at
):
    small = partial(small, sequence_steps=6, eval_every=2)
    whole = train(small(out=tmp_path / "whole"))
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(trainer, "fit", partial(killed_at, 12))
        train(small(out=tmp_path / "killed"))
    resumed = train(replace(small(out=tmp_path / "killed"), resume=True))
    assert same_weights(resumed.network, whole.network)
    assert resumed.fields["temperature"] == whole.fields["temperature"]
    assert (tmp_path / "killed" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def same_weights(network, other):
    return all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("missing", ["data", "valid", "muxspace"])
def test_training_checks_all_that_it_needs_before_it_touches_what_is_there(tmp_path, missing):
    data, out = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    out.mkdir()
    (out / "train.log").write_text("an hour's work")
    for split in ("train", "valid"):
        if split != missing:
            write_split(data, split, [votes(neutral=10)], fer2013=[6])
    ferplus = f"ferplus:{tmp_path / 'nowhere' if missing == 'data' else data}"
    arguments = ["--data", ferplus, "--data", f"muxspace:{tmp_path / 'nowhere'}", "--out", str(out), "--overwrite"]
    with pytest.raises(SystemExit, match=r"moodreel\.training: "):
        main(["train", "face-expression", *arguments])
    assert (out / "train.log").read_text() == "an hour's work"


@pytest.fixture
def banded(tmp_path, monkeypatch):
    """A made set: what the crops show is a bright band, higher up for each emotion. The seam is the landmarker."""
    emotion = write_made_set(tmp_path, 150)
    faces = made_faces(emotion)
    faces.crops[:] = 60
    for row, index in enumerate(emotion):
        faces.crops[row, 9 * index : 9 * index + 9] = 200
    find_only(monkeypatch, faces)
    monkeypatch.setattr(crops_training, "augment_crops", lambda crops, rng, clean_prob=1: crops)
    monkeypatch.setattr(joint_training, "augment_crop", lambda crop, rng, clean_prob=1: crop)
    return faces


BRIEFLY = {"steps": 40, "finetune_steps": 5, "batch_size": 32, "tau": 0.0, "mixup_prob": 0.0, "ema_decay": 0.8}
BRIEFLY |= {"label_smoothing": 0.0, "warmup": 5}
SMALL_VIT = {"width": 32, "heads": 2, "layers": 1}


@pytest.mark.training
def test_a_face_expression_and_a_joint_model_learn_a_made_set_and_serve(tmp_path, banded):
    store = tmp_path / "store"
    report = run(request_for("face-expression", tmp_path, out=store / "looks", **BRIEFLY))
    assert report.metrics.accuracy > 0.95
    assert report.five.accuracy >= report.metrics.accuracy
    train_and_write = partial(request_for, "compact-emotimesh", tmp_path, model=TINY)
    run(train_and_write(out=store / "shapes", **EASY, epochs=40, sequence_steps=2))

    streams = {"appearance": str(store / "looks"), "landmarks": str(store / "shapes"), "fer2013_weight": 0.0}
    brief = {"sequence_steps": 40, "sequence_batch_size": 16, "calibration_clips": 40}
    report = run(request_for("moodreel-five", tmp_path, out=store / "both", model={"hidden": 8}, **streams, **brief))
    assert report.metrics.accuracy > 0.95
    assert report.sequences.by_kind["burst"][0] > 0.8
    served = face_model_registry(store, default="both").get()
    assert served.info.labels == FIVE
    for name in ("looks", "both"):
        text = (store / name / "CARD.md").read_text() + (store / name / "model.json").read_text()
        assert str(tmp_path) not in text


@pytest.mark.training
@pytest.mark.parametrize(
    ("preset", "model"),
    [("resemotenet", {"width": 1 / 8, "blank": 0.0, "dropout": 0.0}), ("vit", SMALL_VIT)],
    ids=["ResEmoteNet", "ViT"],
)
def test_a_network_learns_what_its_teacher_says_and_serves(tmp_path, banded, preset, model):
    store, untold = tmp_path / "store", tmp_path / "untold"
    run(request_for("vit", tmp_path, out=store / "looks", model=SMALL_VIT, **BRIEFLY, teacher=""))
    untold.mkdir()
    write_split(untold, "train", [votes(neutral=10)] * 150, fer2013=[6] * 150)
    shutil.copy(tmp_path / "valid.npz", untold)
    taught = {"teacher": str(store / "looks"), "distill_weight": 1.0}
    report = run(request_for(preset, untold, out=store / preset, model=model, **BRIEFLY, **taught))
    assert report.metrics.accuracy > 0.95, "its labels were neutral all of them"
    served = face_model_registry(store).get(preset)
    assert served.info.labels == SEVEN
    card = (store / preset / "CARD.md").read_text()
    assert "predictions of `looks` for the crop" in card
    assert str(tmp_path) not in card + (store / preset / "model.json").read_text()


@pytest.mark.training
def test_each_head_learns_its_own_convention_and_muxspace_is_no_reason_to_forget_another(
    tmp_path, banded, monkeypatch, killed_at
):
    """muxspace's labeler calls what FER+'s call neutral sad, and so on around."""
    seven = np.array(
        [SEVEN.index(VOTE_LABELS_SEVEN[VOTE_LABELS_FIVE.index(FIVE[index])]) for index in np.arange(150) % 5]
    )
    called = {index: SEVEN[other] for index, other in zip(sorted({*seven}), np.roll(sorted({*seven}), 1), strict=True)}
    named = {ours: theirs for theirs, ours in LABEL_NAMES.items()}
    people = (f"P{number}" for number in itertools.count() if zlib.crc32(f"P{number}".encode()) % 5)
    people = {f"{name}_0001.jpg": (named[called[index]], 90) for name, index in zip(people, seven, strict=False)}
    write_muxspace(tmp_path, people)
    values = BRIEFLY | {"steps": 60, "muxspace_batch_size": 32, "teacher": ""}
    data = {"muxspace": tmp_path}
    request = request_for("vit", tmp_path, out=tmp_path / "kept", model=SMALL_VIT, data=data, **values)
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(trainer, "fit", partial(killed_at, 63))
        train(request)
    network = train(replace(request, resume=True)).network
    with torch.inference_mode():
        predicted = network.predict_batched(torch.from_numpy(banded.crops)).argmax(dim=2).numpy()
    ferplus, _, muxspace = predicted.T
    assert (ferplus == seven).mean() > 0.95
    assert [SEVEN[label] for label in muxspace] == [called[index] for index in seven]


@pytest.mark.training
def test_a_command_that_was_killed_goes_on_to_the_same_model(tmp_path, banded, monkeypatch, caplog, killed_at):
    caplog.set_level(logging.INFO)
    options = {**BRIEFLY, "steps": 10, "finetune_steps": 6, "mixup_prob": 0.5, "eval_every": 4, "teacher": ""}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += [f"--model-arg={name}={value}" for name, value in SMALL_VIT.items()]

    def command(out, *more):
        main(["train", "vit", f"--data=ferplus:{tmp_path}", f"--cache={tmp_path}", f"--out={out}", *words, *more])
        return json.loads((out / "model.json").read_text()), (out / "metrics.csv").read_text()

    whole = command(tmp_path / "whole" / "mine")
    out = tmp_path / "killed" / "mine"
    with monkeypatch.context() as dying:
        # After the evaluations at 4, 8 and 10, and before that of the finetuning's fourth step.
        dying.setattr(trainer, "fit", partial(killed_at, 13))
        with pytest.raises(SystemExit):
            command(out)
    assert {path.name for path in out.iterdir()} == {CHECKPOINT, "metrics.csv", "tensorboard", "train.log"}
    drawn = []
    monkeypatch.setattr(crops_training, "augment_crops", lambda crops, rng, clean_prob=1: drawn.extend(crops) or crops)
    assert command(out, "--resume") == whole
    assert len(drawn) == 6 * 32, "only what was left to learn"
    assert face_model_registry(tmp_path / "killed").get("mine").info.labels == SEVEN, "served beside its checkpoint"
    logged = (out / "train.log").read_text()
    assert logged.index("training: step 4") < logged.index("step 10 of phase 1")
    rows = [line.split("|")[1:3] for line in (out / "CARD.md").read_text().splitlines() if "| finetuning |" in line]
    assert rows == [[" finetuning ", " 4 "], [" finetuning ", " 6 "]]


@pytest.mark.parametrize("teacher", ["compact-emotimesh", "moodreel-five"])
def test_who_cannot_teach_is_refused_before_anything_is_read(tmp_path, teacher):
    request = request_for("vit", tmp_path / "nowhere", teacher=teacher)
    with pytest.raises(DataInvalid, match="cannot be a teacher"):
        recipe_of(request).prepare(request)
