"""Parse request bodies: JSON, forms, and the files that they carry."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import json, request
from marshmallow import ValidationError

from api import log_fields
from api.base64_input import decode_base64
from api.errors import ApiError
from api.schemas.fields import LoadedData
from api.schemas.files import BASE64_FIELDS, FileSchema
from api.schemas.images import IMAGE_COUNT, ImagesSchema

MAX_JSON_PARTS = 10_000
"""Commas and opening brackets outside of strings in a JSON body. A body of nothing else would become a gigabyte of
objects, or a million unknown fields to report."""
_STRING_OR_PART = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL)
"""A string or a part. A string that is never closed ends with the body: to search on from each quote would take
quadratic time."""

_MEDIA_TYPES = ("video/", "image/", "audio/", "application/octet-stream")
_FILE_EXAMPLE = '{"encoding": "base64", "content": "…"}'


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Attributes:
        data: The bytes of the file.
        options: The other fields of the body, validated.
    """

    data: bytes
    options: LoadedData


def read_upload(schema: FileSchema) -> Upload:
    """Read the file of a request, from JSON or a form. Raises ApiError or ValidationError."""
    upload = _from_form(schema) if is_form() else _from_json(schema)
    log_fields.add(content_sha256=hashlib.sha256(upload.data).hexdigest())
    return upload


def read_uploads() -> list[bytes | ApiError]:
    """Read the files of a request: the `pictures` of a JSON body, or the `file` parts of a form.

    Returns:
        The bytes of each file, in order; an error in place of content that is not base64.

    Raises:
        ApiError: The body cannot be read.
        ValidationError: The body breaks its schema.
    """
    if not is_form():
        images = ImagesSchema().load(_read_file_json())["pictures"]
        return [_decode_or_error(image["content"]) for image in images]
    _, files = read_form()
    try:
        IMAGE_COUNT(files)
    except ValidationError as error:
        raise ValidationError({"file": error.messages}) from error
    return list(files)


def read_json(example: str = _FILE_EXAMPLE) -> Mapping[str, object]:
    """Parse the body as JSON, whatever its Content-Type: most clients that leave it out send JSON.

    Args:
        example: A valid body, for the error message.

    Returns:
        The body. It may be no object at all, which its schema then rejects.

    Raises:
        ApiError: The body is compressed, is no JSON or has too many parts.
    """
    _require_identity_encoding()
    data = request.stream.read()
    if _has_too_many_parts(data):
        raise ApiError("bad_json", f"The body has far too many parts. Send a JSON object, such as {example}.")
    try:
        text = data.decode("utf-8-sig")
        # Both are 40 MB for a video of 30 MB. The bytes are not needed while the text is parsed.
        del data
        # strict=False accepts the raw line breaks that the `base64` command puts into a body.
        return cast(Mapping[str, object], json.loads(text, strict=False, parse_constant=_reject_constant))
    except (ValueError, RecursionError) as error:
        raise ApiError("bad_json", f"Send a JSON object, such as {example}.") from error


def is_form() -> bool:
    """Return whether the body is multipart/form-data."""
    return request.mimetype == "multipart/form-data"


def read_form() -> tuple[dict[str, str], list[bytes]]:
    """Return the fields of the form, and the bytes of its `file` parts."""
    _require_identity_encoding()
    fields, files = request.form.to_dict(), request.files.getlist("file")
    # `api.middleware.request_body` keeps the parts in memory: this makes no copy.
    return fields, [cast(io.BytesIO, file.stream).getvalue() for file in files]


def has_body() -> bool:
    """Return whether the request announces a body."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _from_json(schema: FileSchema) -> Upload:
    options = schema.load(_read_file_json())
    options.pop("encoding")
    return Upload(_decode(options.pop("content")), options)


def _from_form(schema: FileSchema) -> Upload:
    fields, files = read_form()
    if not files:
        raise ValidationError({"file": ["Missing data for required field."]})
    options = {name: value for name, value in fields.items() if name not in BASE64_FIELDS and value != ""}
    return Upload(files[0], schema.load(options, partial=BASE64_FIELDS))


def _read_file_json() -> Mapping[str, object]:
    if request.mimetype.startswith(_MEDIA_TYPES):
        raise ApiError(
            "unsupported_media", "Send the file as base64 in a JSON body, or as the file part of multipart/form-data."
        )
    return read_json()


def _decode(content: str) -> bytes:
    try:
        return decode_base64(content)
    except ValueError as error:
        raise ApiError("bad_base64", "content is not base64. Encode the whole file as it is.") from error


def _decode_or_error(content: str) -> bytes | ApiError:
    try:
        return _decode(content)
    except ApiError as error:
        return error


def _has_too_many_parts(data: bytes) -> bool:
    """Return whether a body has more than `MAX_JSON_PARTS`. Stops reading as soon as that is known."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) <= MAX_JSON_PARTS:
        return False
    parts = strings = 0
    for match in _STRING_OR_PART.finditer(data):
        if data[match.start()] == ord('"'):
            strings += 1
        else:
            parts += 1
        # Each part has at most a name and a value: what has more strings is not JSON.
        if parts > MAX_JSON_PARTS or strings > 2 * MAX_JSON_PARTS:
            return True
    return False


def _require_identity_encoding() -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(
            "unsupported_media",
            "Send the body without a Content-Encoding; videos and pictures are compressed already.",
        )


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
