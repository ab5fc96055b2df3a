"""GoEmotions (Demszky et al. 2020): short English comments with 28 emotions, grouped to Ekman's six and neutral."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.emotions import EKMAN, to_ekman
from moodreel.errors import DataInvalid

logger = logging.getLogger(__name__)

LABELS = "labels.txt"

FILES_HINT = f"Name a folder of GoEmotions' train.tsv, dev.tsv and {LABELS}"
"""Last sentence of the error messages."""


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts of one split; each may have several labels.

    Attributes:
        texts: The N texts.
        fine: float32 (N, 28), 1 for each of GoEmotions' labels that an annotator gave the text.
        classes: float32 (N, 7), the same for the classes of `EKMAN`.
        groups: Class index of each fine label.
    """

    texts: tuple[str, ...]
    fine: np.ndarray
    classes: np.ndarray
    groups: tuple[int, ...]

    def select(self, rows: np.ndarray) -> "Texts":
        """Return the texts where `rows`, bool (N,), is true."""
        texts = tuple(text for text, chosen in zip(self.texts, rows, strict=True) if chosen)
        return Texts(texts, self.fine[rows], self.classes[rows], self.groups)


def read_texts(folder: Path, split: str) -> Texts:
    """Read a split of GoEmotions.

    Args:
        folder: Folder of `train.tsv`, `dev.tsv` and `labels.txt`.
        split: "train" or "dev".

    Raises:
        DataInvalid: A file is missing or is not as published.
    """
    path = folder / f"{split}.tsv"
    try:
        labels = (folder / LABELS).read_text(encoding="utf-8").split()
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataInvalid(f"{folder} cannot be read: {error}. {FILES_HINT}.") from error
    if unknown := [label for label in labels if to_ekman(label) is None]:
        raise DataInvalid(f"{LABELS} has labels other than GoEmotions': {', '.join(unknown[:3])}. {FILES_HINT}.")
    groups = tuple(EKMAN.index(str(to_ekman(label))) for label in labels)
    texts, rows = [], []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            text, numbers, *_ = line.split("\t")
            rows.append([int(label) for label in numbers.split(",")])
            texts.append(text)
            if not set(rows[-1]) <= set(range(len(labels))):
                raise ValueError(f"a label is not from 0 to {len(labels) - 1}")
        except ValueError as error:
            raise DataInvalid(f"Row {number} of {path.name}: {error}; download the file again.") from error
    if not texts:
        raise DataInvalid(f"{path.name} holds no texts. {FILES_HINT}.")
    fine = np.zeros((len(texts), len(labels)), np.float32)
    for row, labels_of_text in zip(fine, rows, strict=True):
        row[labels_of_text] = 1
    logger.info("%s: %d texts.", path.name, len(texts))
    return Texts(tuple(texts), fine, _to_classes(fine, groups), groups)


def _to_classes(fine: np.ndarray, groups: tuple[int, ...]) -> np.ndarray:
    """Merge labels into classes: a text has a class if it has any of the class's labels."""
    members = np.array(groups)
    return np.stack([fine[:, members == index].max(axis=1, initial=0) for index in range(len(EKMAN))], axis=1)
