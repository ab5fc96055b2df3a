"""AFEW-VA (Kossaifi et al. 2017, doi:10.1016/j.imavis.2017.02.001): frames of film with valence and arousal.

A folder for each clip, as they are published: `001/00000.png` … and `001/001.json`, `{"actor": …, "frames": {"00000":
{"valence": -10 to 10, "arousal": -10 to 10, …}}}`. Five labels come from k-means over valence and arousal; a clip or a
frame that this calls by a wrong name can be put right in a file of corrections.
"""

import itertools
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from moodreel.emotions import FIVE
from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, read_table

log = logging.getLogger(__name__)

SCALE = 10.0
"""Valence and arousal go from -10 to 10 in the files, from -1 to 1 here."""
LABEL_COORDINATES: Mapping[str, tuple[float, float]] = {
    "Anger": (-0.51, 0.59),
    "Happy": (0.81, 0.51),
    "Shock": (-0.12, 0.635),
    "Neutral": (0.0, 0.0),
    "Sad": (-0.63, -0.27),
}
"""Where people place words for emotions, valence and arousal from -1 to 1 (Russell & Mehrabian 1977,
doi:10.1016/0092-6566(77)90037-X: angry, happy, sad, and between surprised and fearful); neutral is the middle."""
_ENDINGS = (".png", ".jpg", ".jpeg")
_ROUNDS = 10


@dataclass(frozen=True, eq=False)
class AfewVaFrames:
    """N frames. examples: with labels of `moodreel.emotions.FIVE`, the actor as person, the clip as clip.

    values: float64 (N, 2), valence and arousal from -1 to 1. centres: of each label's cluster.
    """

    examples: tuple[Example, ...]
    values: np.ndarray
    centres: dict[str, tuple[float, float]]


def read_afew_va(folder: Path, *, corrections: Path | None = None, seed: int = 0) -> AfewVaFrames:
    """Read the clips in a folder and the folders in it, and name what their frames show.

    corrections: a csv file with the columns file (`001/00000.png`, or `001` for a whole clip) and label.
    seed: of k-means.
    Raises DataInvalid that lists all that is wrong with the files; or where there are none.
    """
    files = sorted(path for path in folder.rglob("*.json") if path.stem == path.parent.name)
    if not files:
        raise DataInvalid(f"{folder} holds no clips of AFEW-VA; name the folder that holds 001/001.json and the like.")
    examples, values, wrong = [], [], []
    for file in files:
        try:
            for path, person, value in _read_clip(file):
                examples.append(Example(label="", media=path, person=person, clip=f"clip {file.stem}"))
                values.append(value)
        except ValueError as error:
            wrong.append(f"{file.relative_to(folder).as_posix()}: {error}")
    if wrong:
        raise DataInvalid(f"{len(wrong)} clips are not as AFEW-VA's are; fetch them anew:\n  " + "\n  ".join(wrong))
    points = np.array(values)
    centres, cluster = k_means(points, len(FIVE), seed)
    names = name_clusters(centres)
    labels = [names[index] for index in cluster]
    if corrections is not None:
        labels = _corrected(labels, examples, corrections)
    log.info("AFEW-VA: %s.", ", ".join(f"{label} {labels.count(label)}" for label in FIVE))
    return AfewVaFrames(
        examples=tuple(replace(example, label=label) for example, label in zip(examples, labels, strict=True)),
        values=points,
        centres={name: (float(x), float(y)) for name, (x, y) in zip(names, centres, strict=True)},
    )


def k_means(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Part points (N, D) into clusters; the same for one seed.

    Returns centres (count, D) and the cluster of each point (N,).
    Raises DataInvalid where fewer than `count` points differ.
    """
    different = len(np.unique(points, axis=0))
    if different < count:
        raise DataInvalid(f"{different} different values cannot be parted into {count} labels; take more clips.")
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    _, cluster, centres = cv2.kmeans(
        points.astype(np.float32), count, np.empty(0), criteria, _ROUNDS, cv2.KMEANS_PP_CENTERS
    )
    return np.asarray(centres, float), np.asarray(cluster).ravel()


def name_clusters(centres: np.ndarray) -> list[str]:
    """Give centres (5, 2), valence and arousal from -1 to 1, the five labels, so that all of them together are as near
    as can be to where people place these words (`PLACES`)."""
    places = np.array([LABEL_COORDINATES[label] for label in FIVE])
    far = np.linalg.norm(centres[:, None] - places, axis=2)
    best = min(
        itertools.permutations(range(len(FIVE))), key=lambda order: sum(far[i, label] for i, label in enumerate(order))
    )
    return [FIVE[label] for label in best]


def _read_clip(file: Path) -> list[tuple[Path, str | None, tuple[float, float]]]:
    """The picture, person, and valence and arousal of each frame. Raises ValueError, which says what is wrong."""
    try:
        clip = json.loads(file.read_text(encoding="utf-8"))
        frames: dict[str, Any] = clip["frames"]
        rows = [
            (name, float(frame["valence"]) / SCALE, float(frame["arousal"]) / SCALE)
            for name, frame in sorted(frames.items())
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("it holds no frames with valence and arousal") from error
    person = clip.get("actor")
    known = person.strip() if isinstance(person, str) and person.strip() else None
    read = []
    for name, valence, arousal in rows:
        if not max(abs(valence), abs(arousal)) <= 1:
            raise ValueError(f"frame {name} has a value that is not from -{SCALE:g} to {SCALE:g}")
        pictures = (file.with_name(name + ending) for ending in _ENDINGS)
        picture = next((path for path in pictures if path.is_file()), None) if name.isalnum() else None
        if picture is None:
            raise ValueError(f"frame {name} has no picture beside it")
        read.append((picture, known, (valence, arousal)))
    return read


def _corrected(labels: Sequence[str], examples: Sequence[Example], corrections: Path) -> list[str]:
    rows_of: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        assert isinstance(example.media, Path)
        clip = example.media.parent.name
        for name in (clip, f"{clip}/{example.media.name}"):
            rows_of.setdefault(name, []).append(row)
    corrected, wrong = list(labels), []
    # Whole clips first, so that a frame of one can be another again.
    table = sorted(read_table(corrections, ("file", "label")), key=lambda line: "/" in line["file"])
    for line in table:
        name, label = line["file"].replace("\\", "/"), line["label"].capitalize()
        if label not in FIVE or name not in rows_of:
            wrong.append(f"{line['file']}, {line['label']}")
            continue
        for row in rows_of[name]:
            corrected[row] = label
    if wrong:
        raise DataInvalid(
            f"{corrections} corrects clips or frames that are not there, or to labels other than {', '.join(FIVE)}:\n  "
            + "\n  ".join(wrong)
        )
    changed = Counter(old != new for old, new in zip(labels, corrected, strict=True))[True]
    log.info("AFEW-VA: %d frames corrected by %s.", changed, corrections.name)
    return corrected
