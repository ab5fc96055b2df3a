"""POST /api/predict/multimodal: what the face and the voice in a clip showed together."""

from typing import Any

from flask import Response, jsonify

from api import history_recorder, metrics
from api.log_fields import record
from api.openapi import RECORDING_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.multimodal import ImpressionSchema, RecordingQuery, RecordingSchema
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
@blueprint.doc(requestBody=file_body(RecordingSchema))
@blueprint.response(200, ImpressionSchema, headers={**metrics.SERVER_TIMING, **history_recorder.HISTORY_ID, **MOCK})
@blueprint.refuses(*RECORDING_CODES, "noncommercial_model", "model_missing")
@blueprint.takes_query(RecordingQuery)
def predict(query: dict[str, Any]) -> Response:
    """Tell the emotion that a face and a voice showed, from whichever of them there is."""
    upload = read_upload(RecordingSchema())
    impression = services().audiovisual_pipeline.predict(
        upload.data, model=query["model"], fps=upload.options.get("fps")
    )
    label, confidence = impression.labels[impression.best], impression.probabilities[impression.best]
    record(
        prediction=label,
        confidence=round(confidence, 4),
        video_seconds=round(impression.seconds, 3),
        frames=impression.frames,
        model=impression.model.name,
        modalities=",".join(impression.modalities),
    )
    if impression.mock:
        return _made_up(impression)
    history_recorder.keep(
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
    response = jsonify(ImpressionSchema(exclude=("mock",)).dump(impression))
    return metrics.observed(response, label, impression.timings)


def _made_up(impression: Any) -> Response:
    """Answer with what is made up, marked twice; it is in nobody's history and in no count of emotions."""
    response = jsonify(ImpressionSchema(exclude=("commercial", "licence")).dump(impression))
    response.headers["X-Mock"] = "1"
    return metrics.observed(response, None, impression.timings)
