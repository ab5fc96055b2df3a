"""Cache the analysis of a file: its numbers only, never pixels."""

import hashlib
import json
from dataclasses import asdict
from typing import Protocol

from moodreel import __version__
from moodreel.faces.facial_actions import ActionWeight, Explanation
from moodreel.faces.quality import FaceQuality
from moodreel.media.video import ClipGeometry
from moodreel.models.predictor import ModelInfo
from moodreel.pipelines.video_result import TimelinePoint, VideoAnalysis, VideoResult

_NOT_STORED = ("model", "timings", "boomerang")


class AnalysisCache(Protocol):
    """A store of analyses as text. Neither method raises: a failed look-up is a miss."""

    def get(self, key: str) -> str | None:
        """Return the text that is stored under a key; None if there is none."""

    def put(self, key: str, text: str) -> None:
        """Store a text."""


def analysis_key(data: bytes, model: ModelInfo, fps: float | None) -> str:
    """Return the key of an analysis: a SHA-256 of all that its numbers depend on, except settings.

    Args:
        data: The video file.
        model: The model that answers.
        fps: As for `VideoReader`.
    """
    parts = (__version__, hashlib.sha256(data).hexdigest(), model.name, model.version, model.sha256, fps)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def dump_analysis(analysis: VideoAnalysis) -> str:
    """Write the numbers of an analysis as JSON."""
    found = analysis.prediction
    return json.dumps(
        {
            "prediction": {k: v for k, v in vars(found).items() if k not in _NOT_STORED} if found else None,
            "peak": analysis.peak,
            "peak_size": analysis.peak_size,
            "frames_analysed": analysis.frames_analysed,
            "geometry": analysis.geometry,
        },
        default=asdict,
    )


def load_analysis(text: str, model: ModelInfo, timings: dict[str, float]) -> VideoAnalysis:
    """Read an analysis that `dump_analysis` wrote.

    Args:
        text: From `dump_analysis`.
        model: The model that answered.
        timings: Milliseconds by stage of this call.
    """
    numbers = json.loads(text)
    found = numbers["prediction"]
    if found:
        found["quality"] = FaceQuality(**found["quality"])
        found["timeline"] = tuple(TimelinePoint(**{**point, "box": tuple(point["box"])}) for point in found["timeline"])
        actions = found["explanation"]["actions"]
        found["explanation"] = Explanation(tuple(ActionWeight(**action) for action in actions))
    return VideoAnalysis(
        prediction=VideoResult(**found, model=model, timings=timings) if found else None,
        peak=numbers["peak"],
        peak_size=tuple(numbers["peak_size"]),
        frames_analysed=numbers["frames_analysed"],
        geometry=ClipGeometry(**numbers["geometry"]),
        model=model,
        timings=timings,
    )
