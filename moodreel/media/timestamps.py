"""Turn the timestamps of a clip into the time of each frame, and correct those that no camera makes.

Faults of phones, browsers and programs that join recordings:

* The first timestamp is 0 and the second the uptime of the phone, or the last one is minutes late.
* A recording was paused, and the pause is in the timestamps.
* Timestamps wrap around, start anew, repeat or are missing.

So a gap that is far longer than the usual one is closed. A frame every ten seconds (time lapse), a screen that stands
still for some seconds, and a gap for which there is sound are not faults.
"""

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

MAX_GAP = 15.0
"""Seconds between two frames above which the gap may be a fault. A screen recording may show a still page so long."""
MAX_GAP_RATIO = 10.0
"""A gap is a fault only if it is this many times as long as the usual one."""
TIME_SLACK = 0.001
"""Seconds. Containers round times to a millisecond, so a frame this little early is still on time."""
_MIN_GAP = 0.0005
"""Seconds between two frames. Less means a missing timestamp: no camera records 2000 frames per second."""
_MAX_STEP_BACK = 5.0
"""Usual gaps. A timestamp that is further than this before the expected one starts a new count; less is inexact."""
_MAX_REORDER = 16
"""Frames by which a codec may decode a frame earlier than it is shown (H.264 and HEVC, A.4: the picture buffer)."""

HasSound = Callable[[float, float], bool]
"""Whether sound was recorded between two times of the container in seconds."""


@dataclass(frozen=True, eq=False)
class FrameTimes:
    """The presentation times of the frames of a clip.

    Attributes:
        start: Container time of the first frame in seconds; 0 without timestamps.
        duration: Seconds, with the last frame.
        usual_gap: Usual seconds between two frames.
        count: Number of frames.
        by_pts: Seconds since the first frame by timestamp (pts), ascending. Empty if the timestamps do not give the
            order of the frames, which only decoding shows then.
        time_base: Seconds of one tick of a timestamp.
        has_sound: See `HasSound`.
    """

    start: float
    duration: float
    usual_gap: float
    count: int
    by_pts: Mapping[int, float]
    time_base: float
    has_sound: HasSound

    def seek_time(self, time: float) -> float:
        """Return the container time in seconds of the first frame at or after a time in seconds, or of the last."""
        times = list(self.by_pts.values())
        index = min(bisect.bisect_left(times, time), len(times) - 1)
        return list(self.by_pts)[index] * self.time_base


class FrameClock:
    """Compute the times of decoded frames, one after the other."""

    def __init__(self, times: FrameTimes) -> None:
        """Create a clock for frames in the order in which they are shown."""
        self._times = times
        self._time: float | None = None
        self._corrector = _Corrector(times.usual_gap, times.has_sound)

    def time_of(self, pts: int | None) -> float:
        """Return the seconds of the next frame since the first one; ascending.

        Args:
            pts: Timestamp of the frame; None if it is missing.
        """
        times = self._times
        if not times.by_pts:
            return self._corrector.next_time(None if pts is None else pts * times.time_base)
        time = times.by_pts.get(pts) if pts is not None else None
        if self._time is not None and (time is None or time <= self._time):  # damaged: it has no time of its own
            time = self._time + times.usual_gap
        self._time = time or 0.0
        return self._time


class _Corrector:
    """Assign ascending times to timestamps, one after the other."""

    def __init__(self, usual_gap: float, has_sound: HasSound) -> None:
        self._usual_gap = usual_gap
        self._has_sound = has_sound
        self._origin: float | None = None  # container time of time 0
        self._time: float | None = None

    def next_time(self, container_time: float | None) -> float:
        """Return the seconds since the first timestamp."""
        if self._time is None:
            self._time, self._origin = 0.0, container_time
            return self._time
        gap = None if container_time is None or self._origin is None else container_time - self._origin - self._time
        if gap is not None and gap > _MIN_GAP and not self._is_fault(gap, container_time):
            self._time += gap
            return self._time
        self._time += self._usual_gap
        if container_time is not None and (gap is None or not -_MAX_STEP_BACK * self._usual_gap < gap <= _MIN_GAP):
            self._origin = container_time - self._time
        return self._time

    def _is_fault(self, gap: float, container_time: float | None) -> bool:
        assert container_time is not None
        if gap <= max(MAX_GAP, MAX_GAP_RATIO * self._usual_gap):
            return False
        return not self._has_sound(container_time - gap, container_time)


def correct_timestamps(
    timestamps: Sequence[int | None], time_base: float, *, fps: float, has_sound: HasSound
) -> FrameTimes:
    """Compute the time of each frame.

    Args:
        timestamps: Pts of the packets in the order of the file; None where one is missing.
        time_base: Seconds of one tick.
        fps: Frames per second to assume without timestamps.
        has_sound: See `HasSound`.
    """
    known = sorted({pts for pts in timestamps if pts is not None})
    gaps = [(after - before) * time_base for before, after in itertools.pairwise(known)]
    gaps = [gap for gap in gaps if gap > _MIN_GAP]
    # Frames with no timestamp of their own lie between the others.
    usual_gap = median_low(gaps) * len(known) / len(timestamps) if gaps else 1 / fps
    in_order = len(known) == len(timestamps) and not _starts_anew(timestamps, known)
    corrector, order = _Corrector(usual_gap, has_sound), known if in_order else timestamps
    times = [corrector.next_time(None if pts is None else pts * time_base) for pts in order]
    return FrameTimes(
        start=next((pts * time_base for pts in order if pts is not None), 0.0),
        duration=times[-1] + (times[-1] - times[-2] if len(times) > 1 else usual_gap) if times else 0.0,
        usual_gap=usual_gap,
        count=len(timestamps),
        by_pts=dict(zip(known, times, strict=True)) if in_order else {},
        time_base=time_base,
        has_sound=has_sound,
    )


def _starts_anew(timestamps: Sequence[int | None], ascending: Sequence[int]) -> bool:
    """Check whether timestamps go back further than decoding ahead explains: they wrapped around, or start anew."""
    rank = {pts: index for index, pts in enumerate(ascending)}
    return any(abs(index - rank[pts]) > _MAX_REORDER for index, pts in enumerate(timestamps) if pts is not None)
