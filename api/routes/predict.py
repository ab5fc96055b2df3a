"""POST /predict: the emotion of the main face in a video."""

from flask import Response, jsonify

from api import analysis_recorder
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.videos import PredictionOptionsSchema, PredictionSchema
from api.services import services

blueprint = GuardedBlueprint("predict", __name__, description="The emotion of the main face in a video")


@blueprint.route("/predict", methods=["POST"])
@blueprint.doc(requestBody=file_body(PredictionOptionsSchema))
@blueprint.response(200, PredictionSchema, headers=analysis_recorder.HEADERS)
@blueprint.error_responses(*VIDEO_CODES, "no_face")
@blueprint.document_query(PredictionOptionsSchema)
def predict() -> Response:
    """Predict the emotion that the main face in a video shows."""
    video = read_upload(PredictionOptionsSchema())
    options = video.options
    result = services().video_pipeline.predict(
        video.data, model=options["model"], fps=options.get("fps"), explain=options["explain"]
    )
    requested = {"timeline": options["detail"] is not None, "explanation": options["explain"]}
    schema = PredictionSchema(exclude=[name for name, wanted in requested.items() if not wanted])
    return analysis_recorder.respond(analysis_recorder.from_video(result), jsonify(schema.dump(result)))
