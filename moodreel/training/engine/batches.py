"""Shuffle examples each epoch, and prefetch batches in other threads."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

Made = TypeVar("Made")


def epoch_indices(step: int, count: int, batch_size: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of the examples in batch `step`; they are shuffled again each epoch.

    Args:
        step: number of the batch, from 0.
        count: number of examples in the data set.
        batch_size: number of examples in a batch; without `weights` the last one of an epoch may have fewer.
        seed: seed of the order.
        weights: (N,), relative probabilities to draw each example with replacement. None: each comes once an epoch.

    Returns:
        int64 (B,).
    """
    per_epoch = math.ceil(count / batch_size)
    epoch, position = divmod(step, per_epoch)
    rng = np.random.default_rng((seed, epoch))
    if weights is not None:
        order = rng.choice(count, per_epoch * batch_size, p=weights / weights.sum(dtype=np.float64))
    else:
        order = rng.permutation(count)
    return order[position * batch_size : (position + 1) * batch_size]


def prefetch(steps: range, make: Callable[[int], Made], threads: int = 1) -> Iterator[Made]:
    """Yield `make(step)` for each step in order, while other threads make the next ones."""
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(make, step) for step in steps[:threads])
        for step in steps[threads:]:
            batch = pending.popleft().result()
            pending.append(pool.submit(make, step))
            yield batch
        for last in pending:
            yield last.result()
