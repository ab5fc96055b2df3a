"""Compare the answers of every shipped model and pipeline with recorded ones, so that refactoring cannot change them.

`recorded_answers.json` was made at commit 1031bb6, before the code was renamed and restructured, by the functions of
this file (with that commit's names) on an x86-64 CPU. After a deliberate change of weights or of preprocessing record
it again with `python -m tests.models.test_recorded_answers`, and say why in the commit.

Network inputs are made by NumPy alone: face tracks with and without gaps, windows with and without faces or sound,
texts. There only floating-point rounding may differ. Pipelines also run a video codec and MediaPipe, whose results
differ slightly between CPUs; hence their looser tolerance.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.features import CropKind, FaceFeatures
from moodreel.models.audiovisual_registry import AudioVisualPredictor, audiovisual_model_registry
from moodreel.models.face_registry import face_model_registry
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.models.predictor import FacePredictor
from moodreel.models.registry import ModelRegistry
from moodreel.models.text_registry import text_model_registry
from moodreel.pipelines.audiovisual import AudioVisualPipeline
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.language_id import LanguageIdentifier
from moodreel.pipelines.text import TextPipeline
from moodreel.pipelines.video import VideoPipeline
from tests.support import synthetic_audio, synthetic_frames, synthetic_image, synthetic_video
from tests.support.foreign_texts import DIARY
from tests.support.server import STORE

RECORDED = Path(__file__).with_name("recorded_answers.json")

NETWORK_TOLERANCE = 1e-5
PIPELINE_TOLERANCE = 1e-3

FACE_MODELS = (
    "moodreel-five",
    "face-expression",
    "resemotenet",
    "vit",
    "compact-emotimesh",
)
AUDIOVISUAL_MODELS = ("faces-eight", "audio-visual")
TEXTS = (
    "I finally got the job and I cannot stop smiling!",
    "He shouted at me in front of everyone. I am so angry.",
    "Nothing special today.",
    "my cat died last night 😢",
    "Wow, I did not see that coming 😮",
    "I wanna die",
    "ok",
    "Heute war ein richtig schöner Tag, wir waren am See und haben bis abends gegrillt.",
    "明日が怖い。",
    "😀😀😀",
    "We drove to the coast before sunrise, and for an hour nobody said a word. Then my sister began to laugh. " * 12
    + "In the evening we heard that grandmother is ill again, and I could not sleep for fear.",
)


def made_face(rng: np.random.Generator, kind: CropKind) -> FaceFeatures:
    """Make a face of smooth noise."""
    patches = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    face = FaceFeatures(
        landmarks=rng.random((478, 3), np.float32),
        normalized_landmarks=rng.normal(0, 4, (478, 3)).astype(np.float32),
        blendshapes=rng.random(52, np.float32),
        pose=np.zeros(3, np.float32),
        crop=patches.repeat(6, 0).repeat(6, 1),
    )
    colors = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return face if kind is CropKind.GRAY else replace(face, crop=colors.repeat(14, 0).repeat(14, 1)[:96, :96])


def tracks(kind: CropKind) -> list[list[FaceFeatures | None]]:
    """Make tracks of one frame, of a few with gaps, of one smiling face, and of more than are mirrored."""
    rng = np.random.default_rng(13)
    portrait = synthetic_frames.portrait()[20:212, 126:318]
    gray, color = portrait[::4, ::4].mean(axis=2).astype(np.uint8), portrait[::2, ::2]
    smiling = np.ascontiguousarray(gray if kind is CropKind.GRAY else color)
    faces = [made_face(rng, kind) for _ in range(40)]
    smile = replace(faces[0], crop=smiling)
    return [[faces[1]], [faces[2], None, faces[3], faces[4], None, faces[5]], [smile] * 3, [None, *faces[6:26], None]]


def audiovisual_batch() -> AudioVisualBatch:
    """Make windows with faces and sound, with faces alone, with gaps, and with sound alone."""
    rng = np.random.default_rng(14)
    patches = rng.integers(0, 256, (4, 8, 14, 14, 3), dtype=np.uint8).repeat(8, 2).repeat(8, 3)
    face_mask = np.ones((4, 8), bool)
    face_mask[2, ::3], face_mask[3] = False, False
    mels = rng.normal(-19, 4, (4, 64, 188)).astype(np.float32)
    audio_mask = np.array([True, False, True, True])
    samples = rng.normal(0, 0.1, (4, 48_000)).astype(np.float32)
    return AudioVisualBatch(*map(torch.from_numpy, (patches, face_mask, mels, audio_mask, samples)))


@cache
def face_models() -> ModelRegistry[FacePredictor]:
    return face_model_registry(STORE)


@cache
def audiovisual_models() -> ModelRegistry[AudioVisualPredictor]:
    return audiovisual_model_registry(STORE)


def face_answers(name: str) -> dict[str, object]:
    predictor = face_models().get(name)
    predictions = predictor.predict(tracks(predictor.crop_kind))
    long = [face for face in tracks(predictor.crop_kind)[3] if face is not None]
    embedded = predictor.embed_faces(long)
    windows = predictor.classify_windows([embedded[:1], [*embedded[:5], None, *embedded[5:9]]])
    return {
        "probabilities": [prediction.probabilities.tolist() for prediction in predictions],
        "per_frame": [np.nan_to_num(prediction.per_frame, nan=-1).tolist() for prediction in predictions],
        "weights": [prediction.weights.tolist() for prediction in predictions],
        "windows": [window.tolist() for window in windows],
    }


def audiovisual_answers(name: str) -> dict[str, object]:
    predictor = audiovisual_models().get(name)
    batch = audiovisual_batch()
    readable = batch.select(torch.arange(4 if "audio" in predictor.modalities else 3))
    found = predictor.predict(readable)
    return {
        "probabilities": [probabilities.tolist() for probabilities, _ in found],
        "modalities": [list(modalities) for _, modalities in found],
    }


def text_answers() -> dict[str, object]:
    predictor = text_model_registry(STORE).get("text-emotion")
    windows = [predictor.tokenizer.tokenize(text) for text in TEXTS]
    return {
        "tokens": [[len(window.ids) for window in part] for part in windows],
        "probabilities": predictor.predict([window for part in windows for window in part]).tolist(),
    }


def facial_action_answers() -> dict[str, object]:
    explainer = FacialActionExplainer.load(STORE / "movements")
    blendshapes = np.random.default_rng(15).random((6, 52), np.float32)
    probabilities = {"Anger": 0.1, "Happy": 0.5, "Shock": 0.2, "Neutral": 0.15, "Sad": 0.05}
    weights = np.linspace(0.1, 1, 6)
    explanations = [explainer.explain(blendshapes, probabilities, label, weights) for label in probabilities]
    return {
        "activations": explainer.activations(blendshapes).tolist(),
        "active": [[action.name for action in explainer.active_actions(face)] for face in blendshapes],
        "text": [explanation.text for explanation in explanations],
        "weight": [[action.weight for action in explanation.actions] for explanation in explanations],
    }


def language_answers() -> dict[str, object]:
    identifier = LanguageIdentifier(STORE / "lid.176")
    return {
        "diary": {language: [identifier.identify(line) for line in lines] for language, lines in DIARY.items()},
        "texts": [identifier.identify(text) for text in TEXTS],
    }


@cache
def engine() -> Engine:
    return Engine.load(STORE, use_gpu="0")


def clips() -> dict[str, bytes]:
    portrait = synthetic_frames.portrait()
    passing = [frame for _, frame in synthetic_frames.crossing_frames(5, 3)]
    # Lossless: another version of libx264 gives the same frames.
    return {
        "drifting": synthetic_video.encode_video(synthetic_frames.face_frames(30), fps=10, options={"qp": "0"}),
        "still": synthetic_video.encode_video([np.ascontiguousarray(portrait)] * 8, fps=5, options={"qp": "0"}),
        "two people": synthetic_video.encode_video(passing, fps=5, options={"qp": "0"}),
    }


def video_answers() -> dict[str, object]:
    answers: dict[str, object] = {}
    for name, clip in clips().items():
        result = VideoPipeline(engine()).predict(clip, explain=True)
        assert result.explanation is not None
        answers[name] = {
            "emotion": result.emotion,
            "probabilities": result.probabilities,
            "certain": result.certain,
            "peak": result.peak,
            "frames": result.frames_analysed,
            "coverage": result.face_coverage,
            "timeline": [[point.time, point.track, point.weight, point.probabilities] for point in result.timeline],
            "explanation": result.explanation.text,
        }
    return answers


def image_answers() -> dict[str, object]:
    pipeline = ImagePipeline(engine())
    group, _ = synthetic_frames.group_photo(640, 480, 3, 91)
    files = {
        "portrait": synthetic_image.encode_image(synthetic_frames.portrait()),
        "group": synthetic_image.encode_image(group, "PNG"),
    }
    answers: dict[str, object] = {}
    for name, file in files.items():
        for model in (None, "vit"):
            result = pipeline.predict(file, model=model)
            answers[f"{name} {model}"] = [[face.emotion, face.certain, face.probabilities] for face in result.faces]
    return answers


def audiovisual_pipeline_answers() -> dict[str, object]:
    clip = synthetic_audio.encode_sine_clip(synthetic_frames.face_frames(40), 4.0, video="mpeg4")
    answers: dict[str, object] = {}
    pipeline = AudioVisualPipeline.load(STORE, engine(), noncommercial=True, use_gpu="0")
    for model in AUDIOVISUAL_MODELS:
        result = pipeline.predict(clip, model=model)
        answers[model] = [result.probabilities, result.modalities, [window.probabilities for window in result.windows]]
    return answers


def text_pipeline_answers() -> dict[str, object]:
    results = TextPipeline.load(STORE, use_gpu="0").predict(TEXTS)
    return {
        str(number): [result.label, result.scores, result.labels, result.language, result.windows]
        for number, result in enumerate(results)
    }


NETWORK_CASES: dict[str, Callable[[], object]] = {
    **{name: partial(face_answers, name) for name in FACE_MODELS},
    **{name: partial(audiovisual_answers, name) for name in AUDIOVISUAL_MODELS},
    "text-emotion": text_answers,
    "movements": facial_action_answers,
    "lid.176": language_answers,
}
PIPELINE_CASES: dict[str, Callable[[], object]] = {
    "video pipeline": video_answers,
    "image pipeline": image_answers,
    "audio-visual pipeline": audiovisual_pipeline_answers,
    "text pipeline": text_pipeline_answers,
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, object]:
    answers: dict[str, object] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return answers


@pytest.fixture(autouse=True, scope="module")
def release_models() -> Iterator[None]:
    """Drop all shipped models after this file: together they take 270 MB."""
    yield
    for loaded in (face_models, audiovisual_models, engine):
        loaded.cache_clear()


@pytest.mark.parametrize("case", NETWORK_CASES)
def test_shipped_model_predicts_as_recorded(case: str, recorded: dict[str, object]) -> None:
    assert_same(plain(NETWORK_CASES[case]()), recorded[case], NETWORK_TOLERANCE, case)


@pytest.mark.parametrize("case", PIPELINE_CASES)
def test_pipeline_predicts_as_recorded(case: str, recorded: dict[str, object]) -> None:
    assert_same(plain(PIPELINE_CASES[case]()), recorded[case], PIPELINE_TOLERANCE, case)


def test_every_shipped_model_has_a_recording(recorded: dict[str, object]) -> None:
    shipped = {path.parent.name for path in STORE.glob("*/model.json")} - {"face_landmarker"}
    assert shipped | PIPELINE_CASES.keys() == recorded.keys()


def assert_same(found: object, expected: object, tolerance: float, path: str) -> None:
    """Compare nested JSON values: numbers to a tolerance, all else exactly."""
    if isinstance(found, dict) and isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in found:
            assert_same(found[key], expected[key], tolerance, f"{path} > {key}")
    elif isinstance(found, list) and isinstance(expected, list):
        assert len(found) == len(expected), path
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, tolerance, f"{path} > {index}")
    elif isinstance(found, float) and isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance), path
    else:
        assert found == expected, path


def plain(value: object) -> object:
    """Turn a value into what JSON gives back: lists and dicts of rounded floats."""
    return json.loads(json.dumps(value), parse_float=lambda digits: round(float(digits), 7))


if __name__ == "__main__":
    torch.set_num_threads(1)
    answers = {case: plain(answer()) for case, answer in (NETWORK_CASES | PIPELINE_CASES).items()}
    RECORDED.write_text(json.dumps(answers, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
