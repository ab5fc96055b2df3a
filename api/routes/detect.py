"""POST /api/detect and /api/detect/batch: what every face in a picture showed."""

import hashlib
from collections.abc import Iterator
from typing import Any

from flask import Response, jsonify, request

from api import history_recorder, log_fields, metrics
from api.errors import ApiError, to_item_error
from api.openapi import IMAGE_CODES, GuardedBlueprint, file_body, files_body
from api.request_parsing import read_upload, read_uploads
from api.schemas.files import FileSchema
from api.schemas.images import (
    MAX_IMAGES,
    DetectionBatchSchema,
    DetectionQuery,
    DetectionSchema,
    ImagesSchema,
    ModelQuery,
)
from api.services import services
from moodreel.errors import MoodreelError

JPEG = "image/jpeg"

blueprint = GuardedBlueprint("pictures", __name__, dated=False, description="What every face in a picture showed")


@blueprint.route("/api/detect", methods=["POST"])
@blueprint.doc(requestBody=file_body(FileSchema))
@blueprint.response(
    200, DetectionSchema, headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER}
)
@blueprint.alt_response(200, schema={"type": "string", "format": "binary"}, content_type=JPEG, success=True)
@blueprint.error_responses(*IMAGE_CODES)
@blueprint.query(DetectionQuery)
def detect(query: dict[str, Any]) -> Response:
    """Tell the emotion that every face in a picture showed."""
    upload = read_upload(FileSchema())
    as_jpeg = query["draw"] and request.accept_mimetypes.best_match(["application/json", JPEG]) == JPEG
    detection = services().image_pipeline.predict(
        upload.data, model=query["model"], draw=query["draw"], copy=history_recorder.stores_media()
    )
    log_fields.add(
        prediction=detection.emotion,
        confidence=None if detection.confidence is None else round(detection.confidence, 4),
        frames=1,
        model=detection.model.name,
    )
    _keep(detection)
    if as_jpeg:
        response = Response(detection.drawn, mimetype=JPEG)
    else:
        response = jsonify(DetectionSchema(exclude=() if query["draw"] else ("picture",)).dump(detection))
    return metrics.with_server_timing(response, detection.emotion, detection.timings)


@blueprint.route("/api/detect/batch", methods=["POST"])
@blueprint.doc(requestBody=files_body(ImagesSchema, MAX_IMAGES))
@blueprint.response(
    200, DetectionBatchSchema, headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER}
)
@blueprint.error_responses("bad_json", "too_large", "unsupported_media", "invalid_request", "overloaded")
@blueprint.query(ModelQuery)
def detect_batch(query: dict[str, Any]) -> Response:
    """Do so for up to 32 pictures. What is wrong with one of them stands in its place; the call succeeds."""
    uploads = read_uploads()
    batch = services().image_pipeline.predict_batch(
        [upload for upload in uploads if isinstance(upload, bytes)],
        model=query["model"],
        copy=history_recorder.stores_media(),
    )
    log_fields.add(frames=len(uploads), model=batch.model.name)
    found = _in_place(uploads, iter(batch.results))
    for upload, result in zip(uploads, found, strict=True):
        if isinstance(upload, bytes) and not isinstance(result, MoodreelError):
            _keep(result, hashlib.sha256(upload).hexdigest())
    results = [_part(result) for result in found]
    return metrics.with_server_timing(jsonify({"results": results, "count": len(results)}), None, batch.timings)


def _keep(detection: Any, content_sha256: str | None = None) -> None:
    history_recorder.record_analysis(
        kind="picture",
        emotion=detection.emotion,
        confidence=detection.confidence,
        probabilities=detection.all_emotions,
        model=detection.model.name,
        facts={"faces": len(detection.faces), "certain": detection.certain},
        media=lambda: [history_recorder.image_copy(detection.copy)],
        content_sha256=content_sha256,
    )


def _in_place(uploads: list[bytes | ApiError], results: Iterator[Any]) -> list[Any]:
    return [upload if isinstance(upload, ApiError) else next(results) for upload in uploads]


def _part(result: Any) -> dict[str, Any]:
    if isinstance(result, ApiError | MoodreelError):
        return to_item_error(result)
    return DetectionSchema(exclude=("picture",)).dump(result)
