"""POST /api/predict/: the emotion in a video or an image, in the shape of an older service."""

from flask import Response, jsonify

from api import analysis_recorder, history_recorder
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.images import EmotionOptionsSchema, EmotionSchema
from api.services import services
from moodreel.pipelines.image import ImageResult

blueprint = GuardedBlueprint("emotion", __name__, dated=False, description="The emotion in a video or an image")


@blueprint.route("/api/predict/", methods=["POST"])
@blueprint.doc(operationId="predictVideoOrPicture", requestBody=file_body(EmotionOptionsSchema))
@blueprint.response(200, EmotionSchema, headers=analysis_recorder.HEADERS)
@blueprint.error_responses(*VIDEO_CODES, "picture_too_big", "picture_corrupt", "no_face")
@blueprint.document_query(EmotionOptionsSchema)
def predict_any() -> Response:
    """Predict the emotion of the main face in a video or an image; the bytes decide which of them it is."""
    upload = read_upload(EmotionOptionsSchema())
    options = upload.options
    result = services().image_or_video_pipeline.predict(
        upload.data, model=options["model"], fps=options.get("fps"), copy=history_recorder.stores_media()
    )
    response = jsonify(EmotionSchema().dump(result))
    if isinstance(result, ImageResult):
        return analysis_recorder.respond(analysis_recorder.from_image(result), response)
    return analysis_recorder.respond(analysis_recorder.from_video(result), response)
