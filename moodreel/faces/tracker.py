"""Which face in this frame is which face of the frames before.

Tracking by detection after "Simple Online and Realtime Tracking" (Bewley et al., ICIP 2016): each face is expected
where it was going, and what is found is shared out so that all together are nearest to what was expected. So two people
keep their numbers while they cross, also where one is not found for a while behind the other. Its Kalman filter is not
needed: boxes around landmarks are exact to a hundredth of a face, so a slope over the last half second will do.

Two people who meet, hide one another and turn back have the same places as two who pass. Only their looks tell, so a
caller may give a cue for each box, a few numbers for the colours there. Nothing of a face's identity is kept: a cue
tells the two apart who are in one picture, and goes with their track.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

Box = tuple[float, float, float, float]
"""x, y, width, height, in any one unit."""
Appearance = Sequence[float]
"""Numbers for how the place of a box looks, each about 0 to 1; of one length within a `Tracker`."""

MAX_GAP = 3.0
"""Seconds after which a face that has not been seen is somebody new: who looks over a shoulder is back by then."""
MAX_DISTANCE, MAX_FIRST_STEP = 0.8, 1.2
"""How far from where it is expected a face may be, in units of its own size; one that was seen only once may be on its
way to anywhere."""
MAX_SIZE_RATIO = 2.0
"""How many times larger or smaller it may have become."""
VELOCITY_SECONDS, MIN_VELOCITY_POINTS = 0.5, 3
"""How far back places count for where a face is going: so long, and so many at least."""
COAST_SECONDS = 0.7
"""A face that is not seen is expected to slow down; after so long it has covered most of what it will."""
VELOCITY_SLACK = 0.15
"""What it costs to be where a face was last instead of where it was going: people also stop."""
MISS_COST = 0.1
"""What it costs a face not to have been there in the frame before: of two in one place, the one seen is in front."""
APPEARANCE_COST = 2.0
"""What it costs to look different by 1, in units of the size of a face."""
MAX_OCCLUSION = 4.0
"""Seconds for which a face that was lost behind another is waited for."""
MAX_OCCLUDER_DISTANCE, MAX_REAPPEAR_DISTANCE = 1.3, 1.8
"""How near another face must be to have hidden one that is lost, and how far from that other it may come out again."""
REAPPEAR_COST = 0.6
"""What it costs to come out from behind another face, wherever."""
MAX_OVERLAP = 0.2
"""Overlap with another face, as a share of its own box, from which on neither a face's looks nor its slope are learnt
from: half of it may belong to the other."""


@dataclass
class _Track:
    track_id: int
    box: Box
    time: float
    frame: int
    path: deque[tuple[float, float, float]] = field(default_factory=deque)
    """Times and centres of the last `SLOPE_SECONDS`."""
    velocity: tuple[float, float] = (0.0, 0.0)
    appearance: list[float] | None = None
    occluder: "_Track | None" = None
    """Who stood before it when it was lost."""

    def predict(self, time: float) -> Box:
        """Give where it should be by now."""
        ahead = COAST_SECONDS * (1 - math.exp(-(time - self.time) / COAST_SECONDS))
        x, y, w, h = self.box
        return x + self.velocity[0] * ahead, y + self.velocity[1] * ahead, w, h

    def update(self, box: Box, time: float, frame: int, cue: Appearance | None, crowded: bool) -> None:
        self.box, self.time, self.frame = box, time, frame
        self.path.append((time, *_center(box)))
        while time - self.path[0][0] > VELOCITY_SECONDS and len(self.path) > MIN_VELOCITY_POINTS:
            self.path.popleft()
        self.occluder = None
        if not crowded:
            self.velocity = _fit_velocity(self.path)
            self._update_appearance(cue)

    def _update_appearance(self, cue: Appearance | None) -> None:
        if cue is not None:
            known = self.appearance or list(cue)
            self.appearance = [old + 0.2 * (new - old) for old, new in zip(known, cue, strict=True)]


class Tracker:
    """Gives every face, frame after frame, the number of its track: 0, 1, 2 … in order of appearance.

    Faces not seen for `MAX_GAP` are forgotten: a tracker stays small however long it runs.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._frame = 0
        self._next = 0

    def update(self, time: float, boxes: Sequence[Box], appearances: Sequence[Appearance] | None = None) -> list[int]:
        """Return the track of each box in a frame at `time` (seconds, growing from call to call).

        cues: for each box, how it looks; None where it is not known.
        """
        self._frame += 1
        self._tracks = [
            track for track in self._tracks if time - track.time <= (MAX_OCCLUSION if track.occluder else MAX_GAP)
        ]
        looks: Sequence[Appearance | None] = appearances if appearances is not None else [None] * len(boxes)
        costs = [
            [self._cost(track, time, box, cue) for track in self._tracks] for box, cue in zip(boxes, looks, strict=True)
        ]
        # New faces join only now: no face of this frame is compared with another.
        found = [None if at is None else self._tracks[at] for at in assign(costs)]
        for index, (box, cue) in enumerate(zip(boxes, looks, strict=True)):
            crowded = any(_overlap(box, other) > MAX_OVERLAP for at, other in enumerate(boxes) if at != index)
            track = found[index] or self._start_track(box, time)
            track.update(box, time, self._frame, cue, crowded)
            found[index] = track
        self._find_occluders(time)
        return [track.track_id for track in found if track]

    @property
    def active_ids(self) -> set[int]:
        """The tracks that a face may still get."""
        return {track.track_id for track in self._tracks}

    def _start_track(self, box: Box, time: float) -> _Track:
        track = _Track(self._next, box, time, self._frame)
        self._next += 1
        self._tracks.append(track)
        return track

    def _find_occluders(self, time: float) -> None:
        """Find out who hides those that are not seen."""
        seen = [track for track in self._tracks if track.frame == self._frame]
        for track in self._tracks:
            if track.frame == self._frame:
                continue
            place = track.predict(time)
            near = min(seen, key=lambda other: _distance(place, other.box), default=None)
            if near and _distance(place, near.box) <= MAX_OCCLUDER_DISTANCE:
                track.occluder = near

    def _cost(self, track: _Track, time: float, box: Box, cue: Appearance | None) -> float:
        distance = min(_distance(track.predict(time), box), _distance(track.box, box) + VELOCITY_SLACK)
        if track.occluder and _distance(track.occluder.box, box) <= MAX_REAPPEAR_DISTANCE:
            distance = min(distance, REAPPEAR_COST)
        if distance > (MAX_DISTANCE if len(track.path) > 1 else MAX_FIRST_STEP):
            return math.inf
        missed = MISS_COST if track.frame < self._frame - 1 else 0.0
        return (
            distance
            + missed
            + (APPEARANCE_COST * math.dist(track.appearance, cue) if track.appearance and cue else 0.0)
        )


def assign(costs: Sequence[Sequence[float]]) -> list[int | None]:
    """Give each row a column of its own, as many as can be and those at the least cost together; None for the rest.

    costs: rows of one length; infinite where the two cannot go together.

    The Hungarian method with potentials (Kuhn 1955, Munkres 1957), O(rows² × columns).
    """
    rows, columns = len(costs), len(costs[0]) if costs else 0
    if not columns:
        return [None] * rows
    # A column of its own for every row to be left out, dearer than any way to put all of them in.
    dear = 1.0 + 2 * sum(max((cost for cost in row if cost < math.inf), default=0.0) for row in costs)
    table = [
        [min(cost, 2 * rows * dear) for cost in row] + [dear if at == index else 2 * rows * dear for at in range(rows)]
        for index, row in enumerate(costs)
    ]
    taken = _hungarian(table)
    return [column if column < columns else None for column in taken]


def _hungarian(table: list[list[float]]) -> list[int]:
    """Give each row its column, where there are at least as many columns as rows."""
    rows, columns = len(table), len(table[0])
    row_of = [-1] * (columns + 1)  # the last column is where each search starts
    by_row, by_column = [0.0] * rows, [0.0] * (columns + 1)
    for start in range(rows):
        row_of[columns], at = start, columns
        least, before, done = [math.inf] * columns, [columns] * columns, [False] * (columns + 1)
        while row_of[at] != -1:
            done[at], row, step, following = True, row_of[at], math.inf, -1
            for column in range(columns):
                if done[column]:
                    continue
                cost = table[row][column] - by_row[row] - by_column[column]
                if cost < least[column]:
                    least[column], before[column] = cost, at
                if least[column] < step:
                    step, following = least[column], column
            for column in range(columns + 1):
                if done[column]:
                    by_row[row_of[column]] += step
                    by_column[column] -= step
                elif column < columns:
                    least[column] -= step
            at = following
        while at != columns:
            row_of[at], at = row_of[before[at]], before[at]
    column_of = [0] * rows
    for column, row in enumerate(row_of[:columns]):
        if row != -1:
            column_of[row] = column
    return column_of


def _fit_velocity(path: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Fit a velocity to times and places by least squares."""
    mean = [sum(values) / len(path) for values in zip(*path, strict=True)]
    spread = sum((time - mean[0]) ** 2 for time, _, _ in path)
    if spread < 1e-9:
        return 0.0, 0.0
    x, y = (sum((point[0] - mean[0]) * (point[axis] - mean[axis]) for point in path) / spread for axis in (1, 2))
    return x, y


def _center(box: Box) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _overlap(box: Box, other: Box) -> float:
    """Give the share of a box that another covers."""
    across = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    down = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return across * down / (box[2] * box[3]) if across > 0 and down > 0 and box[2] * box[3] else 0.0


def _distance(a: Box, b: Box) -> float:
    """Give the distance of two boxes' centres in units of their mean size; infinite where the sizes do not fit."""
    size_a, size_b = (a[2] + a[3]) / 2, (b[2] + b[3]) / 2
    if not size_a or not size_b or max(size_a, size_b) > MAX_SIZE_RATIO * min(size_a, size_b):
        return math.inf
    return math.dist(_center(a), _center(b)) / ((size_a + size_b) / 2)
