"""Record the result of a pipeline: log row, metrics, history, and the headers of the response.

A view gets valid data, calls a pipeline, and passes the result on: `respond(from_video(result), jsonify(...))`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flask import Response

from api import history_recorder, log_fields, metrics
from api.loop_response import TYPES as LOOP_TYPES
from moodreel.pipelines.audiovisual import AudioVisualResult
from moodreel.pipelines.boomerang import BoomerangClip
from moodreel.pipelines.image import ImageResult
from moodreel.pipelines.text import TextResult
from moodreel.pipelines.video_result import ThumbnailResult, VideoResult
from moodreel.storage.history import HistoryEntry
from moodreel.storage.objects import StoredFile

HEADERS = {
    "Server-Timing": {
        "description": "Milliseconds by stage. `cache`: an earlier analysis of the same bytes was used.",
        "schema": {"type": "string"},
        "example": "decode;dur=61.2, faces;dur=190.4, model;dur=4.1",
    },
    "x-history-id": {
        "description": "The entry in the caller's history, if one was written: `/api/history/{id}`.",
        "schema": {"type": "string"},
        "example": "8a54c0f2d1b94f0c9ad2f6b1c0e7d385",
    },
    "Idempotency-Replayed": {
        "description": "`true` if this is the first answer to a repeated call; otherwise absent.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}
"""The headers that `respond` adds, as the OpenAPI document describes them.

A web page can read a new one only after it is added to `api.middleware.cors._EXPOSED_HEADERS` too.
"""


@dataclass(frozen=True)
class AnalysisRecord:
    """The record of one result.

    Attributes:
        entry: The history entry. Its emotion, confidence and model go into the log row as well.
        timings: Milliseconds by stage.
        seconds: Length of the clip; None for an image or a text.
        frames: Analyzed frames; None for a text.
        modalities: What an audio-visual result comes from, such as "video,audio".
        media: Makes the files to store with the entry.
        mock: Whether the result is made up. It is then not stored in a history and not counted as a prediction.
    """

    entry: HistoryEntry
    timings: Mapping[str, float]
    seconds: float | None = None
    frames: int | None = None
    modalities: str | None = None
    media: Callable[[], Sequence[StoredFile]] = tuple
    mock: bool = False


def respond(record: AnalysisRecord, response: Response) -> Response:
    """Record the result and return its response, with `HEADERS`."""
    entry_id = write(record)
    return _with_headers(response, record.timings, [entry_id])


def respond_batch(
    records: Sequence[AnalysisRecord],
    response: Response,
    *,
    model: str,
    timings: Mapping[str, float],
    frames: int | None = None,
) -> Response:
    """Record the results of one request that are not errors, and return its response, with `HEADERS`.

    The log row has only the model and the number of images that were sent (`frames`), and no emotion is counted.
    """
    log_fields.add(model=model, frames=frames)
    metrics.observe_analysis(None, timings)
    return _with_headers(
        response, timings, [history_recorder.write_entry(record.entry, record.media) for record in records]
    )


def write(record: AnalysisRecord, *, in_history: bool = True) -> str | None:
    """Record the result in the log row and the metrics and, if `in_history`, in the history.

    Returns:
        The id of the history entry, if one was written.
    """
    entry = record.entry
    log_fields.add(
        prediction=entry.emotion,
        confidence=None if entry.confidence is None else round(entry.confidence, 4),
        video_seconds=None if record.seconds is None else round(record.seconds, 3),
        frames=record.frames,
        model=entry.model,
        modalities=record.modalities,
    )
    metrics.observe_analysis(None if record.mock else entry.emotion, record.timings)
    if not record.mock:
        metrics.observe_answer(entry)
    return history_recorder.write_entry(entry, record.media) if in_history and not record.mock else None


def from_video(result: VideoResult) -> AnalysisRecord:
    """Make the record of a prediction for a video."""
    facts = {
        "duration": round(result.duration, 3),
        "faces": len({point.track for point in result.timeline}),
        "certain": result.certain,
    }
    entry = _face_entry("video", result, result.probabilities, facts)
    media = partial(_loop_files, result.boomerang)
    return AnalysisRecord(entry, result.timings, result.duration, result.frames_analysed, media=media)


def from_thumbnail(result: ThumbnailResult) -> AnalysisRecord:
    """Make the record of a thumbnail; the history stores the loop and its poster."""
    facts = {"duration": round(result.clip_duration, 3), "certain": result.certain}
    entry = _face_entry("video", result, result.probabilities, facts)
    return AnalysisRecord(
        entry,
        result.timings,
        result.clip_duration,
        result.frames_analysed,
        media=partial(_loop_files, result.boomerang),
    )


def from_image(result: ImageResult, content_sha256: str | None = None) -> AnalysisRecord:
    """Make the record of a prediction for an image; `content_sha256` is needed where a request sent several files."""
    facts = {"faces": len(result.faces), "certain": result.certain}
    entry = _face_entry("picture", result, result.all_emotions, facts, content_sha256)
    return AnalysisRecord(entry, result.timings, frames=1, media=lambda: _image_copy(result.copy))


def from_audiovisual(result: AudioVisualResult) -> AnalysisRecord:
    """Make the record of a prediction from a face and a voice."""
    entry = HistoryEntry(
        kind="video" if result.frames else "audio",
        emotion=result.labels[result.best],
        confidence=result.probabilities[result.best],
        probabilities=dict(zip(result.labels, result.probabilities, strict=True)),
        model=result.model.name,
        facts={
            "duration": round(result.seconds, 3),
            "faces": result.faces,
            "modalities": list(result.modalities),
        },
        content_sha256=_content_sha256(),
    )
    modalities = ",".join(result.modalities)
    return AnalysisRecord(entry, result.timings, result.seconds, result.frames, modalities, mock=result.mock)


def from_text(result: TextResult) -> AnalysisRecord:
    """Make the record of a prediction for a text. It has no hash of the text, which would reveal a short text."""
    # A text may show several emotions. The mood calendar needs shares that add up to 1.
    total = sum(result.scores.values())
    entry = HistoryEntry(
        kind="text",
        emotion=result.label,
        confidence=result.score,
        probabilities={label: score / total for label, score in result.scores.items()},
        model=result.model.name,
        facts={
            "characters": result.characters,
            "language": result.language,
            "language_supported": result.language_supported,
        },
    )
    return AnalysisRecord(entry, result.timings)


def _face_entry(
    kind: str,
    result: VideoResult | ThumbnailResult | ImageResult,
    probabilities: Mapping[str, float] | None,
    facts: Mapping[str, object],
    content_sha256: str | None = None,
) -> HistoryEntry:
    return HistoryEntry(
        kind=kind,
        emotion=result.emotion,
        confidence=result.confidence,
        probabilities=probabilities,
        model=result.model.name,
        facts=facts,
        content_sha256=content_sha256 or _content_sha256(),
    )


def _with_headers(response: Response, timings: Mapping[str, float], entry_ids: Sequence[str | None]) -> Response:
    response.headers["Server-Timing"] = ", ".join(f"{name};dur={value:.1f}" for name, value in timings.items())
    for entry_id in entry_ids:
        if entry_id is not None:
            response.headers.add("x-history-id", entry_id)
    return response


def _content_sha256() -> str | None:
    return log_fields.current().get("content_sha256")


def _loop_files(boomerang: BoomerangClip | None) -> list[StoredFile]:
    if boomerang is None:
        return []
    return [
        StoredFile(f"thumbnail.{boomerang.output}", LOOP_TYPES[boomerang.output], boomerang.data),
        StoredFile("poster.jpg", "image/jpeg", boomerang.poster),
    ]


def _image_copy(jpeg: bytes | None) -> list[StoredFile]:
    return [] if jpeg is None else [StoredFile("picture.jpg", "image/jpeg", jpeg)]
