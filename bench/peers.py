"""Measure a face model beside `fer`, a published package for the same purpose, on labeled images of any source.

    pip install '.[training,bench]' && pip install --no-deps fer==25.10.3
    python -m bench.peers --data images:PATH
    python -m bench.peers --data images:PATH --data webfaces:PATH --model face-expression

`fer` (https://pypi.org/project/fer, MIT) is not imported: it needs TensorFlow, and older versions of torch and NumPy
than moodreel. Its face detector and its network are read from the installed package, and images are prepared as its
code does it. docs/benchmarks.md tells how that was compared with the package itself, and what was measured.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import torch

from bench.command import run_command
from moodreel.emotions import FIVE
from moodreel.errors import MoodreelError
from moodreel.models.face_registry import DEFAULT_MODEL
from moodreel.training.cli.options import add_common, add_data
from moodreel.training.data.dataset import IMAGES, Dataset
from moodreel.training.data.examples import Example
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.label_mapping import mapping_matrix
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.data.splits import group_ids
from moodreel.training.engine.device import resolve_device
from moodreel.training.evaluation.criterion import check_labels, select_rows
from moodreel.training.evaluation.face_model import EvaluatedModel, check_media
from moodreel.training.evaluation.markdown import format_table
from moodreel.training.evaluation.metrics import (
    ClassificationMetrics,
    Predictions,
    compute_metrics,
    per_sample_confusion,
)
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.evaluation.predict import scatter, to_labels
from moodreel.training.evaluation.significance import Interval, bootstrap, interval
from moodreel.training.experiment.recipe import STORE

logger = logging.getLogger(__name__)

DATA = (IMAGES, "webfaces", "ferplus", "muxspace", "afew-va")
"""Sets of images that `open_dataset` knows."""
INSTALL = "pip install '.[bench]' && pip install --no-deps fer==25.10.3"
LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Labels of `fer`, in the order of its network's output."""
SIDE, BORDER = 64, 40
"""Side of its network's input, and width of the border that it puts around an image, in pixels."""
OFFSET = 10
"""Its margin around the square of a face, in pixels."""
RESAMPLES, SEED = 2000, 0
METRICS = ("face found", "mean recall", "accuracy", "ECE", "answered Neutral")

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True)
class Peer:
    """A face detector and a classifier that moodreel is compared with.

    Attributes:
        name: As the report shows it.
        detect: Return the boxes of the faces in an image, uint8 (H, W), gray.
        classify: Return the probabilities of `LABELS`, float32 (N, 7), for faces, float32 (N, 64, 64), -1 to 1.
    """

    name: str
    detect: Callable[[np.ndarray], Sequence[Box]]
    classify: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Measurement:
    """The metrics of one system on one set.

    Attributes:
        data: Name of the set.
        system: Name of the system.
        metrics: In five labels.
        difference: 95 % interval of the model's mean recall minus this system's.
    """

    data: str
    system: str
    metrics: ClassificationMetrics
    difference: Interval


def load_fer() -> Peer:
    """Load the face detector and the network of the installed package `fer`.

    Raises:
        MoodreelError: `fer`, one of its files, or what runs its network is absent.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter

        package = metadata.distribution("fer")
    except ImportError as error:
        raise MoodreelError(f"{error}. The comparison needs fer and LiteRT: {INSTALL}") from error
    data = Path(str(package.locate_file("fer/data")))
    weights, cascade = data / "emotion_model_quantized.tflite", data / "haarcascade_frontalface_default.xml"
    if not (weights.is_file() and cascade.is_file()):
        raise MoodreelError(f"fer {package.version} lacks {weights.name} or {cascade.name}: {INSTALL}")
    detector, network = cv2.CascadeClassifier(str(cascade)), Interpreter(str(weights))
    network.allocate_tensors()
    [source], [target] = network.get_input_details(), network.get_output_details()

    def detect(gray: np.ndarray) -> Sequence[Box]:
        return detector.detectMultiScale(gray, scaleFactor=1.1, minNeighbors=5, minSize=(50, 50))

    def classify_one(face: np.ndarray) -> np.ndarray:
        network.set_tensor(source["index"], face[None, ..., None])
        network.invoke()
        return network.get_tensor(target["index"])[0]

    return Peer(f"fer {package.version}", detect, lambda faces: np.array([classify_one(face) for face in faces]))


def crop_face(gray: np.ndarray, box: Box, offset: int) -> np.ndarray:
    """Crop a face as `FER.detect_emotions` does.

    Args:
        gray: uint8 (H, W).
        box: Of the face; it is made a square by its longer side.
        offset: Margin around the square in pixels.

    Returns:
        float32 (64, 64), -1 to 1.
    """
    left, top, width, height = box
    side = max(width, height)
    left += BORDER - offset - (side - width) // 2
    top += BORDER - offset - (side - height) // 2
    side += 2 * offset
    mean = float(gray[-2:].mean())
    padded = cv2.copyMakeBorder(gray, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_CONSTANT, value=mean)
    crop = padded[max(0, top) : top + side, max(0, left) : left + side]
    return cv2.resize(crop, (SIDE, SIDE)).astype(np.float32) / 127.5 - 1


def landmark_box(landmarks: np.ndarray, image: np.ndarray) -> Box:
    """Return the box around landmarks (478, 3), which are relative to an image (H, W) or (H, W, 3)."""
    points = landmarks[:, :2] * image.shape[1::-1]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return round(left), round(top), round(right - left), round(bottom - top)


def predict(
    peer: Peer, images: ImageSequence, find_box: Callable[[int, np.ndarray], Box | None], offset: int
) -> Predictions:
    """Predict five labels by the peer's network for the face in each image.

    Args:
        peer: The peer.
        images: N images.
        find_box: Return the face, by the image's row and the image, uint8 (H, W), gray; None where there is none.
        offset: Margin, see `crop_face`.
    """
    rows, faces = [], []
    for row in range(len(images)):
        image = images[row]
        gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if box := find_box(row, gray):
            rows.append(row)
            faces.append(crop_face(gray, box, offset))
    probabilities = peer.classify(np.array(faces)) if faces else np.zeros((0, len(LABELS)))
    return to_labels(scatter(len(images), np.array(rows, int), probabilities), LABELS, FIVE)


def predict_all(
    model: EvaluatedModel, peer: Peer, examples: Sequence[Example], context: DataContext, offset: int
) -> dict[str, Predictions]:
    """Predict five labels by each system: the model, the peer, and the peer's network on the faces that we found."""
    images = ImageSequence(examples)
    faces = context.extract_faces(images)

    def largest_box(row: int, gray: np.ndarray) -> Box | None:
        return max(map(tuple, peer.detect(gray)), key=lambda box: box[2] * box[3], default=None)

    def our_box(row: int, gray: np.ndarray) -> Box | None:
        return landmark_box(faces.landmarks[row], gray) if faces.found[row] else None

    ours = model.predict(examples, IMAGES, context)
    return {
        f"{model.name} {model.info.version}": to_labels(ours, model.info.labels, FIVE),
        peer.name: predict(peer, images, largest_box, OFFSET),
        f"{peer.name}, our faces": predict(peer, images, our_box, offset),
    }


def measure(
    model: EvaluatedModel, peer: Peer, data: Dataset, context: DataContext, *, offset: int = 0
) -> list[Measurement]:
    """Measure all systems on what a set holds out, or on all of it.

    Args:
        model: The model.
        peer: The peer.
        data: A set of images.
        context: Where models and caches are.
        offset: Margin in pixels around the faces that moodreel's detector found, for the peer's network.

    Raises:
        MoodreelError: The model or the peer does not read such sets, or the model has a label that is none of the five.
        DataInvalid: The set has no examples of the five labels, or a file cannot be read.
    """
    check_labels(model)
    check_media([model], data.media)
    if data.media != IMAGES:
        raise MoodreelError(f"{peer.name} reads {IMAGES}, but {data.name} holds {data.media}; leave it out.")
    rows, notes = select_rows(data)
    for note in notes:
        logger.warning(note)
    examples = [data.examples[row] for row in rows]
    truth = mapping_matrix(data.labels, FIVE).argmax(axis=1)[data.truth[rows]]
    systems = predict_all(model, peer, examples, context, offset)
    confusions = [per_sample_confusion(each.predicted, truth, len(FIVE)) for each in systems.values()]
    recalls = bootstrap(confusions, group_ids(examples), resamples=RESAMPLES, seed=SEED)["balanced_accuracy"]
    return [
        Measurement(data.name, name, compute_metrics(predictions, truth, FIVE), interval(recalls[0] - own))
        for (name, predictions), own in zip(systems.items(), recalls, strict=True)
    ]


def summarize(sets: Sequence[Sequence[Measurement]]) -> str:
    """Return Markdown: a table of the metrics, a table of recall by label and of differences, and what they mean.

    Args:
        sets: Measurements of the same systems on each set, the model first.
    """
    metrics, recalls = [], []
    for results in sets:
        ours = results[0].metrics.balanced_accuracy
        for index, each in enumerate(results):
            metrics.append((each.data, str(each.metrics.examples), each.system, *_metrics_cells(each.metrics)))
            within = f"{100 * each.difference.low:+.1f} to {100 * each.difference.high:+.1f}"
            difference = f"{100 * (ours - each.metrics.balanced_accuracy):+.1f} ({within})" if index else ""
            recall = (_percent(each.metrics.recall.get(label)) for label in FIVE)
            recalls.append((each.data, each.system, *recall, difference))
    model, peer, peer_on_our_faces = (each.system for each in sets[0])
    return "\n".join(
        [
            format_table(("set", "images", "system", *METRICS), metrics, left=3),
            "",
            format_table(("set", "system", *FIVE, f"{model} minus it (95 %)"), recalls, left=2),
            "",
            f"- {model}: moodreel's face detector and this model.",
            f"- {peer}: as its users get it, with its own face detector (Haar cascade, the default) and network; of "
            "several faces the largest.",
            f"- {peer_on_our_faces}: its network on the faces that moodreel's detector found, cut to the square "
            "around the landmarks and a margin of --offset pixels.",
            "",
            "All get the same images and answer in the five labels. In per cent but for ECE, the calibration error of "
            "the images with a face. Mean recall is that of the five labels; a face that is not found counts as wrong. "
            f"Differences are of mean recall, in points, paired, by bootstrap ({RESAMPLES} resamples).",
        ]
    )


def _metrics_cells(metrics: ClassificationMetrics) -> tuple[str, ...]:
    neutral = metrics.confusion[:, FIVE.index("Neutral")].sum() / metrics.examples
    ece = "—" if metrics.ece is None else f"{metrics.ece:.3f}"
    shares = map(_percent, (metrics.found, metrics.balanced_accuracy, metrics.accuracy))
    return *shares, ece, _percent(neutral)


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{100 * value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench.peers", description=__doc__.splitlines()[0])
    add_data(parser, "what to measure on, any number of times", DATA, several=True)
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="name of a model in the store, or a model folder (default: %(default)s)"
    )
    parser.add_argument(
        "--offset",
        type=int,
        default=0,
        help="pixels around the faces that moodreel's detector found, for the network of fer, whose own detector gets "
        f"{OFFSET} (default: %(default)s, with which it did best, see docs/benchmarks.md)",
    )
    add_common(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        peer = load_fer()
        [model] = open_models([options.model], STORE, device=str(resolve_device(options.device)))
        context = DataContext(STORE, options.cache, workers=options.threads)
        sets = [measure(model, peer, open_dataset(spec), context, offset=options.offset) for spec in options.data]
        print(summarize(sets))
    except MoodreelError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    run_command(main)
