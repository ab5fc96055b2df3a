"""Models of different label sets, and a set of data, on one set of labels: the coarsest that they have in common."""

from collections.abc import Sequence

import numpy as np

from moodreel.emotions import FIVE, LABEL_SYNONYMS, SEVEN, to_five
from moodreel.errors import DataInvalid, MoodreelError


def common_labels(models: dict[str, tuple[str, ...]], data: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the labels that everything is measured in.

    models: each one's labels, by its name. data: those of the set.
    Those of the models, where they all have the same and the set has no others; or else seven, or five where one of
    them has only five. Raises MoodreelError where a label has no place in these.
    """
    if not models:
        raise MoodreelError("Name at least one model to compare.")
    first, *others = models.values()
    if all(set(labels) == set(first) for labels in others) and set(data) <= set(first):
        return first
    everything = {**{f"the model {name}": labels for name, labels in models.items()}, "the data": data}
    for owner, labels in everything.items():
        if strange := [label for label in labels if to_five(label) is None]:
            raise DataInvalid(
                f"Labels that differ are compared in {', '.join(SEVEN)}, and {owner} has {', '.join(strange)}, which "
                "is none of them. Take models and data of the same labels, or leave that one out."
            )
    five = {label.lower() for label in FIVE}
    coarse = any({"shock"} <= {label.lower() for label in labels} <= five for labels in everything.values())
    return FIVE if coarse else SEVEN


def mapping_matrix(labels: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Say which label counts for which: float64 (len(labels), len(target)), one 1 in each row."""
    return np.array([[float(_meant(label, target) == name) for name in target] for label in labels])


def describe_mapping(owner: str, labels: Sequence[str], target: Sequence[str]) -> str | None:
    """Say in a sentence what became of somebody's labels; None where they stayed."""
    if set(labels) <= set(target):
        return None
    how = ", ".join(f"{label} as {_meant(label, target)}" for label in labels if label not in target)
    return f"{owner} was measured in {len(target)} labels: {how}."


def _meant(label: str, into: Sequence[str]) -> str | None:
    if label in into:
        return label
    return to_five(label) if set(into) == set(FIVE) else LABEL_SYNONYMS.get(label.strip().lower())
