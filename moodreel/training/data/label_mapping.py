"""Map the labels of models and data to one common set of labels."""

from collections.abc import Sequence

import numpy as np

from moodreel.emotions import FIVE, LABEL_SYNONYMS, SEVEN, SEVEN_TO_FIVE, to_five
from moodreel.errors import DataInvalid


def common_labels(models: dict[str, tuple[str, ...]], data: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the labels that models are compared in.

    These are the models' own labels if all models have the same and the data has no others. Otherwise they are `SEVEN`,
    or `FIVE` if one of the label sets has only these.

    Args:
        models: Each model's labels, by its name.
        data: The labels of the data set.

    Raises:
        DataInvalid: A label cannot be mapped.
    """
    first, *others = models.values()
    if all(set(labels) == set(first) for labels in others) and set(data) <= set(first):
        return first
    everything = {**{f"the model {name}": labels for name, labels in models.items()}, "the data": data}
    for owner, labels in everything.items():
        if unknown := [label for label in labels if to_five(label) is None]:
            raise DataInvalid(
                f"Label sets that differ are compared in {', '.join(SEVEN)}, and {owner} has {', '.join(unknown)}, "
                "not among them. Choose models and data with the same labels, or leave such a model out."
            )
    five = {label.lower() for label in FIVE}
    coarse = any({"shock"} <= {label.lower() for label in labels} <= five for labels in everything.values())
    return FIVE if coarse else SEVEN


def map_label(name: str, labels: Sequence[str]) -> str | None:
    """Return the one of `labels` that a name means: the same in any case, a synonym, or a coarser one; or None."""
    lower = name.strip().lower()
    same = [label for label in labels if label == name] or [label for label in labels if label.lower() == lower]
    seven = LABEL_SYNONYMS.get(lower)
    if same or seven is None:
        return same[0] if same else None
    synonyms = [label for label in labels if seven in (label, LABEL_SYNONYMS.get(label.lower()))]
    return [*synonyms, *(label for label in labels if label == SEVEN_TO_FIVE[seven]), None][0]


def mapping_matrix(names: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Return which name maps to which label, float64 (len(names), len(labels)): at most one 1 in each row."""
    mapped = [map_label(name, labels) for name in names]
    return np.array([[float(name == label) for label in labels] for name in mapped])


def describe_mapping(owner: str, names: Sequence[str], labels: Sequence[str]) -> str | None:
    """Describe in a sentence how labels were mapped; None where they stayed the same."""
    if set(names) <= set(labels):
        return None
    mapped = ", ".join(f"{name} as {map_label(name, labels)}" for name in names if name not in labels)
    return f"{owner} was evaluated in {len(labels)} labels: {mapped}."
