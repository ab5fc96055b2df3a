"""POST /api/predict/multimodal: what the face and the voice in a clip showed together."""

from typing import Any

from flask import Response, jsonify

from api import history_recorder, log_fields, metrics
from api.openapi import AUDIOVISUAL_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.multimodal import AudioVisualPredictionSchema, AudioVisualQuery, AudioVisualSchema
from api.services import services

MOCK = {
    "X-Mock": {
        "description": "`1` where the whole answer is made up (EMO_MOCK=1); absent otherwise.",
        "schema": {"type": "string", "enum": ["1"]},
    }
}
"""How the header is documented."""

blueprint = GuardedBlueprint(
    "multimodal", __name__, dated=False, description="What the face and the voice in a clip showed together"
)


@blueprint.route("/api/predict/multimodal", methods=["POST"])
@blueprint.doc(requestBody=file_body(AudioVisualSchema))
@blueprint.response(
    200,
    AudioVisualPredictionSchema,
    headers={**metrics.SERVER_TIMING_HEADER, **history_recorder.HISTORY_ID_HEADER, **MOCK},
)
@blueprint.error_responses(*AUDIOVISUAL_CODES, "noncommercial_model", "model_missing")
@blueprint.query(AudioVisualQuery)
def predict(query: dict[str, Any]) -> Response:
    """Tell the emotion that a face and a voice showed, from whichever of them there is."""
    upload = read_upload(AudioVisualSchema())
    impression = services().audiovisual_pipeline.predict(
        upload.data, model=query["model"], fps=upload.options.get("fps")
    )
    label, confidence = impression.labels[impression.best], impression.probabilities[impression.best]
    log_fields.add(
        prediction=label,
        confidence=round(confidence, 4),
        video_seconds=round(impression.seconds, 3),
        frames=impression.frames,
        model=impression.model.name,
        modalities=",".join(impression.modalities),
    )
    if impression.mock:
        return _made_up(impression)
    history_recorder.record_analysis(
        kind="video" if impression.frames else "audio",
        emotion=label,
        confidence=confidence,
        probabilities=dict(zip(impression.labels, impression.probabilities, strict=True)),
        model=impression.model.name,
        facts={
            "duration": round(impression.seconds, 3),
            "faces": impression.faces,
            "modalities": list(impression.modalities),
        },
    )
    response = jsonify(AudioVisualPredictionSchema(exclude=("mock",)).dump(impression))
    return metrics.with_server_timing(response, label, impression.timings)


def _made_up(impression: Any) -> Response:
    """Answer with what is made up, marked twice; it is in nobody's history and in no count of emotions."""
    response = jsonify(AudioVisualPredictionSchema(exclude=("commercial", "licence")).dump(impression))
    response.headers["X-Mock"] = "1"
    return metrics.with_server_timing(response, None, impression.timings)
