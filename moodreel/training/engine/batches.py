"""Shuffle examples each epoch, and prefetch batches in another thread or in worker processes."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from torch.utils.data import DataLoader

Made = TypeVar("Made")


def epoch_indices(step: int, count: int, batch_size: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of the examples in batch `step`; they are shuffled again each epoch.

    Args:
        step: Number of the batch, from 0.
        count: Number of examples in the data set.
        batch_size: Number of examples in a batch; without `weights` the last one of an epoch may have fewer.
        seed: Seed of the order.
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


def prefetch(steps: range, make: Callable[[int], Made], workers: int = 0) -> Iterator[Made]:
    """Yield `make(step)` for each step in order, made ahead by another thread, or by some worker processes.

    Several threads would not be faster, because Python runs only one of them at a time.
    """
    if workers:
        yield from DataLoader(steps, batch_size=None, num_workers=workers, collate_fn=make)  # type: ignore[arg-type]
        return
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(make, step) for step in steps[:1]]
        for step in steps[1:]:
            batch = pending.pop().result()
            pending.append(pool.submit(make, step))
            yield batch
        for last in pending:
            yield last.result()
