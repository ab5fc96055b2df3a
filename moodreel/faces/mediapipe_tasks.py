"""Share MediaPipe tasks between threads. Only this module, `detector` and `landmarker` import MediaPipe."""

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import vision

_Task = TypeVar("_Task", vision.FaceLandmarker, vision.FaceDetector)
_pools: "weakref.WeakSet[TaskPool[Any]]" = weakref.WeakSet()
_dropped: deque[Any] = deque()
"""Tasks of garbage-collected pools. The collector may run in a thread that holds a lock of MediaPipe or of
`concurrent.futures`, which closing a task takes as well. So the next borrower closes them."""


class TaskPool(Generic[_Task]):
    """MediaPipe tasks of one kind, each borrowed by one thread at a time."""

    def __init__(self, create: Callable[[], _Task]) -> None:
        """Make an empty pool; `create` loads one task."""
        self._create = create
        self._lock = threading.Lock()
        self._idle: list[_Task] = []
        self._closed = False
        weakref.finalize(self, _dropped.extend, self._idle).atexit = False
        _pools.add(self)

    @contextmanager
    def borrow(self) -> Iterator[_Task]:
        """Borrow a task for one thread: an idle one, or a new one when all are in use."""
        _close_all(_dropped)
        with self._lock:
            if self._closed:
                raise RuntimeError("These MediaPipe tasks are closed.")
            task = self._idle.pop() if self._idle else None
        if task is None:
            task = self._create()
        try:
            yield task
        finally:
            with self._lock:
                keep = not self._closed
                if keep:
                    self._idle.append(task)
            if not keep:
                task.close()

    def close(self) -> None:
        """Free all tasks; those in use are freed when their call ends. Later calls fail."""
        with self._lock:
            self._closed = True
        _close_all(self._idle)


def to_mediapipe(rgb: np.ndarray) -> mp.Image:
    """Wrap an image, uint8 (H, W, 3), RGB.

    Raises:
        ValueError: The array has another type or shape.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"An image is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}.")
    return mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))


def _close_all(tasks: "list[Any] | deque[Any]") -> None:
    with suppress(IndexError):  # other threads close some, too
        while True:
            _close(tasks.pop())


def _close(task: Any) -> None:
    try:
        task.close()
    except RuntimeError:
        # At exit, MediaPipe's own thread has ended before this runs. The process frees everything anyway. Without its
        # handle, the task's __del__ does not try again and print a traceback.
        task._handle = None


@atexit.register
def _close_at_exit() -> None:
    for pool in _pools:
        _close_all(pool._idle)
    _close_all(_dropped)
