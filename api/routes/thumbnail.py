"""POST /thumbnail: a looping video of the moment that shows the emotion best."""

import base64

from flask import Response, jsonify

from api import analysis_recorder
from api.openapi import VIDEO_CODES, GuardedBlueprint, file_body
from api.request_parsing import read_upload
from api.schemas.videos import ThumbnailOptionsSchema, ThumbnailSchema
from api.services import services
from moodreel.pipelines.video import ThumbnailResult

blueprint = GuardedBlueprint("thumbnail", __name__, description="A looping cover of a video")


@blueprint.route("/thumbnail", methods=["POST"])
@blueprint.doc(requestBody=file_body(ThumbnailOptionsSchema))
@blueprint.response(200, ThumbnailSchema, headers=analysis_recorder.HEADERS)
@blueprint.error_responses(*VIDEO_CODES)
@blueprint.document_query(ThumbnailOptionsSchema)
def thumbnail() -> Response:
    """Make a loop of the best moment of a video."""
    video = read_upload(ThumbnailOptionsSchema())
    options = video.options
    result = services().video_pipeline.thumbnail(
        video.data,
        model=options["model"],
        duration=options["duration"],
        size=options["size"],
        output=options["output"],
        moment=options["moment"],
        fps=options.get("fps"),
    )
    response = jsonify(ThumbnailSchema().dump(_fields(result)))
    return analysis_recorder.respond(analysis_recorder.from_thumbnail(result), response)


def _fields(result: ThumbnailResult) -> dict[str, object]:
    loop = result.boomerang
    return {
        "thumbnail": base64.b64encode(loop.data).decode(),
        "output": loop.output,
        "width": loop.width,
        "height": loop.height,
        "duration": loop.duration,
        "start": loop.start,
        "peak": loop.peak,
        "emotion": result.emotion,
        "poster": base64.b64encode(loop.poster).decode(),
    }
