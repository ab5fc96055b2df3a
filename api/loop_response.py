"""Answer with a loop: in JSON with the emotion, or as its bytes alone with the emotion in headers."""

from collections.abc import Callable, Collection
from typing import TypeVar
from urllib.parse import quote

from flask import Response, request
from marshmallow import ValidationError

from api.openapi import Blueprint
from api.schemas.fields import LoadedData
from moodreel.pipelines.boomerang import BoomerangClip, LoopOptions
from moodreel.pipelines.video_result import ThumbnailResult, VideoResult

TYPES = {"mp4": "video/mp4", "webp": "image/webp", "gif": "image/gif"}
"""Media type of each output."""
JSON = "application/json"


def _header(description: str, example: str) -> dict[str, object]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


HEADERS = {
    "X-Emotion": _header("Beside the bytes of a loop: `emotion`, percent-encoded; absent without a face.", "Happy"),
    "X-Confidence": _header("Beside the bytes of a loop: `confidence`; absent without a face.", "0.92"),
    "X-Certain": _header("Beside the bytes of a loop: `certain`; absent without a face.", "true"),
    "X-Peak": _header("Beside the bytes of a loop: `peak`.", "2.7"),
}
"""The headers of `loop_bytes`, as the OpenAPI document describes them; `api.middleware.cors` names them too."""

_View = TypeVar("_View", bound=Callable[..., object])


def document_bytes(blueprint: Blueprint) -> Callable[[_View], _View]:
    """Describe the bytes of a loop as responses of a view."""

    def decorate(view: _View) -> _View:
        for media_type in TYPES.values():
            binary = {"type": "string", "format": "binary"}
            view = blueprint.alt_response(200, schema=binary, content_type=media_type, success=True)(view)
        return view

    return decorate


def loop_options(options: LoadedData) -> LoopOptions:
    """Return the options of a loop; its output is the requested one, or what the Accept header asks for, or MP4."""
    accepted = _accepted(TYPES.values())
    output = options["output"] or next(
        (output for output, kind in TYPES.items() if kind == accepted), LoopOptions.output
    )
    return LoopOptions(options["duration"], options["size"], output, options["moment"], options["aspect"])


def wants_bytes(output: str) -> bool:
    """Return whether the Accept header prefers the bytes of a loop to JSON.

    Raises:
        ValidationError: It accepts loops, but none of this output.
    """
    accepted = _accepted([TYPES[output]])
    if accepted is None and _accepted(TYPES.values()):
        raise ValidationError({"output": [f"The Accept header does not accept {TYPES[output]}. Leave output out."]})
    return accepted == TYPES[output]


def loop_bytes(boomerang: BoomerangClip, result: VideoResult | ThumbnailResult) -> Response:
    """Make the response with the bytes of a loop alone, and the main results in headers."""
    response = Response(boomerang.data, mimetype=TYPES[boomerang.output])
    response.headers["X-Peak"] = f"{boomerang.peak:.3f}"
    if result.emotion is not None:
        response.headers["X-Emotion"] = quote(result.emotion)
        response.headers["X-Confidence"] = f"{result.confidence:.4f}"
        response.headers["X-Certain"] = str(result.certain).lower()
    return response


def _accepted(types: Collection[str]) -> str | None:
    """Return which of these types, or JSON, the Accept header prefers; None if it accepts none."""
    return request.accept_mimetypes.best_match([JSON, *types])
