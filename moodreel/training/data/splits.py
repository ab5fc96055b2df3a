"""Who is learnt from and who is measured on: by person wherever the data knows persons.

A network that has seen a person calm knows them angry by what is not calm in them. Measured on people that it has
learnt from, it seems better than it will ever be, so a split that may have somebody on both sides is marked as leaking,
with the reason, and every report shows `Split.why`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, content_ids

SPLIT_BY = ("person", "random")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the examples: `train`, int64, to learn from, and `held_out`, int64, to measure on; both sorted.

    leaks: whether somebody may be on both sides. why: that in words, for every report.
    """

    train: np.ndarray
    held_out: np.ndarray
    leaks: bool
    reason: str


def split(examples: Sequence[Example], share: float, *, by: str = "person", seed: int = 0) -> Split:
    """Hold out about a share of the examples, 0 to 1, with as much of each label as there is.

    by: "person"; or "random", which leaks.
    What is of one person, of one clip, or a copy of the other is always on one side; the last two even at random.
    Raises DataInvalid where there are fewer than two persons, or clips of nobody known, to part.
    """
    if not 0 < share < 1:
        raise DataInvalid(f"A share of {share:g} to hold out is not between 0 and 1; a fifth is 0.2.")
    [held_out] = _parts(examples, [share, 1 - share], by, seed)[:1]
    return _split(examples, held_out, by)


def folds(examples: Sequence[Example], count: int, *, by: str = "person", seed: int = 0) -> list[Split]:
    """Give `count` splits, each of which holds out another part, as `split` does; every example is held out once."""
    if count < 2:
        raise DataInvalid(f"{count} folds are none; take five, or as many as there are persons.")
    return [_split(examples, part, by) for part in _parts(examples, [1 / count] * count, by, seed)]


def group_ids(examples: Sequence[Example], by: str = "person") -> np.ndarray:
    """Number what must stay together, int64 (N,): a person with all clips of theirs, and all that is a copy of one.

    A clip or a copy joins persons that a set has under two names.
    """
    if by not in SPLIT_BY:
        raise DataInvalid(f"A split is made by {' or '.join(SPLIT_BY)}, not by {by}.")
    rows_of: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for row, (example, copy) in enumerate(zip(examples, content_ids(examples), strict=True)):
        keys = {"person": example.person if by == "person" else None, "clip": example.clip, "copy": copy}
        for kind, key in keys.items():
            if key is not None:
                rows_of[kind, key].append(row)
    parent = list(range(len(examples)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for rows in rows_of.values():
        for row in rows[1:]:
            parent[root(row)] = root(rows[0])
    return np.unique([root(row) for row in range(len(examples))], return_inverse=True)[1]


def _parts(examples: Sequence[Example], shares: Sequence[float], by: str, seed: int) -> list[np.ndarray]:
    """Rows of as many parts as there are shares, each with about its share of every label.

    The largest unit comes first, and goes where most is missing of what it has: greedy, as scikit-learn's
    StratifiedGroupKFold, but for shares of any size.
    """
    unit = group_ids(examples, by)
    count = int(unit.max(initial=-1)) + 1
    if count < len(shares):
        what = "persons" if by == "person" and any(example.person for example in examples) else "clips or files"
        raise DataInvalid(
            f"{len(examples)} examples of {count} {what} cannot be parted in {len(shares)}: nobody may be in two. "
            "Take fewer folds, or more people."
        )
    names = sorted({example.label for example in examples})
    label = np.array([names.index(example.label) for example in examples])
    held = np.zeros((count, len(names)))  # examples of each label in each unit
    np.add.at(held, (unit, label), 1)
    total = held.sum(axis=0)
    missing = np.outer(shares, total)
    order = np.random.default_rng(seed).permutation(count)
    order = order[np.argsort(-held[order].sum(axis=1), kind="stable")]
    part_of = np.zeros(count, int)
    for one in order:
        # Labels by how rare they are: a part's lack of disgust weighs as much as its lack of calm.
        part_of[one] = np.argmax((missing / total) @ held[one])
        missing[part_of[one]] -= held[one]
    for empty in set(range(len(shares))) - set(part_of.tolist()):
        fullest = Counter(part_of.tolist()).most_common(1)[0][0]
        part_of[[one for one in order if part_of[one] == fullest][-1]] = empty
    return [np.flatnonzero(part_of[unit] == part) for part in range(len(shares))]


def _split(examples: Sequence[Example], held_out: np.ndarray, by: str) -> Split:
    train = np.setdiff1d(np.arange(len(examples)), held_out)
    leaks, why = _leak(examples, train, held_out, by)
    return Split(train=train, held_out=held_out, leaks=leaks, reason=why)


def _leak(examples: Sequence[Example], train: np.ndarray, held_out: np.ndarray, by: str) -> tuple[bool, str]:
    sides = [{examples[row].person for row in rows} - {None} for rows in (train, held_out)]
    known, both = sides[0] | sides[1], sides[0] & sides[1]
    unknown = sum(example.person is None for example in examples)
    if by == "random":
        found = f"{len(both)} of {len(known)} persons are on both sides" if known else "the data knows no persons"
        return True, f"LEAKS: split at random, as asked for; {found}. A person who was not learnt from will fare worse."
    if unknown:
        return True, (
            f"LEAKS: split by person as far as the data knows them, but for {unknown} of {len(examples)} examples it "
            "does not, and the same people may be on both sides."
        )
    return False, f"Split by person: {len(sides[0])} learnt from, {len(sides[1])} others held out."
