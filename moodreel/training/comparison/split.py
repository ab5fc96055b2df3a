"""What a comparison measures on, and whether any of it was learnt from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.models.model_card import ModelCard
from moodreel.training.data.registry import Dataset
from moodreel.training.data.splits import group_ids


@dataclass(frozen=True, eq=False)
class EvaluationSplit:
    """Rows of a set: `train`, int64, what models may have learnt from, empty where nothing was held out; `held_out`,
    int64, what is measured on.

    leaks: whether something of the second was learnt from, as far as it can be told. why: that in words.
    """

    train: np.ndarray
    held_out: np.ndarray
    leaks: bool
    description: str


def evaluation_split(
    data: Dataset, cards: Sequence[ModelCard], *, share: float | None = None, by: str = "", seed: int = 0
) -> EvaluationSplit:
    """Take the part that a set itself holds out; or as much as is asked for; or, of a set without such a part, all.

    cards: of the models, which say what those learnt from.
    share, by, seed: as `DataSet.parted` takes them, and as the models were trained with.
    """
    everything = np.arange(len(data.examples))
    if not len(everything):
        raise DataInvalid(f"{data.name} holds nothing to measure on.")
    if share is None and not by and data.published_split is None:
        learnt = [card.name for card in cards if trained_on(card, data.name)]
        why = f"All {len(everything)} examples were measured on: the set holds no part of itself out."
        if learnt:
            why = f"LEAKS: {why} By their cards these learnt from it: {', '.join(learnt)}."
        return EvaluationSplit(everything[:0], everything, bool(learnt), why)
    split = data.split(share or 0.2, by=by or ("person" if share else ""), seed=seed)
    leaks, why = split.leaks, split.reason
    numbers = group_ids(data.examples)
    if not leaks and (both := np.intersect1d(numbers[split.train], numbers[split.held_out])).size:
        what = "persons, clips or copies of one file are"
        leaks, why = True, f"LEAKS: {both.size} {what} on both sides. {why}"
    return EvaluationSplit(split.train, split.held_out, leaks, why)


def trained_on(card: ModelCard, name: str) -> bool:
    """Whether a card's `data` names a set: by the first word of its name, however it is written."""
    wanted = _plain(name.partition(",")[0])
    return bool(wanted) and wanted in _plain(card.data)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("+", "plus"))
