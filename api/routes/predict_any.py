"""POST /api/predict/: the emotion in a video or a picture, and no more."""

from typing import Any

from flask import Response, jsonify

from api import history_recorder, log_fields, metrics
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.files import FileSchema
from api.schemas.images import EmotionSchema, ModelQuery
from api.services import services

blueprint = GuardedBlueprint("emotion", __name__, dated=False, description="The emotion in a video or a picture")


# As clients of the older service write it, or without the slash: a redirect would lose the body of some.
@blueprint.route("/api/predict/", methods=["POST"], strict_slashes=False)
@blueprint.doc(requestBody=file_body(FileSchema))
@blueprint.response(200, EmotionSchema, headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER})
@blueprint.error_responses(*VIDEO_CODES, "picture_too_big", "picture_corrupt", "no_face")
@blueprint.query(ModelQuery)
def predict(query: dict[str, Any]) -> Response:
    """Tell the emotion that the face in a video or a picture showed; the bytes say which of them it is."""
    upload = read_upload(FileSchema())
    showing = services().image_or_video_pipeline.predict(
        upload.data, model=query["model"], copy=history_recorder.stores_media()
    )
    log_fields.add(
        prediction=showing.emotion,
        confidence=None if showing.confidence is None else round(showing.confidence, 4),
        video_seconds=None if showing.seconds is None else round(showing.seconds, 3),
        frames=showing.frames,
        model=showing.model.name,
    )
    history_recorder.record_analysis(
        kind="picture" if showing.seconds is None else "video",
        emotion=showing.emotion,
        confidence=showing.confidence,
        probabilities=showing.all_emotions,
        model=showing.model.name,
        facts={"certain": showing.certain}
        | ({} if showing.seconds is None else {"duration": round(showing.seconds, 3)}),
        media=lambda: [history_recorder.image_copy(showing.copy)] if showing.copy else [],
    )
    return metrics.with_server_timing(jsonify(EmotionSchema().dump(showing)), showing.emotion, showing.timings)
