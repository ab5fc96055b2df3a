"""POST /api/detect and /api/detect/batch: the emotion of every face in an image."""

import hashlib

from flask import Response, jsonify, request

from api import analysis_recorder, history_recorder
from api.errors import ApiError, to_item_error
from api.openapi import ANALYSIS_CODES, IMAGE_CODES, GuardedBlueprint, file_body, files_body
from api.request_parsing import read_upload, read_uploads
from api.schemas.images import (
    MAX_IMAGES,
    DetectionBatchSchema,
    DetectionOptionsSchema,
    DetectionSchema,
    ImagesSchema,
)
from api.services import services
from moodreel.errors import MoodreelError
from moodreel.pipelines.image import ImageResult

JPEG = "image/jpeg"

blueprint = GuardedBlueprint("pictures", __name__, dated=False, description="The emotion of every face in an image")


@blueprint.route("/api/detect", methods=["POST"])
@blueprint.doc(operationId="detectFaces", requestBody=file_body(DetectionOptionsSchema))
@blueprint.response(200, DetectionSchema, headers=analysis_recorder.HEADERS)
@blueprint.alt_response(200, schema={"type": "string", "format": "binary"}, content_type=JPEG, success=True)
@blueprint.error_responses(*IMAGE_CODES)
@blueprint.document_query(DetectionOptionsSchema)
def detect() -> Response:
    """Predict the emotion of every face in an image."""
    upload = read_upload(DetectionOptionsSchema())
    draw = upload.options["draw"]
    result = services().image_pipeline.predict(
        upload.data, model=upload.options["model"], draw=draw, copy=history_recorder.stores_media()
    )
    if draw and request.accept_mimetypes.best_match(["application/json", JPEG]) == JPEG:
        response = Response(result.drawn, mimetype=JPEG)
    else:
        response = jsonify(DetectionSchema(exclude=() if draw else ("picture",)).dump(result))
    return analysis_recorder.respond(analysis_recorder.from_image(result), response)


@blueprint.route("/api/detect/batch", methods=["POST"])
@blueprint.doc(operationId="detectFacesInBatch", requestBody=files_body(ImagesSchema, MAX_IMAGES))
@blueprint.response(200, DetectionBatchSchema, headers=analysis_recorder.HEADERS)
@blueprint.error_responses(*ANALYSIS_CODES)
@blueprint.document_query(ImagesSchema)
def detect_batch() -> Response:
    """Predict the emotion of every face in up to 32 images.

    If one of them cannot be analyzed, its result is a problem, and the request still succeeds.
    """
    uploads, options = read_uploads()
    images = [upload for upload in uploads if isinstance(upload, bytes)]
    batch = services().image_pipeline.predict_batch(
        images, model=options["model"], copy=history_recorder.stores_media()
    )
    in_order = iter(batch.results)
    results = [_to_item(upload if isinstance(upload, ApiError) else next(in_order)) for upload in uploads]
    return analysis_recorder.respond_batch(
        [
            analysis_recorder.from_image(result, hashlib.sha256(image).hexdigest())
            for image, result in zip(images, batch.results, strict=True)
            if not isinstance(result, MoodreelError)
        ],
        jsonify({"results": results, "count": len(results)}),
        model=batch.model.name,
        timings=batch.timings,
        frames=len(uploads),
    )


def _to_item(result: ImageResult | ApiError | MoodreelError) -> dict[str, object]:
    if isinstance(result, ApiError | MoodreelError):
        return to_item_error(result)
    fields: dict[str, object] = DetectionSchema(exclude=("picture",)).dump(result)
    return fields
