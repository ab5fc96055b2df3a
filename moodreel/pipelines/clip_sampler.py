"""Choose the windows of a clip that audio-visual models read, and the frames within them.

The models read windows of three seconds. One window in the middle of a clip of ten seconds would miss its end, and the
loudest window, or the one with most motion, would be classified as anger too often. So the windows are spread evenly,
the first at the start of the clip and the last at its end, and their results are averaged: what lasts longest counts
most. A clip of four seconds has two windows that overlap in its middle, where people speak. Long clips have
`MAX_WINDOWS`, since each costs eight passes through the face network.
"""

import math
from dataclasses import dataclass

SECONDS = 3.0
"""Length of a window."""
FRAMES = 8
"""Video frames of a window."""
MAX_WINDOWS = 5
"""Most windows of one clip."""
_SLACK = 0.25
"""Seconds beyond whole windows that get no window of their own: codecs round a recording up by a block or two."""


def window_starts(seconds: float) -> tuple[float, ...]:
    """Return the start of each window in seconds. A clip shorter than a window has one, at 0."""
    count = min(MAX_WINDOWS, max(1, math.ceil((seconds - _SLACK) / SECONDS)))
    room = max(0.0, seconds - SECONDS)
    if count == 1:
        return (room / 2,)
    return tuple(room * index / (count - 1) for index in range(count))


def frame_times(start: float, seconds: float) -> tuple[float, ...]:
    """Return the times in seconds of the frames of one window, each in the middle of an equal share of it.

    Args:
        start: Start of the window in seconds.
        seconds: Duration of the clip. A window that runs past its end is cut there.
    """
    length = min(SECONDS, seconds - start)
    return tuple(start + length * (index + 0.5) / FRAMES for index in range(FRAMES))


@dataclass(frozen=True)
class ClipTimeline:
    """The positions of the video and the audio of a clip on a common clock.

    Attributes:
        seconds: Duration of the clip, from the earlier start of the two to the later end.
        video_start: Seconds from the start of the clip to the first frame.
        audio_start: Seconds from the start of the clip to the first sample.
    """

    seconds: float
    video_start: float = 0.0
    audio_start: float = 0.0

    @property
    def starts(self) -> tuple[float, ...]:
        """Start of each window, in seconds of the clip."""
        return window_starts(self.seconds)

    def frame_times(self, start: float) -> list[float]:
        """Return the times of the frames of the window at `start`, in seconds since the first frame."""
        return [time - self.video_start for time in frame_times(start, self.seconds)]

    def all_frame_times(self) -> list[float]:
        """Return the times of the frames of all windows, in seconds since the first frame, sorted, none below 0."""
        return sorted(time for start in self.starts for time in self.frame_times(start) if time >= 0)
