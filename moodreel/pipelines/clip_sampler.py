"""Which three seconds of a clip are looked at and listened to: pictures and sound take the same.

The audio-visual models read windows of three seconds. One in the middle would miss what a clip of ten seconds showed at
its end, and the loudest or liveliest would answer "angry" too often, since that is what is loud. So the windows lie
side by side, the first at the clip's start, the last at its end, and their answers are averaged: what lasted counts for
most, whatever it was. A clip of four seconds has two that share their middle, where its words are. Long clips have
`MOST` windows, spread over them, since each costs eight faces through the trunk.
"""

import math
from dataclasses import dataclass

SECONDS = 3.0
"""Of a window."""
FRAMES = 8
"""Pictures of a window."""
MOST = 5
"""Windows of one clip."""
_SLACK = 0.25
"""Seconds over whole windows that are not worth one more: codecs round a recording up by a block or two."""


def starts(seconds: float, most: int = MOST) -> tuple[float, ...]:
    """Where the windows of a clip of so many seconds start, in seconds; a shorter clip has one, at 0."""
    count = min(most, max(1, math.ceil((seconds - _SLACK) / SECONDS)))
    room = max(0.0, seconds - SECONDS)
    if count == 1:
        return (room / 2,)
    return tuple(room * index / (count - 1) for index in range(count))


def times(start: float, seconds: float) -> tuple[float, ...]:
    """When the pictures of the window at `start` are taken, in seconds: each in the middle of an equal share of what
    the clip has of it."""
    length = min(SECONDS, seconds - start)
    return tuple(start + length * (index + 0.5) / FRAMES for index in range(FRAMES))


@dataclass(frozen=True)
class ClipTimeline:
    """A clip of so many seconds, and when in it the first picture is shown and the sound begins."""

    seconds: float
    pictures: float = 0.0
    sound: float = 0.0

    @property
    def starts(self) -> tuple[float, ...]:
        return starts(self.seconds)

    def times(self, start: float) -> list[float]:
        """When the pictures of the window at `start` are taken, in seconds after the first picture."""
        return [time - self.pictures for time in times(start, self.seconds)]

    def pictures_wanted(self) -> list[float]:
        """All of these times, growing, from the first picture on."""
        return sorted(time for start in self.starts for time in self.times(start) if time >= 0)
