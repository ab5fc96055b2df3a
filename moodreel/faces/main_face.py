"""Which of the people in a clip it is about, in the few pictures that are looked at."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moodreel.faces.tracker import MAX_GAP, Box, Tracker


@dataclass(frozen=True, eq=False)
class FrameFaces:
    """The faces of one picture, `time` seconds after the first: boxes in its pixels, and the squares around them."""

    time: float
    faces: tuple[tuple[Box, np.ndarray], ...]


def main_face_crops(frames: Sequence[FrameFaces]) -> list[np.ndarray | None]:
    """Give, for each picture, what is around the face of the person most to be seen, as an analysis chooses them.

    Between the windows of a long clip lie more seconds than anybody is followed for: what comes after such a gap is
    chosen for itself.
    """
    crops: list[np.ndarray | None] = []
    tracker = Tracker()
    for stretch in _stretches(frames):
        numbers = [tracker.update(sighting.time, [box for box, _ in sighting.faces]) for sighting in stretch]
        areas: defaultdict[int, float] = defaultdict(float)
        for sighting, tracks in zip(stretch, numbers, strict=True):
            for track, (box, _) in zip(tracks, sighting.faces, strict=True):
                areas[track] += box[2] * box[3]
        main = max(areas, key=areas.__getitem__, default=-1)
        for sighting, tracks in zip(stretch, numbers, strict=True):
            crops.append(dict(zip(tracks, (crop for _, crop in sighting.faces), strict=True)).get(main))
    return crops


def _stretches(sightings: Sequence[FrameFaces]) -> list[list[FrameFaces]]:
    gaps = [after for after, (a, b) in enumerate(itertools.pairwise(sightings), 1) if b.time - a.time > MAX_GAP]
    return [list(sightings[a:b]) for a, b in itertools.pairwise([0, *gaps, len(sightings)])]
