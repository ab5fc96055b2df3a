"""Tests of evaluated models on images, clips and sound, from a model's name to the report, and of costs."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from moodreel.emotions import EIGHT, FIVE, SEVEN
from moodreel.errors import DataInvalid, ModelNotFound, MoodreelError
from moodreel.faces.features import CropKind, crop_square
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models.checkpoint import file_sha256
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_card import ModelCard
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.networks.vit import ViTNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.__main__ import main
from moodreel.training.augmentation.pseudo_sequences import SequenceKind
from moodreel.training.comparison import cost as costs
from moodreel.training.comparison.cost import count_flops, measure_costs
from moodreel.training.comparison.report import NUMBERS, PAGE, TEXT
from moodreel.training.data import loading
from moodreel.training.data.examples import Example
from moodreel.training.data.face_cache import FaceTable
from moodreel.training.data.loading import DataContext
from moodreel.training.evaluation import pseudo_sequences
from moodreel.training.evaluation.evaluate import evaluate
from moodreel.training.evaluation.face_model import EvaluatedFaceModel
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.evaluation.predict import predict_rows
from moodreel.training.export.model_folder import write_folder
from moodreel.training.recipes.face_recipe import FERPLUS_DATA
from tests.support import ravdess, synthetic_frames, synthetic_video
from tests.training.test_training import votes, write_split

STORE = Path(__file__).parents[2] / "model_store"
CONTEXT = DataContext(STORE, Path())


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch):
    """Time few repetitions: no test here depends on the latency."""
    monkeypatch.setattr(costs, "REPETITIONS", 3)
    monkeypatch.setattr(costs, "WARM_UP", 1)


def bands(emotion):
    """Return images (N, 48, 48) with a bright band at a height for each of seven labels."""
    images = np.random.default_rng(0).integers(40, 80, (len(emotion), 48, 48), np.uint8)
    for row, index in enumerate(emotion):
        images[row, 6 * index : 6 * index + 6] = 220
    return images


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Train a small ViT on bands, and copy it with the outputs of its head shuffled."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    fields = {"classes": 7, "stem": [8, 8, 16], "width": 32, "heads": 2, "layers": 1, "shares": [1.0]}
    network = ViTNet(**fields)
    truth = np.arange(140) % 7
    images, labels = torch.from_numpy(bands(truth)), torch.from_numpy(truth)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(40):
        loss = nn.functional.cross_entropy(network(images)[:, 0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    card_fields = {"architecture": "vit", "arguments": fields, "labels": list(SEVEN), "recipe": {}}
    write_folder(folder / "sound", network.state_dict(), card_fields, data=FERPLUS_DATA, licence="")
    shutil.copytree(folder / "sound", folder / "shuffled")
    weights = safetensors.torch.load_file(folder / "sound" / "weights.safetensors")
    for name in ("heads.weight", "heads.bias"):
        weights[name] = weights[name].roll(1, dims=0).contiguous()
    safetensors.torch.save_file(weights, folder / "shuffled" / "weights.safetensors")
    card = json.loads((folder / "shuffled" / "model.json").read_text())
    card |= {"name": "shuffled", "sha256": file_sha256(folder / "shuffled" / "weights.safetensors")}
    (folder / "shuffled" / "model.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def banded(tmp_path, monkeypatch):
    """Write bands as FER+; the face landmarker is faked: each image is its own crop, and some faces are not found."""
    voted = ("happiness", "surprise", "sadness", "anger", "disgust", "fear", "neutral")
    for split, count in (("train", 210), ("valid", 140)):
        emotion = np.arange(count) % 7
        rows = [votes(**{voted[index]: 10}) for index in emotion]
        write_split(tmp_path, split, rows, fer2013=[0] * count, images=bands(emotion) + (split == "train"))

    def find_all(images, *args, **options):
        crops = np.stack([images[row] for row in range(len(images))])
        blank = np.zeros((len(crops), 478, 3), np.float32)
        found = np.arange(len(crops)) % 20 != 7
        return FaceTable(blank, blank, blank[:, :52, 0], blank[:, 0], crops, found)

    monkeypatch.setattr(loading, "extract_faces", find_all)
    return tmp_path


def compare(*arguments, data, out, more=()):
    main(["compare", *map(str, arguments), "--data", data, "--out", str(out), "--resamples", "300", *more])
    return json.loads((out / NUMBERS).read_text())


@pytest.mark.training
def test_a_model_is_better_than_its_copy_with_a_shuffled_head_and_not_than_itself(models, banded, tmp_path, capsys):
    data = f"ferplus:{banded}"
    numbers = compare(models / "sound", models / "sound", models / "shuffled", data=data, out=tmp_path / "out")
    assert (numbers["winner"], numbers["loser"]) == (None, "shuffled")
    assert [result["name"] for result in numbers["results"]] == ["sound", "sound (2)", "shuffled"]
    sound, again, shuffled = (result["metrics"] for result in numbers["results"])
    assert sound["accuracy"] == again["accuracy"] == pytest.approx(sound["found"]) == pytest.approx(0.95)
    assert shuffled["accuracy"] == 0
    assert numbers["results"][0]["gap"]["examples"] == 210
    numbers = compare(
        models / "sound", models / "shuffled", data=data, out=tmp_path / "two", more=["--gap-sample", "0"]
    )
    assert numbers["winner"] == "sound"
    printed = capsys.readouterr().out
    assert "sound is better than the other in balanced accuracy." in printed
    assert "FER+'s own split" in printed
    for name in (PAGE, TEXT, "faces-1.png", "faces-2.png"):
        assert (tmp_path / "two" / name).is_file()
    assert numbers["command"].startswith("python -m moodreel.training compare ")
    assert "--gap-sample 0" in numbers["command"]


def write_faces(folder, portrait):
    """Write four crops of a smile, two of them labeled sad, and an image without a face."""
    for row, label in enumerate(("happy", "happy", "sad", "sad")):
        face = portrait[20 + 3 * row : 240, 110 + 5 * row : 330, ::-1]
        path = folder / label / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.resize(face, (160, 160)))
    cv2.imwrite(str(folder / "happy" / "blank.png"), np.full((90, 90, 3), 90, np.uint8))


def test_shipped_models_are_compared_on_a_folder_of_images_by_group(tmp_path, portrait):
    data = tmp_path / "pictures"
    write_faces(data, portrait)
    groups = "file,group\nhappy/0.png,a\nhappy/1.png,a\nsad/2.png,b\nsad/3.png,b\nhappy/blank.png,c\n"
    (tmp_path / "groups.csv").write_text(groups)
    more = ["--groups", str(tmp_path / "groups.csv"), "--cache", str(tmp_path / "cache")]
    numbers = compare("resemotenet", "vit", data=f"images:{data}", out=tmp_path / "out", more=more)
    for result in numbers["results"]:
        assert result["metrics"]["recall"] == {"happy": pytest.approx(2 / 3), "sad": 0}
        assert [group["accuracy"] for group in result["groups"]] == [0, 0, 1]
        assert result["metrics"]["found"] == pytest.approx(0.8)
    assert numbers["winner"] is None
    assert "the data set has no held-out part" in numbers["split_description"]


def test_a_requested_random_split_is_marked_as_leaking(tmp_path, portrait):
    data = tmp_path / "pictures"
    write_faces(data, portrait)
    more = ["--split-by", "random", "--test-fraction", "0.5", "--cache", str(tmp_path / "cache")]
    numbers = compare("vit", data=f"images:{data}", out=tmp_path / "out", more=more)
    assert numbers["leaks"] is True
    assert (tmp_path / "out" / TEXT).read_text().startswith("# LEAKS: ")
    assert "--split-by random" in numbers["command"]


def test_a_clip_without_a_face_counts_as_not_found(tmp_path):
    for name, frames in (("face", synthetic_frames.face_frames(8)), ("noise", synthetic_frames.noise_frames(8))):
        (tmp_path / f"{name}.mp4").write_bytes(synthetic_video.encode_video(frames, fps=5))
    examples = [Example("happy", tmp_path / f"{name}.mp4") for name in ("face", "noise")]
    [model] = open_models(["resemotenet"], STORE)
    predictions = model.predict(examples, "clips", CONTEXT)
    assert predictions.found.tolist() == [True, False]
    assert SEVEN[predictions.predicted[0]] == "happy"
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    with pytest.raises(DataInvalid, match=r"broken\.mp4"):
        model.predict([Example("happy", tmp_path / "broken.mp4")], "clips", CONTEXT)


@pytest.fixture(scope="module")
def audiovisual(tmp_path_factory):
    """Write an untrained audio-visual model."""
    torch.manual_seed(0)
    fields = {"kind": "audio-visual", "architecture": "audio-visual", "arguments": {"fusion": "late"}}
    folder = tmp_path_factory.mktemp("models") / "audiovisual"
    state = AudioVisualNet(fusion="late").state_dict()
    write_folder(folder, state, fields | {"labels": list(EIGHT), "recipe": {}}, data="", licence="")
    return folder


def test_an_audio_visual_model_predicts_for_clips_recordings_and_images(tmp_path, audiovisual, portrait):
    [model] = open_models([str(audiovisual)], STORE)
    ravdess.write_clip(tmp_path / "face.mp4", "happy", 6, face=True)
    ravdess.write_audio(tmp_path / "sound.flac", "sad", 6)
    (tmp_path / "noise.mp4").write_bytes(synthetic_video.encode_video(synthetic_frames.noise_frames(8), fps=5))
    files = [Example("happy", tmp_path / name) for name in ("face.mp4", "noise.mp4")]
    for media_of, examples, found in (
        ("clips", files, [True, False]),
        ("audio", [Example("sad", tmp_path / "sound.flac")], [True]),
        ("images", [Example("happy", portrait), Example("happy", np.zeros((50, 50, 3), np.uint8))], [True, False]),
    ):
        predictions = model.predict(examples, media_of, DataContext(STORE, tmp_path / "cache"))
        assert predictions.found.tolist() == found
        assert predictions.probabilities.shape == (len(found), len(EIGHT))
        np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)
    data = tmp_path / "clips"
    ravdess.write_clip(data / "Actor_06" / f"{ravdess.file_stem('happy', 6, modality=1)}.mp4", "happy", 6, face=True)
    ravdess.write_clip(data / "Actor_07" / f"{ravdess.file_stem('sad', 7, modality=1)}.mp4", "sad", 7, face=True)
    numbers = compare(audiovisual, "vit", data=f"ravdess:{data}", out=tmp_path / "out")
    assert numbers["labels"] == list(SEVEN)
    assert numbers["results"][0]["cost"]["unit"] == "one window of three seconds"
    assert [result["metrics"]["examples"] for result in numbers["results"]] == [2, 2]


class BrightnessNet(MultiHeadFaceNet):
    """Reads square crops; the logit of its first label is the brightness."""

    crop_kind = CropKind.SQUARE

    def __init__(self):
        super().__init__(classes=7, shares=(1.0,), tau=0, temperatures=())
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        bright = images.float().mean(dim=(1, 2, 3)) / 255
        return torch.nn.functional.pad(bright[:, None] * self.scale, (0, 6))[:, None]


def test_square_crops_are_the_same_as_in_serving(tmp_path, portrait):
    """Whatever border was needed to find the face, the crop is the one that a request would give."""
    context = DataContext(STORE, tmp_path)
    tight = np.ascontiguousarray(portrait[60:190, 150:290])
    gray = cv2.resize(cv2.cvtColor(tight, cv2.COLOR_RGB2GRAY), (48, 48), interpolation=cv2.INTER_AREA)
    landmarker = FaceLandmarker(context.landmarker)
    wide = np.ascontiguousarray(portrait[:300, 60:400])
    served = crop_square(wide, landmarker.detect(wide)[0].landmarks)
    predictor = FacePredictor(BrightnessNet(), ModelCard(name="r", architecture="reader", labels=SEVEN), sha256="")
    for images in ([wide, tight], [gray, gray]):
        faces = context.extract_faces(images)
        assert faces.found.all()
        predictions = predict_rows(predictor, faces, np.array([0, 1]), images)
        expected = torch.tensor([served.mean() / 255, *[0.0] * 6]).softmax(dim=0)[0]
        assert predictions[:, 0] == pytest.approx(float(expected), abs=0.01)
    cached = context.extract_faces([gray, gray])
    np.testing.assert_array_equal(cached.landmarks, faces.landmarks)
    np.testing.assert_array_equal(cached.crops, faces.crops)


class GrayBrightnessNet(BrightnessNet):
    """The same for gray crops, in five labels."""

    crop_kind = CropKind.GRAY

    def forward(self, images):
        return super().forward(images[..., None])[..., :5]


def test_only_models_that_read_no_images_are_measured_on_pseudo_sequences(tmp_path, portrait, monkeypatch):
    monkeypatch.setattr(pseudo_sequences, "SEQUENCES", 5)
    data = tmp_path / "pictures"
    write_faces(data, portrait)
    (data / "sad").rename(data / "neutral")
    card = ModelCard(name="g", architecture="reader", labels=FIVE)
    gray, compact = FacePredictor(GrayBrightnessNet(), card, sha256=""), load_face_model(STORE / "compact-emotimesh")
    context = DataContext(STORE, tmp_path / "cache")
    assert evaluate(gray, data, context).sequences is None
    assert evaluate(compact, data, context).sequences.by_kind.keys() == {kind.name.lower() for kind in SequenceKind}


def test_a_model_that_reads_square_crops_can_be_evaluated(tmp_path, portrait):
    write_faces(tmp_path / "pictures", portrait)
    predictor = FacePredictor(BrightnessNet(), ModelCard(name="r", architecture="reader", labels=SEVEN), sha256="")
    report = evaluate(predictor, tmp_path / "pictures", DataContext(STORE, tmp_path))
    assert report.metrics.recall == {"happy": pytest.approx(2 / 3), "sad": 0}
    assert report.metrics.found == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("nobody", ModelNotFound, "resemotenet"),
        ("text-emotion", MoodreelError, "evaluate"),
        ("", ModelNotFound, "Name"),
    ],
)
def test_a_model_that_cannot_be_compared_is_refused(name, error, reason):
    with pytest.raises(error, match=reason):
        open_models([name], STORE)


def test_groups_of_arrays_and_too_few_resamples_are_refused(banded, tmp_path):
    (tmp_path / "g.csv").write_text("file,group\n")
    for more, reason in ((["--groups", str(tmp_path / "g.csv")], "arrays"), (["--resamples", "9"], "100 or more")):
        with pytest.raises(SystemExit, match=reason):
            main(["compare", "vit", "--data", f"ferplus:{banded}", "--out", str(tmp_path / "out"), *more])
    assert not (tmp_path / "out").exists()


# Cost


class ModelStub:
    """A network and an input, as `measure_costs` takes them."""

    unit = "one face"

    def __init__(self, network, given, weights):
        self.network, self._given, self.weights = network.eval(), given, weights

    def run_once(self):
        with torch.inference_mode():
            return self.network(self._given)


def test_flops_are_two_for_each_multiply_add_in_every_layer(tmp_path):
    width, steps, hidden = 16, 5, 8
    layer = nn.TransformerEncoderLayer(width, 2, 4 * width, batch_first=True, norm_first=True)
    attention = 4 * steps * width * width + 2 * steps * steps * width
    cases = (
        (nn.Linear(10, 20), torch.zeros(3, 10), 3 * 10 * 20),
        (nn.Conv2d(3, 4, 3, padding=1), torch.zeros(1, 3, 6, 6), 6 * 6 * 4 * 3 * 9),
        (layer, torch.zeros(1, steps, width), attention + 2 * steps * width * 4 * width),
        (nn.LSTM(width, hidden), torch.zeros(steps, 1, width), steps * 4 * hidden * (width + hidden)),
    )
    for network, given, products in cases:
        assert count_flops(ModelStub(network, given, tmp_path)) == 2 * products
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


def test_costs_are_measured_of_the_file_and_the_network_on_one_thread(tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"x" * 123)
    before = torch.get_num_threads()
    [cost] = measure_costs([ModelStub(nn.Linear(10, 20), torch.zeros(1, 10), weights)])
    assert (cost.parameters, cost.flops, cost.bytes, cost.repetitions) == (220, 400, 123, 3)
    assert 0 < cost.p50 <= cost.p95
    assert cost.processor
    assert torch.get_num_threads() == before


def test_a_folder_and_its_weights_file_open_the_same_model(models):
    by_folder, by_file = open_models([str(models / "sound"), str(models / "sound" / "weights.safetensors")], STORE)
    assert isinstance(by_folder, EvaluatedFaceModel)
    assert by_folder.weights == by_file.weights
    assert (by_folder.name, by_file.name) == ("sound", "sound (2)")
    assert load_face_model(models / "sound").info.sha256 == by_file.info.sha256
