"""POST /predict: the emotion of the main face in a video."""

from flask import Response, jsonify

from api import analysis_recorder
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.fields import LoadedData
from api.schemas.videos import PredictionQuery, PredictionSchema, VideoSchema
from api.services import services

blueprint = GuardedBlueprint("predict", __name__, description="The emotion of the main face in a video")


@blueprint.route("/predict", methods=["POST"])
@blueprint.doc(requestBody=file_body(VideoSchema))
@blueprint.response(200, PredictionSchema, headers=analysis_recorder.HEADERS)
@blueprint.error_responses(*VIDEO_CODES, "no_face")
@blueprint.query(PredictionQuery)
def predict(query: LoadedData) -> Response:
    """Predict the emotion that the main face in a video shows."""
    video = read_upload(VideoSchema())
    result = services().video_pipeline.predict(
        video.data, model=query["model"], fps=video.options.get("fps"), explain=query["explain"]
    )
    requested = {"timeline": query["detail"] is not None, "explanation": query["explain"]}
    schema = PredictionSchema(exclude=[name for name, wanted in requested.items() if not wanted])
    return analysis_recorder.respond(analysis_recorder.from_video(result), jsonify(schema.dump(result)))
