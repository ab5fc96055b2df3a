"""Map the labels of models and data to one set of labels: the coarsest that they have in common."""

from collections.abc import Sequence

import numpy as np

from moodreel.emotions import FIVE, LABEL_SYNONYMS, SEVEN, to_five
from moodreel.errors import DataInvalid, MoodreelError


def common_labels(models: dict[str, tuple[str, ...]], data: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the labels that models are compared in.

    These are the models' own where all have the same and the data has no others; else seven, or five where one of the
    label sets has only five.

    Args:
        models: Each model's labels, by its name.
        data: The labels of the data set.

    Raises:
        MoodreelError: There is no model.
        DataInvalid: A label cannot be mapped.
    """
    if not models:
        raise MoodreelError("Name at least one model to compare.")
    first, *others = models.values()
    if all(set(labels) == set(first) for labels in others) and set(data) <= set(first):
        return first
    everything = {**{f"the model {name}": labels for name, labels in models.items()}, "the data": data}
    for owner, labels in everything.items():
        if unknown := [label for label in labels if to_five(label) is None]:
            raise DataInvalid(
                f"Label sets that differ are compared in {', '.join(SEVEN)}, and {owner} has {', '.join(unknown)}, "
                "which is none of them. Choose models and data with the same labels, or leave that one out."
            )
    five = {label.lower() for label in FIVE}
    coarse = any({"shock"} <= {label.lower() for label in labels} <= five for labels in everything.values())
    return FIVE if coarse else SEVEN


def mapping_matrix(labels: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Return which label maps to which, float64 (len(labels), len(target)), one 1 in each row."""
    return np.array([[float(_mapped(label, target) == name) for name in target] for label in labels])


def describe_mapping(owner: str, labels: Sequence[str], target: Sequence[str]) -> str | None:
    """Describe in a sentence how labels were mapped; None where they stayed the same."""
    if set(labels) <= set(target):
        return None
    mapped = ", ".join(f"{label} as {_mapped(label, target)}" for label in labels if label not in target)
    return f"{owner} was evaluated in {len(target)} labels: {mapped}."


def _mapped(label: str, target: Sequence[str]) -> str | None:
    if label in target:
        return label
    return to_five(label) if set(target) == set(FIVE) else LABEL_SYNONYMS.get(label.strip().lower())
