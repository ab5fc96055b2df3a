"""Split examples into train and held-out parts, by person where persons are known.

A network that was trained on the calm face of a person recognizes their anger by the difference. Evaluated on people it
was trained on, it scores better than on any others. So a split that may have a person on both sides is marked as
leaking, with the reason, and every report shows `Split.reason`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, content_ids

SPLIT_BY = ("person", "random")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a data set to train on and to evaluate on.

    Attributes:
        train: int64, sorted.
        held_out: int64, sorted.
        leaks: Whether a person may be on both sides.
        reason: How the split was made, and why it leaks, in a sentence for reports.
    """

    train: np.ndarray
    held_out: np.ndarray
    leaks: bool
    reason: str


def split(examples: Sequence[Example], share: float, *, by: str = "person", seed: int = 0) -> Split:
    """Hold out about a share of the examples, stratified by label.

    Examples of one clip, and copies, always stay on one side; by "person", so do all examples of one person.

    Args:
        examples: The examples to split.
        share: Fraction to hold out, between 0 and 1.
        by: "person"; or "random", which leaks.
        seed: Seed of the order in which groups are assigned.

    Raises:
        DataInvalid: `share` or `by` is invalid, or there are fewer than two persons, or clips of unknown people.
    """
    if not 0 < share < 1:
        raise DataInvalid(f"A share of {share:g} to hold out is not between 0 and 1; a fifth is 0.2.")
    held_out, _ = _partition(examples, [share, 1 - share], by, seed)
    return _split(examples, held_out, by)


def folds(examples: Sequence[Example], count: int, *, by: str = "person", seed: int = 0) -> list[Split]:
    """Return `count` splits for cross-validation, as `split` makes them; every example is held out once."""
    if count < 2:
        raise DataInvalid(f"{count} folds are too few; take five, or as many as there are persons.")
    return [_split(examples, part, by) for part in _partition(examples, [1 / count] * count, by, seed)]


def holdout_mask(count: int, share: float, seed: int) -> np.ndarray:
    """Draw the validation rows of `count` training images, bool (N,).

    One seed and share give the same rows, so that networks that are trained separately and then combined have seen none
    of them.
    """
    return np.random.default_rng(seed).random(count) < share


def group_ids(examples: Sequence[Example], by: str = "person") -> np.ndarray:
    """Return the group of each example, int64 (N,), from 0: examples of a group must stay on one side of a split.

    A group has all examples of a clip, all copies and, by "person", all examples of a person. Two names that share a
    clip or a copy are taken for one person.
    """
    if by not in SPLIT_BY:
        raise DataInvalid(f"A split is made by {' or '.join(SPLIT_BY)}, not by {by}.")
    rows_of: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (example, content) in enumerate(zip(examples, content_ids(examples), strict=True)):
        keys = {"person": example.person if by == "person" else None, "clip": example.clip, "content": content}
        for kind, key in keys.items():
            if key is not None:
                rows_of[kind, key].append(row)
    edges = np.array([(rows[0], row) for rows in rows_of.values() for row in rows], int).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(examples), len(examples)))
    groups: np.ndarray = connected_components(graph, directed=False)[1]
    return groups.astype(np.int64)


def _partition(examples: Sequence[Example], shares: Sequence[float], by: str, seed: int) -> list[np.ndarray]:
    """Return the rows of one part per share, each with about its share of every label.

    Greedy, the largest group first, like scikit-learn's StratifiedGroupKFold, but for unequal shares too.
    """
    group = group_ids(examples, by)
    groups = int(group.max(initial=-1)) + 1
    if groups < len(shares):
        what = "persons" if by == "person" and any(example.person for example in examples) else "clips or files"
        raise DataInvalid(
            f"{len(examples)} examples of {groups} {what} cannot be split into {len(shares)} parts: no person "
            "may be in two. Take fewer folds, or more people, or split at random, which leaks."
        )
    labels = sorted({example.label for example in examples})
    counts = np.zeros((groups, len(labels)))  # examples of each label in each group
    np.add.at(counts, (group, np.array([labels.index(example.label) for example in examples])), 1)
    total = counts.sum(axis=0)
    missing = np.outer(shares, total)
    order = np.random.default_rng(seed).permutation(groups)
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    part_of = np.zeros(groups, int)
    for number in order:
        # Relative to the total of each label, so that a rare label weighs as much as a frequent one.
        part_of[number] = np.argmax((missing / total) @ counts[number])
        missing[part_of[number]] -= counts[number]
    for empty in set(range(len(shares))) - set(part_of.tolist()):
        fullest = Counter(part_of.tolist()).most_common(1)[0][0]
        part_of[[number for number in order if part_of[number] == fullest][-1]] = empty
    return [np.flatnonzero(part_of[group] == part) for part in range(len(shares))]


def _split(examples: Sequence[Example], held_out: np.ndarray, by: str) -> Split:
    train = np.setdiff1d(np.arange(len(examples)), held_out)
    sides = [{examples[row].person for row in rows} - {None} for rows in (train, held_out)]
    known, both = sides[0] | sides[1], sides[0] & sides[1]
    unknown = sum(example.person is None for example in examples)
    leaks, reason = False, f"Split by person: {len(sides[0])} trained on, {len(sides[1])} others held out."
    if by == "random":
        found = f"{len(both)} of {len(known)} persons are on both sides" if known else "persons are unknown"
        leaks = True
        reason = (
            f"LEAKS: split at random, as asked for; {found}. The model will do worse on persons it was not trained on."
        )
    elif unknown:
        leaks = True
        reason = (
            f"LEAKS: split by person, but for {unknown} of {len(examples)} examples the person is unknown, and the "
            "same people may be on both sides."
        )
    return Split(train, held_out, leaks, reason)
