"""POST /thumbnail: a looping video of the moment that showed the emotion best."""

import base64
from typing import Any

from flask import Response, jsonify

from api import history_recorder, log_fields, metrics
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.videos import ThumbnailOptionsSchema, ThumbnailQuery, ThumbnailSchema
from api.services import services
from moodreel.storage.objects import StoredFile

_TYPES = {"mp4": "video/mp4", "webp": "image/webp", "gif": "image/gif"}

blueprint = GuardedBlueprint("thumbnail", __name__, description="A looping cover of a clip")


@blueprint.route("/thumbnail", methods=["POST"])
@blueprint.doc(requestBody=file_body(ThumbnailOptionsSchema))
@blueprint.response(
    200, ThumbnailSchema, headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER}
)
@blueprint.error_responses(*VIDEO_CODES)
@blueprint.query(ThumbnailQuery)
def thumbnail(query: dict[str, Any]) -> Response:
    """Make a loop of a video's best moment."""
    clip = read_upload(ThumbnailOptionsSchema())
    options: dict[str, Any] = {name: clip.options.get(name) for name in ("duration", "size", "output", "moment", "fps")}
    cover = services().video_pipeline.thumbnail(clip.data, model=query["model"], **options)
    log_fields.add(
        prediction=cover.emotion,
        confidence=None if cover.confidence is None else round(cover.confidence, 4),
        video_seconds=round(cover.clip_duration, 3),
        frames=cover.frames_analysed,
        model=cover.model.name,
    )
    history_recorder.record_analysis(
        kind="video",
        emotion=cover.emotion,
        confidence=cover.confidence,
        probabilities=cover.probabilities,
        model=cover.model.name,
        facts={"duration": round(cover.clip_duration, 3), "certain": cover.certain},
        media=lambda: _media(cover.boomerang),
    )
    return metrics.with_server_timing(jsonify(ThumbnailSchema().dump(_answer(cover))), cover.emotion, cover.timings)


def _media(loop: Any) -> tuple[StoredFile, ...]:
    return (
        StoredFile(f"thumbnail.{loop.output}", _TYPES[loop.output], loop.data),
        StoredFile("poster.jpg", "image/jpeg", loop.poster),
    )


def _answer(cover: Any) -> dict[str, Any]:
    loop = cover.loop
    return {
        "thumbnail": base64.b64encode(loop.data).decode(),
        "output": loop.output,
        "width": loop.width,
        "height": loop.height,
        "duration": loop.duration,
        "start": loop.start,
        "peak": loop.peak,
        "emotion": cover.emotion,
        "poster": base64.b64encode(loop.poster).decode(),
    }
