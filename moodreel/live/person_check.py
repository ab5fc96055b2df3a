"""Check over time that a tracked face is a person's."""

from collections import deque

from moodreel.faces.detector import FaceDetector
from moodreel.faces.portrait import MAX_CHECKS, is_person
from moodreel.faces.quality import is_clear
from moodreel.live.frame import FrameFace

CHECK_INTERVAL_SECONDS = 0.5
"""Minimum time between two checks of one face. Each costs a third of a detection."""


class PersonCheck:
    """The checks of one face: when it appears, a few more times, and after that only while it does not pass."""

    def __init__(self) -> None:
        self._results: deque[bool] = deque(maxlen=MAX_CHECKS)
        self._next_at = float("-inf")

    def update(self, detector: FaceDetector, face: FrameFace, now: float) -> bool:
        """Check the face in one more frame, if a check is due. Returns whether at least half of the checks passed.

        Args:
            detector: finds the face again.
            face: the face in this frame.
            now: monotonic time in seconds when the frame was received.
        """
        if now >= self._next_at and not (self._is_person and len(self._results) == MAX_CHECKS):
            self._next_at = now + CHECK_INTERVAL_SECONDS
            clear = is_clear([face.observation], [max(face.box[2:])])
            self._results.append(is_person(detector, [face.portrait], clear=clear))
        return self._is_person

    @property
    def _is_person(self) -> bool:
        return 2 * sum(self._results) >= len(self._results)
