"""POST /predict: the emotion of the main face in a video, and on request a loop of its best moment."""

from flask import Response, jsonify

from api import analysis_recorder, jobs, loop_response
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.videos import PredictionOptionsSchema, PredictionSchema
from api.services import services
from moodreel.pipelines.video_result import VideoResult

blueprint = GuardedBlueprint("predict", __name__, description="The emotion of the main face in a video")


@blueprint.route("/predict", methods=["POST"])
@blueprint.doc(operationId="predictVideo", requestBody=file_body(PredictionOptionsSchema))
@blueprint.response(200, PredictionSchema, headers={**analysis_recorder.HEADERS, **loop_response.HEADERS})
@loop_response.document_bytes(blueprint)
@blueprint.error_responses(*VIDEO_CODES, "no_face")
@jobs.asynchronous(blueprint)
@blueprint.document_query(PredictionOptionsSchema)
def predict() -> Response:
    """Predict the emotion that the main face in a video shows; `thumbnail` adds a loop of its best moment.

    With `thumbnail` and `Accept: video/mp4` (or WebP, GIF), the response is the bytes of the loop alone.
    """
    video = read_upload(PredictionOptionsSchema())
    options = video.options
    loop = loop_response.loop_options(options["thumbnail"]) if options["thumbnail"] else None
    as_bytes = loop is not None and loop_response.wants_bytes(loop.output)
    result = services().video_pipeline.predict(
        video.data, model=options["model"], fps=options.get("fps"), explain=options["explain"], loop=loop
    )
    if as_bytes and result.boomerang:
        response = loop_response.loop_bytes(result.boomerang, result)
    else:
        response = jsonify(_schema(result, timeline=options["detail"] is not None).dump(result))
    return analysis_recorder.respond(analysis_recorder.from_video(result), response)


def _schema(result: VideoResult, *, timeline: bool) -> PredictionSchema:
    """Return the schema with the fields that were requested."""
    optional = {
        "timeline": timeline,
        "explanation": result.explanation is not None,
        **dict.fromkeys(("thumbnail", "poster", "loop"), result.boomerang is not None),
    }
    return PredictionSchema(exclude=[name for name, requested in optional.items() if not requested])
