"""AFEW-VA (Kossaifi et al. 2017, doi:10.1016/j.imavis.2017.02.001): film frames with valence and arousal.

One folder per clip, as published: `001/00000.png` … and `001/001.json`, `{"actor": …, "frames": {"00000": {"valence":
-10 to 10, "arousal": -10 to 10, …}}}`. k-means over valence and arousal gives five labels; a table of corrections may
give a clip or a frame another label.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from moodreel.emotions import FIVE
from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, read_table

logger = logging.getLogger(__name__)

SCALE = 10.0
"""Valence and arousal go from -10 to 10 in the files, from -1 to 1 here."""
LABEL_COORDINATES: Mapping[str, tuple[float, float]] = {
    "Anger": (-0.51, 0.59),
    "Happy": (0.81, 0.51),
    "Shock": (-0.12, 0.635),
    "Neutral": (0.0, 0.0),
    "Sad": (-0.63, -0.27),
}
"""Valence and arousal of each label, -1 to 1 (Russell & Mehrabian 1977, doi:10.1016/0092-6566(77)90037-X: angry, happy,
sad, and between surprised and fearful); neutral is the origin."""
CORRECTIONS = "corrections.csv"
"""Table next to the clips, with the columns file (`001/00000.png`, or `001` for a whole clip) and label."""
_EXTENSIONS = (".png", ".jpg", ".jpeg")
_KMEANS_ATTEMPTS = 10
"""Random initializations, of which the best result is taken."""


def read_afew_va(folder: Path) -> tuple[Example, ...]:
    """Read all clips in a folder and its subfolders, and label their frames by `moodreel.emotions.FIVE`.

    Raises:
        DataInvalid: There are no clips, or files are not as published; the message lists them all.
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
        listed = "\n  ".join(wrong)
        raise DataInvalid(f"{len(wrong)} clips are not in AFEW-VA's format; download them again:\n  {listed}")
    centers, cluster = k_means(np.array(values), len(FIVE))
    names = name_clusters(centers)
    labels = [names[index] for index in cluster]
    if (corrections := folder / CORRECTIONS).is_file():
        labels = _correct(labels, examples, corrections)
    logger.info("AFEW-VA: %s.", ", ".join(f"{label} {labels.count(label)}" for label in FIVE))
    return tuple(replace(example, label=label) for example, label in zip(examples, labels, strict=True))


def k_means(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points (N, D) by k-means++.

    Returns:
        Centers (count, D), and the cluster of each point, (N,).

    Raises:
        DataInvalid: There are fewer than `count` different points.
    """
    distinct = len(np.unique(points, axis=0))
    if distinct < count:
        raise DataInvalid(f"{distinct} different values cannot be clustered into {count} labels; take more clips.")
    model = KMeans(count, n_init=_KMEANS_ATTEMPTS, random_state=0).fit(points)
    return model.cluster_centers_, model.labels_


def name_clusters(centers: np.ndarray) -> list[str]:
    """Assign the five labels to cluster centers (5, 2), valence and arousal from -1 to 1.

    The assignment minimizes the sum of the distances between centers and `LABEL_COORDINATES`.
    """
    coordinates = np.array([LABEL_COORDINATES[label] for label in FIVE])
    distances = np.linalg.norm(centers[:, None] - coordinates, axis=2)
    _, best = linear_sum_assignment(distances)
    return [FIVE[label] for label in best]


def _read_clip(file: Path) -> list[tuple[Path, str | None, tuple[float, float]]]:
    """Return image, person, and valence and arousal of each frame. Raises ValueError with the reason."""
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
    actor = person.strip() if isinstance(person, str) and person.strip() else None
    read = []
    for name, valence, arousal in rows:
        if not max(abs(valence), abs(arousal)) <= 1:
            raise ValueError(f"frame {name} has a value that is not from -{SCALE:g} to {SCALE:g}")
        candidates = (file.with_name(name + extension) for extension in _EXTENSIONS)
        image = next((path for path in candidates if path.is_file()), None) if name.isalnum() else None
        if image is None:
            raise ValueError(f"frame {name} has no picture file")
        read.append((image, actor, (valence, arousal)))
    return read


def _correct(labels: Sequence[str], examples: Sequence[Example], corrections: Path) -> list[str]:
    rows_of: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        clip = example.file.parent.name
        for name in (clip, f"{clip}/{example.file.name}"):
            rows_of.setdefault(name, []).append(row)
    corrected, wrong = list(labels), []
    # Whole clips first, so that the correction of a frame overrides that of its clip.
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
            f"{corrections} names clips or frames that are not there, or labels other than {', '.join(FIVE)}:\n  "
            + "\n  ".join(wrong)
        )
    changed = sum(old != new for old, new in zip(labels, corrected, strict=True))
    logger.info("AFEW-VA: %d frames corrected by %s.", changed, corrections.name)
    return corrected
