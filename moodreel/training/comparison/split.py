"""Choose the examples that models are compared on, and tell whether they were trained on them."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.models.model_card import ModelCard
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.splits import Split, group_ids


def evaluation_split(
    data: Dataset, cards: Sequence[ModelCard], *, share: float | None = None, by: str = "", seed: int = 0
) -> Split:
    """Return the held-out part of the data set itself, or the requested share, or else everything.

    Args:
        data: The data set.
        cards: The models' cards, which name their training data.
        share: The share to hold out, see `Dataset.split`.
        by: "person" or "random", see `Dataset.split`.
        seed: Seed of the split: the seed that the models were trained with.

    Raises:
        DataInvalid: The data set is empty.
    """
    everything = np.arange(len(data.examples))
    if not len(everything):
        raise DataInvalid(f"{data.name} holds no examples to compare on.")
    trained = [card.name for card in cards if trained_on(card, data.name)]
    is_new = share is not None or bool(by)
    if not is_new and data.published_split is None:
        reason = f"All {len(everything)} examples were evaluated: the data set has no held-out part."
        if trained:
            reason = (
                f"LEAKS: {reason} According to their cards, these models were trained on it: {', '.join(trained)}. "
                "--test-fraction 0.2 evaluates only what a training with default options holds out."
            )
        return Split(everything[:0], everything, bool(trained), reason)
    split = data.split(0.2 if share is None else share, by=by or ("person" if is_new else ""), seed=seed)
    if is_new and trained:
        reason = (
            f"{split.reason} According to their cards, these models were trained on {data.name}: {', '.join(trained)}. "
            "The held-out part is new to them only if they were trained with the same split and seed, without --folds."
        )
        split = replace(split, reason=reason)
    groups = group_ids(data.examples)
    if not split.leaks and (shared := np.intersect1d(groups[split.train], groups[split.held_out])).size:
        what = "persons, clips or copies of one file are"
        return Split(split.train, split.held_out, True, f"LEAKS: {shared.size} {what} on both sides. {split.reason}")
    return split


def trained_on(card: ModelCard, name: str) -> bool:
    """Tell whether a card's `data` lists a data set, or a part of a synthetic pairing, in any spelling."""
    return bool(_names(name) & _names(card.data))


def _names(text: str) -> set[str]:
    """Return the names of the data sets that a text lists: its parts before commas, brackets and "images"."""
    parts = re.split(r"; |\) on |synthetic pairing of | with faces of ", text.lower().replace("+", "plus"))
    names = (re.split(r"[,(]| images\b| pictures\b", part)[0] for part in parts)
    return {re.sub(r"[^a-z0-9]", "", name) for name in names} - {""}
