"""`python -m moodreel.training explain MODEL PICTURE… --out DIR`: where in each face the model looked."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moodreel.errors import DataInvalid, ModelInvalid
from moodreel.faces.features import RGB_CROP_SIDE, FaceFeatures, extract_features
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media import image
from moodreel.models.audiovisual_registry import AudioVisualPredictor
from moodreel.models.predictor import Predictor
from moodreel.training.comparison.face_sheets import Highlight
from moodreel.training.data.face_crops import load_face_crops
from moodreel.training.data.loading import DataContext, ExampleImages
from moodreel.training.data.registry import IMAGES, open_dataset
from moodreel.training.evaluation.audiovisual_model import EvaluatedAudioVisualModel
from moodreel.training.evaluation.face_model import EvaluatedFaceModel, EvaluatedModel
from moodreel.training.evaluation.label_mapping import mapping_matrix
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.evaluation.predict import single_frame
from moodreel.training.experiment.face_inputs import augment_face_square
from moodreel.training.explain.attribution import attribute, predict_logits, without_audio
from moodreel.training.explain.render import AttributionMap, draw_attribution, draw_sheet, overlay

SHEET = "sheet.png"
MOST = 24
"""Faces on one sheet."""

log = logging.getLogger(__name__)

Model = Predictor | AudioVisualPredictor


@dataclass(frozen=True, eq=False)
class FaceToExplain:
    """A face to explain: where it is from, for names of files, what is read of it, and what the data calls it."""

    name: str
    features: FaceFeatures
    truth: str | None = None


def add_parser(commands: argparse._SubParsersAction, *, store: Path) -> None:
    """Add `explain` to the commands."""
    parser = commands.add_parser("explain", help="draw where in faces a model looked")
    parser.add_argument("model", help="a name in the store, or a model's folder")
    parser.add_argument("pictures", type=Path, nargs="*", metavar="PICTURE", help="JPEG, PNG, WebP or HEIC")
    parser.add_argument("--data", help="NAME:PATH of a set of pictures, whose own labels are written beside")
    parser.add_argument("--count", type=int, default=MOST, help="held-out pictures of it (default: %(default)s)")
    parser.add_argument("--label", help="explain this label, not the one that is answered")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="for faces found (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.set_defaults(run=lambda args: _run(args, store))


def _run(args: argparse.Namespace, store: Path) -> None:
    [subject] = open_models([args.model], store)
    assert isinstance(subject, EvaluatedFaceModel | EvaluatedAudioVisualModel)
    model, means = subject.predictor, DataContext(store, args.cache, workers=args.threads)
    faces = find_faces(args.pictures, means.landmarker)
    if args.data:
        faces += of_set(args.data, means, count=args.count)
    if not faces:
        raise DataInvalid("There is no face to explain; name pictures that show one, or --data NAME:PATH.")
    looks = attribute_faces(model, faces, label=args.label)
    args.out.mkdir(parents=True, exist_ok=True)
    for seen, one in zip(faces, looks, strict=True):
        Image.fromarray(draw_attribution(one)).save(args.out / f"{seen.name}.png")
        print(f"{seen.name}: {one.label} {one.probability:.0%}" + (f", truly {one.truth}" if one.truth else ""))
    Image.fromarray(draw_sheet({model.info.name: looks[:MOST]})).save(args.out / SHEET)
    print(f"{len(looks)} faces and {SHEET} in {args.out}")


def find_faces(files: Sequence[Path], landmarker: Path) -> list[FaceToExplain]:
    """Find every face of some pictures, the largest of each first; a picture without any is told in the log.

    Raises DataInvalid for a file that cannot be read, MoodreelError for one that is no picture.
    """
    finder = FaceLandmarker(landmarker, use_fallbacks=True) if files else None
    faces: list[FaceToExplain] = []
    for file in files:
        assert finder is not None
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataInvalid(f"There is no {file} that can be read; check its name.") from error
        rgb = image.decode_image(data).rgb
        found = detect_tiled(finder, rgb)
        if not found:
            log.warning("%s shows no face that could be found.", file)
        faces += [
            FaceToExplain(f"{file.stem}-{number}", extract_features(rgb, face, with_rgb_crop=True))
            for number, face in enumerate(found, start=1)
        ]
    if finder is not None:
        finder.close()
    return faces


def attribute_faces(model: Model, faces: Sequence[FaceToExplain], *, label: str | None = None) -> list[AttributionMap]:
    """Say what a model answers for faces, or how likely `label` is, and where it looked for that."""
    labels = model.info.labels
    if label is not None and label not in labels:
        raise DataInvalid(f"{model.info.name} has no label {label!r}; it has {', '.join(labels)}.")
    shown = np.stack([_read_by(model, seen.features) for seen in faces])
    answers = _answers(model, faces, shown)
    chosen = answers.argmax(axis=1) if label is None else np.full(len(faces), labels.index(label))
    outputs = [model.info.card.labels.index(labels[number]) for number in chosen]
    network = model.module if isinstance(model, Predictor) else model.network
    heat = attribute(network, shown, outputs)
    return [
        AttributionMap(picture, warm, labels[number], float(answer[number]), seen.truth)
        for picture, warm, number, answer, seen in zip(shown, heat, chosen, answers, faces, strict=True)
    ]


def of_set(spec: str, means: DataContext, *, count: int) -> list[FaceToExplain]:
    """Faces of at most `count` of the pictures that a set holds out. Raises DataInvalid for a set of no pictures."""
    data = open_dataset(spec)
    if data.media != IMAGES:
        raise DataInvalid(f"{data.name} has {data.media}, not pictures; name a set of pictures.")
    rows = np.sort(np.random.default_rng(means.seed).permutation(data.split().held_out)[:count])
    examples = [data.examples[row] for row in rows]
    faces, _ = means.extract_faces(ExampleImages(examples))
    squares, _ = load_face_crops(examples, means)
    return [
        FaceToExplain(
            f"{data.name.lower().replace(' ', '-')}-{row}",
            replace(single_frame(faces, number), rgb_crop=augment_face_square(squares[number], RGB_CROP_SIDE, None)),
            example.label,
        )
        for number, (row, example) in enumerate(zip(rows.tolist(), examples, strict=True))
        if faces.found[number]
    ]


def highlighter(labels: Sequence[str]) -> Highlight:
    """Make what draws, for a report in these labels, where models looked; where a model has several that count for the
    one answered, for the likeliest of them. Nothing for models that read no crops, or more than them."""

    def highlight(subject: EvaluatedModel, crops: np.ndarray, chosen: np.ndarray) -> np.ndarray | None:
        if not isinstance(subject, EvaluatedFaceModel) or subject.predictor.requires_rgb_crop:
            return None
        network, own = subject.predictor.module, subject.info.card.labels
        try:
            counts = mapping_matrix(own, labels)[:, chosen].T > 0
            likely = np.where(counts, predict_logits(network, crops), -np.inf).argmax(axis=1)
            heat = attribute(network, crops, likely)
        except ModelInvalid:
            return None
        return np.stack([overlay(crop, warm) for crop, warm in zip(crops, heat, strict=True)])

    return highlight


def _read_by(model: Model, features: FaceFeatures) -> np.ndarray:
    """What a model reads of a face."""
    if isinstance(model, Predictor) and not model.requires_rgb_crop:
        return features.crop
    assert features.rgb_crop is not None
    return features.rgb_crop


def _answers(model: Model, faces: Sequence[FaceToExplain], shown: np.ndarray) -> np.ndarray:
    """Calibrated probabilities (N, C) in the order of the model's labels."""
    if isinstance(model, Predictor):
        verdicts = model.predict([[seen.features] for seen in faces], per_frame=False)
        return np.stack([verdict.probabilities for verdict in verdicts])
    return np.stack([probabilities for probabilities, _ in model.predict(without_audio(torch.from_numpy(shown)))])
