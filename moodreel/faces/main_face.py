"""Select the main face of a clip, the largest over time, in sparsely sampled frames."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.faces.tracker import MAX_GAP, Box, Tracker


@dataclass(frozen=True, eq=False)
class FrameFaces:
    """The faces of one frame.

    Attributes:
        time: Seconds since the first frame.
        faces: Box of each face in pixels of the frame, and its square crop, uint8 (S, S, 3), RGB.
    """

    time: float
    faces: tuple[tuple[Box, np.ndarray], ...]


def main_face_crops(frames: Sequence[FrameFaces]) -> list[np.ndarray | None]:
    """Return the crop of the main face in each frame, None where it is not visible.

    The sampled windows of a long clip may be further apart than a track lasts. After such a gap the main face is
    selected anew. Where no frame has two faces, all are of one person.
    """
    if all(len(frame.faces) <= 1 for frame in frames):
        return [frame.faces[0][1] if frame.faces else None for frame in frames]
    crops: list[np.ndarray | None] = []
    tracker = Tracker()
    for segment in _segments(frames):
        track_ids = [tracker.update(frame.time, [box for box, _ in frame.faces]) for frame in segment]
        areas: defaultdict[int, float] = defaultdict(float)
        for frame, ids in zip(segment, track_ids, strict=True):
            for track_id, (box, _) in zip(ids, frame.faces, strict=True):
                areas[track_id] += box[2] * box[3]
        main = max(areas, key=areas.__getitem__, default=-1)
        for frame, ids in zip(segment, track_ids, strict=True):
            crops.append(dict(zip(ids, (crop for _, crop in frame.faces), strict=True)).get(main))
    return crops


def _segments(frames: Sequence[FrameFaces]) -> list[list[FrameFaces]]:
    """Split frames where the gap between two is longer than a track lasts."""
    gaps = [index for index, (a, b) in enumerate(itertools.pairwise(frames), 1) if b.time - a.time > MAX_GAP]
    return [list(frames[a:b]) for a, b in itertools.pairwise([0, *gaps, len(frames)])]
