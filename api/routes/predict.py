"""POST /predict: what the face in a clip showed."""

from typing import Any

from flask import Response, jsonify

from api import history_recorder, log_fields, metrics
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.videos import PredictionQuery, PredictionSchema, VideoSchema
from api.services import services

blueprint = GuardedBlueprint("predict", __name__, description="What the face in a clip showed")


@blueprint.route("/predict", methods=["POST"])
@blueprint.doc(requestBody=file_body(VideoSchema))
@blueprint.response(
    200, PredictionSchema, headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER}
)
@blueprint.error_responses(*VIDEO_CODES, "no_face")
@blueprint.query(PredictionQuery)
def predict(query: dict[str, Any]) -> Response:
    """Tell the emotion that the face in a video showed."""
    clip = read_upload(VideoSchema())
    analysis = services().video_pipeline.predict(
        clip.data, model=query["model"], fps=clip.options.get("fps"), explain=query["explain"]
    )
    log_fields.add(
        prediction=analysis.emotion,
        confidence=round(analysis.confidence, 4),
        video_seconds=round(analysis.duration, 3),
        frames=analysis.frames_analysed,
        model=analysis.model.name,
    )
    history_recorder.record_analysis(
        kind="video",
        emotion=analysis.emotion,
        confidence=analysis.confidence,
        probabilities=analysis.probabilities,
        model=analysis.model.name,
        facts={
            "duration": round(analysis.duration, 3),
            "faces": len({moment.track for moment in analysis.timeline}),
            "certain": analysis.certain,
        },
    )
    asked_for = {"timeline": query["detail"] is not None, "explanation": query["explain"]}
    left_out = [name for name, wanted in asked_for.items() if not wanted]
    response = jsonify(PredictionSchema(exclude=left_out).dump(analysis))
    return metrics.with_server_timing(response, analysis.emotion, analysis.timings)
