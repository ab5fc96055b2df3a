"""Which face in this frame is which face of the frames before.

Greedy association by overlap and distance, nearest pair first, after the usual tracking-by-detection scheme (Bewley et
al., "Simple Online and Realtime Tracking", ICIP 2016) without its motion model: at a few frames a second a face moves
less than its own size. Nothing of a face's identity is kept or compared, only where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""x, y, width, height, in any one unit."""

MAX_GAP = 1.5
"""Seconds after which a face that has not been seen is somebody new."""
MAX_DISTANCE = 0.8
"""How far a face may have moved, in units of its own size."""
MAX_GROWTH = 2.0
"""How many times larger or smaller it may have become."""


@dataclass(frozen=True)
class _Seen:
    box: Box
    time: float


class Tracker:
    """Gives every face of a clip, frame after frame, the number of its track: 0, 1, 2 … in order of appearance."""

    def __init__(self) -> None:
        self._last: list[_Seen] = []

    def update(self, time: float, boxes: Sequence[Box]) -> list[int]:
        """Return the track of each box in a frame at `time` (seconds, growing from call to call)."""
        candidates = sorted(
            (distance, track, index)
            for track, seen in enumerate(self._last)
            if time - seen.time <= MAX_GAP
            for index, box in enumerate(boxes)
            if (distance := _distance(seen.box, box)) <= MAX_DISTANCE
        )
        track_of: dict[int, int] = {}
        for _, track, index in candidates:
            if index not in track_of and track not in track_of.values():
                track_of[index] = track
        for index, box in enumerate(boxes):
            track = track_of.setdefault(index, len(self._last))
            self._last[track : track + 1] = [_Seen(box, time)]
        return [track_of[index] for index in range(len(boxes))]


def _distance(a: Box, b: Box) -> float:
    """Give the distance of two boxes' centres in units of their mean size; infinite where the sizes do not fit."""
    size_a, size_b = (a[2] + a[3]) / 2, (b[2] + b[3]) / 2
    if not size_a or not size_b or max(size_a, size_b) > MAX_GROWTH * min(size_a, size_b):
        return float("inf")
    dx = a[0] + a[2] / 2 - b[0] - b[2] / 2
    dy = a[1] + a[3] / 2 - b[1] - b[3] / 2
    return float((dx * dx + dy * dy) ** 0.5 / ((size_a + size_b) / 2))
