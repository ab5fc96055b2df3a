"""POST /thumbnail: a looping video of the moment that shows the emotion best."""

from flask import Response, jsonify

from api import analysis_recorder, jobs, loop_response
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.videos import ThumbnailOptionsSchema, ThumbnailSchema
from api.services import services

blueprint = GuardedBlueprint("thumbnail", __name__, description="A looping cover of a video")


@blueprint.route("/thumbnail", methods=["POST"])
@blueprint.doc(operationId="makeThumbnail", requestBody=file_body(ThumbnailOptionsSchema))
@blueprint.response(200, ThumbnailSchema, headers={**analysis_recorder.HEADERS, **loop_response.HEADERS})
@loop_response.document_bytes(blueprint)
@blueprint.error_responses(*VIDEO_CODES)
@jobs.asynchronous(blueprint)
@blueprint.document_query(ThumbnailOptionsSchema)
def thumbnail() -> Response:
    """Make a loop of the best moment of a video. `Accept: video/mp4` (or WebP, GIF) returns its bytes alone."""
    video = read_upload(ThumbnailOptionsSchema())
    loop = loop_response.loop_options(video.options)
    as_bytes = loop_response.wants_bytes(loop.output)
    result = services().video_pipeline.thumbnail(
        video.data, loop, model=video.options["model"], fps=video.options.get("fps")
    )
    response = (
        loop_response.loop_bytes(result.boomerang, result) if as_bytes else jsonify(ThumbnailSchema().dump(result))
    )
    return analysis_recorder.respond(analysis_recorder.from_thumbnail(result), response)
