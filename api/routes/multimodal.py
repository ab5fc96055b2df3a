"""POST /api/predict/multimodal: the emotion that the face and the voice in a clip show together."""

from flask import Response, jsonify

from api import analysis_recorder, jobs
from api.openapi import AUDIOVISUAL_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.multimodal import AudioVisualPredictionSchema, AudioVisualSchema
from api.services import services

MOCK_HEADER = {
    "X-Mock": {
        "description": "`1` if the whole response is made up (EMO_MOCK=1); otherwise absent.",
        "schema": {"type": "string", "enum": ["1"]},
    }
}
"""The header as the OpenAPI document describes it."""

blueprint = GuardedBlueprint(
    "multimodal", __name__, dated=False, description="The emotion that the face and the voice in a clip show together"
)


@blueprint.route("/api/predict/multimodal", methods=["POST"])
@blueprint.doc(operationId="predictFaceAndVoice", requestBody=file_body(AudioVisualSchema))
@blueprint.response(200, AudioVisualPredictionSchema, headers={**analysis_recorder.HEADERS, **MOCK_HEADER})
@blueprint.error_responses(*AUDIOVISUAL_CODES, "noncommercial_model")
@jobs.asynchronous(blueprint)
@blueprint.document_query(AudioVisualSchema)
def predict() -> Response:
    """Predict the emotion that a face and a voice show, from whichever of them the clip has."""
    upload = read_upload(AudioVisualSchema())
    result = services().audiovisual_pipeline.predict(
        upload.data, model=upload.options["model"], fps=upload.options.get("fps")
    )
    # A made-up response is marked twice, and has no licence.
    schema = AudioVisualPredictionSchema(exclude=("commercial", "licence") if result.mock else ("mock",))
    response = jsonify(schema.dump(result))
    if result.mock:
        response.headers["X-Mock"] = "1"
    return analysis_recorder.respond(analysis_recorder.from_audiovisual(result), response)
