"""Track faces: find out which face in a frame is which face of the frames before.

Tracking by detection, after "Simple Online and Realtime Tracking" (SORT; Bewley et al., ICIP 2016): the position of
each face is predicted from its velocity, and detections are assigned to tracks at the least total cost. So two people
keep their tracks while they cross, even if one is hidden behind the other for a while. SORT's Kalman filter is not
needed: boxes around landmarks are accurate to a hundredth of a face, so a linear fit over half a second is enough.

Two people who meet, hide one another and turn back have the same positions as two who pass. Only their appearance tells
the difference, so a caller may give an appearance vector for each box, a few numbers for its colors. Nothing that
identifies a person is stored: the vector can distinguish two faces in one frame, and is dropped with its track.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from moodreel.faces.assignment import assign

Box = tuple[float, float, float, float]
"""x, y, width, height, in any one unit."""
Appearance = Sequence[float]
"""Appearance vector of a box, each value about 0 to 1; of one length within a `Tracker`."""

MAX_GAP = 3.0
"""Seconds without a detection after which a track ends. A person who looks over a shoulder is back by then."""
MAX_DISTANCE, MAX_FIRST_STEP = 0.8, 1.2
"""Largest distance between a detection and the predicted position, in face sizes; and the same for a track with one
detection, whose velocity is unknown."""
MAX_SIZE_RATIO = 2.0
"""Largest ratio between the sizes of two boxes of a track."""
VELOCITY_SECONDS, MIN_VELOCITY_POINTS = 0.5, 3
"""Past positions to which the velocity is fitted: those of the last `VELOCITY_SECONDS`, and at least this many."""
COAST_SECONDS = 0.7
"""Time constant, in seconds, with which the predicted velocity of a face that is not detected decays."""
VELOCITY_SLACK = 0.15
"""Cost of being at the last position instead of the predicted one: people also stop."""
MISS_COST = 0.1
"""Cost of a track that was not detected in the frame before: of two at one place, the detected one is in front."""
APPEARANCE_COST = 2.0
"""Cost of an appearance distance of 1, in face sizes."""
MAX_OCCLUSION = 4.0
"""Seconds without a detection after which the track of an occluded face ends."""
MAX_OCCLUDER_DISTANCE, MAX_REAPPEAR_DISTANCE = 1.3, 1.8
"""Largest distance, in face sizes, of a face that may occlude a lost one, and of the lost one from that face when it
reappears."""
REAPPEAR_COST = 0.6
"""Cost of reappearing from behind another face, at whatever distance."""
MAX_OVERLAP = 0.2
"""Largest overlap with another face, as a fraction of a face's own box, at which its velocity and appearance are still
updated. Above it, much of the box may show the other face."""


@dataclass
class _Track:
    """The state of one track.

    Attributes:
        path: Time and center (x, y) of each detection in the last `VELOCITY_SECONDS`.
        occluder: The track in front of it when it was lost.
    """

    track_id: int
    box: Box
    time: float
    frame: int
    path: deque[tuple[float, float, float]] = field(default_factory=deque)
    velocity: tuple[float, float] = (0.0, 0.0)
    appearance: list[float] | None = None
    occluder: "_Track | None" = None

    def predict(self, time: float) -> Box:
        """Predict the box at a time; the velocity decays while the face is not detected."""
        effective_seconds = COAST_SECONDS * (1 - math.exp(-(time - self.time) / COAST_SECONDS))
        x, y, w, h = self.box
        return x + self.velocity[0] * effective_seconds, y + self.velocity[1] * effective_seconds, w, h

    def update(self, box: Box, time: float, frame: int, appearance: Appearance | None, *, overlapped: bool) -> None:
        """Add a detection; one that another face overlaps changes the position only."""
        self.box, self.time, self.frame = box, time, frame
        self.path.append((time, *_center(box)))
        while time - self.path[0][0] > VELOCITY_SECONDS and len(self.path) > MIN_VELOCITY_POINTS:
            self.path.popleft()
        self.occluder = None
        if not overlapped:
            self.velocity = _fit_velocity(self.path)
            self._update_appearance(appearance)

    def _update_appearance(self, appearance: Appearance | None) -> None:
        if appearance is not None:
            average = self.appearance or list(appearance)
            self.appearance = [old + 0.2 * (new - old) for old, new in zip(average, appearance, strict=True)]


class Tracker:
    """Assign a track id to every face, frame by frame: 0, 1, 2 … in order of appearance.

    Tracks without a detection for `MAX_GAP` seconds end, so memory stays bounded however long a tracker runs.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._frame = 0
        self._next_id = 0

    def update(self, time: float, boxes: Sequence[Box], appearances: Sequence[Appearance] | None = None) -> list[int]:
        """Assign the detections of a frame to tracks; return the track id of each box.

        Args:
            time: Seconds, ascending from call to call.
            boxes: Detections.
            appearances: Appearance vector of each box, or None.
        """
        self._frame += 1
        self._tracks = self._continuing(time)
        detections = list(zip(boxes, [None] * len(boxes) if appearances is None else appearances, strict=True))
        costs = [[self._cost(track, time, *detection) for track in self._tracks] for detection in detections]
        # New tracks start after the assignment, so that no face of this frame is compared with another of it.
        assigned = [None if column is None else self._tracks[column] for column in assign(costs)]
        track_ids = []
        for index, (box, appearance) in enumerate(detections):
            overlapped = any(_overlap(box, other) > MAX_OVERLAP for i, other in enumerate(boxes) if i != index)
            track = assigned[index] or self._start_track(box, time)
            track.update(box, time, self._frame, appearance, overlapped=overlapped)
            track_ids.append(track.track_id)
        self._find_occluders(time)
        return track_ids

    def continues(self, time: float, boxes: Sequence[Box]) -> bool:
        """Check whether `update` would assign each of these detections to a track that exists; change nothing."""
        tracks = self._continuing(time)
        return None not in assign([[self._cost(track, time, box, None) for track in tracks] for box in boxes])

    def _continuing(self, time: float) -> list[_Track]:
        """Return the tracks that have not ended."""
        return [track for track in self._tracks if time - track.time <= (MAX_OCCLUSION if track.occluder else MAX_GAP)]

    @property
    def active_ids(self) -> set[int]:
        """Ids of the tracks that have not ended."""
        return {track.track_id for track in self._tracks}

    def _start_track(self, box: Box, time: float) -> _Track:
        track = _Track(self._next_id, box, time, self._frame)
        self._next_id += 1
        self._tracks.append(track)
        return track

    def _find_occluders(self, time: float) -> None:
        """Find the face in front of each track that was not detected in this frame."""
        detected = [track for track in self._tracks if track.frame == self._frame]
        for track in self._tracks:
            if track.frame == self._frame:
                continue
            predicted = track.predict(time)
            nearest = min(detected, key=lambda other: _distance(predicted, other.box), default=None)
            if nearest and _distance(predicted, nearest.box) <= MAX_OCCLUDER_DISTANCE:
                track.occluder = nearest

    def _cost(self, track: _Track, time: float, box: Box, appearance: Appearance | None) -> float:
        """Compute the cost of assigning a detection to a track, in face sizes; infinite if they do not match."""
        cost = min(_distance(track.predict(time), box), _distance(track.box, box) + VELOCITY_SLACK)
        if track.occluder and _distance(track.occluder.box, box) <= MAX_REAPPEAR_DISTANCE:
            cost = min(cost, REAPPEAR_COST)
        if cost > (MAX_DISTANCE if len(track.path) > 1 else MAX_FIRST_STEP):
            return math.inf
        if track.frame < self._frame - 1:
            cost += MISS_COST
        if track.appearance and appearance:
            cost += APPEARANCE_COST * math.dist(track.appearance, appearance)
        return cost


_Face = TypeVar("_Face")


def join_tracks(tracks: Mapping[int, Mapping[int, _Face]]) -> dict[int, dict[int, _Face]]:
    """Join the tracks of a clip into one where no frame has two faces: whoever leaves and returns is one person.

    Args:
        tracks: The face in each frame, by the index of the frame, of each track id.

    Returns:
        The joined track, in the order of the frames, under the least track id; or all tracks unchanged.
    """
    joined = {frame: face for track in tracks.values() for frame, face in track.items()}
    if not tracks or len(joined) < sum(map(len, tracks.values())):
        return {track_id: dict(track) for track_id, track in tracks.items()}
    return {min(tracks): dict(sorted(joined.items(), key=lambda item: item[0]))}


def _fit_velocity(path: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Fit a velocity (x, y) per second to times and positions by least squares."""
    mean = [sum(values) / len(path) for values in zip(*path, strict=True)]
    variance = sum((time - mean[0]) ** 2 for time, _, _ in path)
    if variance < 1e-9:
        return 0.0, 0.0
    x, y = (sum((point[0] - mean[0]) * (point[axis] - mean[axis]) for point in path) / variance for axis in (1, 2))
    return x, y


def _center(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def shared_area(a: Box, b: Box) -> float:
    """Return the area that lies in both boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _overlap(box: Box, other: Box) -> float:
    """Return the fraction of a box that another covers."""
    area = box[2] * box[3]
    return shared_area(box, other) / area if area else 0.0


def _distance(a: Box, b: Box) -> float:
    """Return the distance of the centers in units of the mean size; infinite where the sizes do not match."""
    size_a, size_b = (a[2] + a[3]) / 2, (b[2] + b[3]) / 2
    if not size_a or not size_b or max(size_a, size_b) > MAX_SIZE_RATIO * min(size_a, size_b):
        return math.inf
    return math.dist(_center(a), _center(b)) / ((size_a + size_b) / 2)
