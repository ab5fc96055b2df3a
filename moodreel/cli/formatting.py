"""Format results for the terminal: one line of text, or a JSON object.

The keys of the JSON objects are an interface: scripts read them. They do not follow renames in the code.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from moodreel.faces.facial_actions import Explanation
from moodreel.faces.quality import FaceQuality
from moodreel.models.predictor import ModelInfo
from moodreel.pipelines.image import DetectedFace, ImageResult
from moodreel.pipelines.text import TextResult
from moodreel.pipelines.video_result import VideoResult

Json = dict[str, object]


def describe_video(result: VideoResult) -> str:
    """Describe a video's result in one line."""
    explanation = f"; {result.explanation.text}" if result.explanation else ""
    return (
        f"{result.emotion} ({result.confidence:.0%}) at {result.peak:.1f} of {result.duration:.1f} s; "
        f"{_percentages(result.probabilities)}; face in {result.face_coverage:.0%} of {result.frames_analysed} frames"
        f"{_doubt(result)}{explanation}"
    )


def describe_image(result: ImageResult) -> str:
    """Describe an image's result in one line."""
    if not result.faces:
        return "no face"
    largest, count = result.faces[0], len(result.faces)
    which = "1 face" if count == 1 else f"the largest of {count} faces"
    return (
        f"{largest.emotion} ({largest.confidence:.0%}); {_percentages(largest.probabilities)}; {which}{_doubt(largest)}"
    )


def describe_text(result: TextResult) -> str:
    """Describe a text's result in one line."""
    doubt = "" if result.language_supported else f"; a guess, since it is not in English ({result.language})"
    return f"{result.label} ({result.score:.0%}); {_percentages(result.scores)}{doubt}"


def video_to_json(file: Path, result: VideoResult) -> Json:
    """Convert a video's result to a JSON object."""
    return {
        "clip": str(file),
        "emotion": result.emotion,
        "confidence": result.confidence,
        "probabilities": result.probabilities,
        "peak": result.peak,
        "face_coverage": result.face_coverage,
        "certain": result.certain,
        "quality": _quality_to_json(result.quality),
        "frames_analysed": result.frames_analysed,
        "duration": result.duration,
        "width": result.width,
        "height": result.height,
        "timeline": [asdict(point) for point in result.timeline],
        "track": result.track,
        "timings": result.timings,
        "explanation": _explanation_to_json(result.explanation) if result.explanation else None,
        "model": _model_to_json(result.model),
    }


def image_to_json(file: Path, result: ImageResult) -> Json:
    """Convert an image's result to a JSON object."""
    return {
        "picture": str(file),
        "emotion": result.emotion,
        "confidence": result.confidence,
        "all_emotions": result.all_emotions,
        "faces": [
            {
                "box": face.box,
                "emotion": face.emotion,
                "confidence": face.confidence,
                "probabilities": face.probabilities,
                "certain": face.certain,
                "quality": _quality_to_json(face.quality),
            }
            for face in result.faces
        ],
        "width": result.width,
        "height": result.height,
        "model": _model_to_json(result.model),
    }


def text_to_json(file: Path, result: TextResult) -> Json:
    """Convert a text's result to a JSON object."""
    return {
        "text": str(file),
        "label": result.label,
        "score": result.score,
        "scores": result.scores,
        "labels": result.labels,
        "language": result.language,
        "language_supported": result.language_supported,
        "characters": result.characters,
        "windows": result.windows,
        "timings": result.timings,
        "model": _model_to_json(result.model),
    }


def _quality_to_json(quality: FaceQuality) -> Json:
    return {
        "face_coverage": quality.face_coverage,
        "size": quality.size,
        "sharpness": quality.sharpness,
        "light": quality.brightness,
        "yaw": quality.yaw,
        "reason": quality.reason,
        "tip": quality.tip,
    }


def _explanation_to_json(explanation: Explanation) -> Json:
    return {
        "movements": [
            {"name": action.name, "strength": action.activation, "weight": action.weight}
            for action in explanation.actions
        ]
    }


def _model_to_json(model: ModelInfo) -> Json:
    return {"name": model.name, "version": model.version, "sha256": model.sha256}


def _percentages(probabilities: Mapping[str, float]) -> str:
    return ", ".join(f"{label} {probability:.0%}" for label, probability in probabilities.items())


def _doubt(result: VideoResult | DetectedFace) -> str:
    return "" if result.certain else f"; not certain ({result.quality.reason}): {result.quality.tip}"
