"""Tell the program that runs moodreel what its shared parts do, such as to count it. By default nobody is told."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass
class Observers:
    """The functions that are called. Each is called often, from any thread, and must be quick.

    Attributes:
        slot_wait: Makes a context manager, in which an analysis waits for its slot.
        lock_wait: Called with the name of a database, the seconds that a transaction waited for other writers, and
            whether it then could write.
        models_loaded: Called with a kind of model and how many of it are in memory.
    """

    slot_wait: Callable[[], AbstractContextManager[object]] = nullcontext
    lock_wait: Callable[[str, float, bool], None] = lambda database, seconds, acquired: None
    models_loaded: Callable[[str, int], None] = lambda kind, count: None


observers = Observers()
"""Of this process."""
