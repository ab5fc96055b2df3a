"""Select the main face of a clip, the largest over time, in sparsely sampled frames."""

import itertools

import numpy as np

from moodreel.faces.tracker import MAX_GAP
from moodreel.pipelines.people_extractor import ExtractedVideo, total_area


def main_face_crops(video: ExtractedVideo) -> list[np.ndarray | None]:
    """Return the crop of the main face in each frame, see `FaceFeatures.crop`; None where it is not visible.

    The sampled windows of a long clip may be further apart than a track lasts. After such a gap the main face is
    selected again.
    """
    crops: list[np.ndarray | None] = [None] * len(video.frames)
    for segment in _segments([frame.time for frame in video.frames]):
        parts = [{index: track[index] for index in segment if index in track} for track in video.tracks.values()]
        main = max(parts, key=total_area, default={})
        for index, (_, observation) in main.items():
            crops[index] = observation.features.crop
    return crops


def _segments(times: list[float]) -> list[range]:
    """Split the indices of frames where the gap between two is longer than a track lasts."""
    gaps = [index for index, (a, b) in enumerate(itertools.pairwise(times), 1) if b - a > MAX_GAP]
    return [range(a, b) for a, b in itertools.pairwise([0, *gaps, len(times)])]
