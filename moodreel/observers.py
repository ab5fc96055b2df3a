"""Call functions of the program that runs moodreel when its shared parts do something, such as to count it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple


class EndedStage(NamedTuple):
    """A stage of a call, such as decoding, that has ended.

    Attributes:
        name: Name of the stage.
        started: When its first part began, a reading of `time.perf_counter`.
        ended: When its last part had ended.
        busy: Seconds that its parts took together; more than `ended - started` if they ran side by side.
        parts: Number of parts.
        error: Class of the exception that ended it; None if it was done.
    """

    name: str
    started: float
    ended: float
    busy: float
    parts: int
    error: str | None


@dataclass
class Observers:
    """The functions that are called. Each may be called often and from any thread, and must be quick.

    Attributes:
        slot_wait: Makes a context manager, in which an analysis waits for its slot.
        lock_wait: Called with the name of a database, the seconds that a transaction waited for other writers, and
            whether it then could write.
        stage_ended: Called with a stage, in the thread of its call.
        models_loaded: Called with a kind of model and how many of it are in memory.
        analysis_cache: Called with the outcome of a look-up in the cache of analyses: "hit", "miss" or "failed".
    """

    slot_wait: Callable[[], AbstractContextManager[object]] = nullcontext
    lock_wait: Callable[[str, float, bool], None] = lambda database, seconds, acquired: None
    stage_ended: Callable[[EndedStage], None] = lambda stage: None
    models_loaded: Callable[[str, int], None] = lambda kind, count: None
    analysis_cache: Callable[[str], None] = lambda outcome: None


observers = Observers()
"""The observers of this process."""
