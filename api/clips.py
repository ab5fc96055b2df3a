"""A call's video and options, from JSON or from a form."""

import hashlib
from dataclasses import dataclass
from typing import Any

from flask import request
from marshmallow import ValidationError

from api import bodies
from api.content import decode_base64
from api.errors import ApiError
from api.facts import record
from api.schemas.clips import BASE64_FIELDS, ClipSchema

_NOT_JSON = ("video/", "image/", "audio/", "application/octet-stream")


@dataclass(frozen=True)
class Clip:
    """The video file as it was sent, and the body's other fields, validated."""

    data: bytes
    options: dict[str, Any]


def read_clip(schema: ClipSchema) -> Clip:
    """Read the video that this call carries. Raises ApiError or ValidationError."""
    clip = _from_form(schema) if bodies.is_form() else _from_json(schema)
    record(content_sha256=hashlib.sha256(clip.data).hexdigest())
    return clip


def _from_json(schema: ClipSchema) -> Clip:
    if request.mimetype.startswith(_NOT_JSON):
        raise ApiError(
            "unsupported_media", "Send the video as base64 in a JSON body, or as the file part of multipart/form-data."
        )
    options = schema.load(bodies.read_json())
    options.pop("encoding")
    return Clip(_decoded(options.pop("content")), options)


def _from_form(schema: ClipSchema) -> Clip:
    fields, data = bodies.read_form()
    if data is None:
        raise ValidationError({"file": ["Missing data for required field."]})
    given = {name: value for name, value in fields.items() if name not in BASE64_FIELDS and value != ""}
    return Clip(data, schema.load(given, partial=BASE64_FIELDS))


def _decoded(content: str) -> bytes:
    try:
        return decode_base64(content)
    except ValueError as error:
        raise ApiError("bad_base64", "content is not base64. Encode the whole video file as it is.") from error
