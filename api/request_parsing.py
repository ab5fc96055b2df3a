"""The files that a call carries and its options, from JSON or from a form."""

import hashlib
from dataclasses import dataclass
from typing import Any

from flask import request
from marshmallow import ValidationError

from api import log_fields
from api.base64_input import decode_base64
from api.errors import ApiError
from api.middleware import request_body
from api.schemas.files import BASE64_FIELDS, FileSchema
from api.schemas.images import IMAGE_COUNT, ImagesSchema

_NOT_JSON = ("video/", "image/", "audio/", "application/octet-stream")


@dataclass(frozen=True)
class Upload:
    """A file as it was sent, and the body's other fields, validated."""

    data: bytes
    options: dict[str, Any]


def read_upload(schema: FileSchema) -> Upload:
    """Read the one file that this call carries. Raises ApiError or ValidationError."""
    upload = _from_form(schema) if request_body.is_form() else _from_json(schema)
    log_fields.add(content_sha256=hashlib.sha256(upload.data).hexdigest())
    return upload


def read_uploads() -> list[bytes | ApiError]:
    """Read the several files of a call: the `pictures` of a JSON body or the `file` parts of a form.

    A content that is not base64 has its refusal in its place. Raises ApiError or ValidationError for anything else.
    """
    if not request_body.is_form():
        return [_decoded_or_refused(picture["content"]) for picture in ImagesSchema().load(_json())["pictures"]]
    _, files = request_body.read_form()
    try:
        IMAGE_COUNT(files)
    except ValidationError as error:
        raise ValidationError({"file": error.messages}) from error
    return list(files)


def _from_json(schema: FileSchema) -> Upload:
    options = schema.load(_json())
    options.pop("encoding")
    return Upload(_decoded(options.pop("content")), options)


def _from_form(schema: FileSchema) -> Upload:
    fields, files = request_body.read_form()
    if not files:
        raise ValidationError({"file": ["Missing data for required field."]})
    given = {name: value for name, value in fields.items() if name not in BASE64_FIELDS and value != ""}
    return Upload(files[0], schema.load(given, partial=BASE64_FIELDS))


def _json() -> Any:
    if request.mimetype.startswith(_NOT_JSON):
        raise ApiError(
            "unsupported_media", "Send the file as base64 in a JSON body, or as the file part of multipart/form-data."
        )
    return request_body.read_json()


def _decoded(content: str) -> bytes:
    try:
        return decode_base64(content)
    except ValueError as error:
        raise ApiError("bad_base64", "content is not base64. Encode the whole file as it is.") from error


def _decoded_or_refused(content: str) -> bytes | ApiError:
    try:
        return _decoded(content)
    except ApiError as error:
        return error
