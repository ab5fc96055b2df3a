"""GoEmotions: short English comments with 28 emotions, which the data set itself groups to Ekman's six and neutral."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import EKMAN
from moodreel.errors import DataInvalid

log = logging.getLogger(__name__)

LABELS, MAPPING, NEUTRAL = "labels.txt", "ekman_mapping.json", "neutral"

EXPECTED = f"Name a folder of GoEmotions' train.tsv, dev.tsv, {LABELS} and {MAPPING}"


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts of one split.

    fine: float32 (N, F), 1 for each label that somebody gave the text. classes: float32 (N, 7), the same in `EKMAN`.
    groups: of each fine label, the number of its class.
    """

    texts: tuple[str, ...]
    fine: np.ndarray
    classes: np.ndarray
    groups: tuple[int, ...]

    def only(self, rows: np.ndarray) -> "Texts":
        """Those of bool (N,)."""
        some = tuple(text for text, kept in zip(self.texts, rows, strict=True) if kept)
        return Texts(some, self.fine[rows], self.classes[rows], self.groups)


def read_texts(folder: Path, split: str) -> Texts:
    """Read `train` or `dev` of GoEmotions' folder. Raises DataInvalid."""
    path = folder / f"{split}.tsv"
    try:
        labels = (folder / LABELS).read_text(encoding="utf-8").split()
        groups = _groups(labels, json.loads((folder / MAPPING).read_text(encoding="utf-8")))
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError, AttributeError) as error:
        raise DataInvalid(f"{folder} cannot be read: {error}. {EXPECTED}.") from error
    texts, rows = [], []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            text, given, *_ = line.split("\t")
            rows.append([int(label) for label in given.split(",")])
            texts.append(text)
            if not set(rows[-1]) <= set(range(len(labels))):
                raise ValueError(f"there are labels 0 to {len(labels) - 1}")
        except ValueError as error:
            raise DataInvalid(f"Row {number} of {path.name}: {error}; fetch the file anew.") from error
    if not texts:
        raise DataInvalid(f"{path.name} holds no texts. {EXPECTED}.")
    fine = np.zeros((len(texts), len(labels)), np.float32)
    for row, given_labels in zip(fine, rows, strict=True):
        row[given_labels] = 1
    log.info("%s: %d texts.", path.name, len(texts))
    return Texts(tuple(texts), fine, _to_classes(fine, groups), groups)


def _groups(labels: list[str], mapping: dict[str, list[str]]) -> tuple[int, ...]:
    class_of = {label: name for name, members in mapping.items() for label in members} | {NEUTRAL: NEUTRAL}
    if unknown := [label for label in labels if class_of.get(label) not in EKMAN]:
        raise DataInvalid(f"{MAPPING} has no class of ours for {', '.join(unknown[:3])}; restore it. {EXPECTED}.")
    return tuple(EKMAN.index(class_of[label]) for label in labels)


def _to_classes(fine: np.ndarray, groups: tuple[int, ...]) -> np.ndarray:
    """A text shows a class where it shows any of its labels."""
    members = np.array(groups)
    none = np.zeros(len(fine), np.float32)
    return np.stack(
        [fine[:, members == i].max(axis=1, initial=0) if i in groups else none for i in range(len(EKMAN))], 1
    )
