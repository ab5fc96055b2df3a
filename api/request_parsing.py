"""Parse requests: the files in a JSON body or a form, and the options, which may be in the body or query string."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import json, request
from marshmallow import ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from api import idempotency, log_fields
from api.base64_input import decode_base64
from api.errors import ApiError
from api.middleware import request_body
from api.schemas.fields import LoadedData, to_dict
from api.schemas.files import IMAGE, VIDEO, FileSchema, OptionsSchema
from api.schemas.images import IMAGE_COUNT, ImagesSchema
from moodreel.media.container import video_demuxer
from moodreel.media.image import is_image
from moodreel.timing import stage

MAX_JSON_PARTS = 10_000
"""Commas and opening brackets outside of strings in a JSON body. A body of nothing else would become a gigabyte of
objects, or a million unknown fields to report."""
_STRING_OR_PART = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,\[{]', re.DOTALL)
"""A string or a part. A string that is never closed ends with the body: searching on from each quote would take
quadratic time."""

_NESTED_NAME = re.compile(r"(\w+)(?:\.(\w+)|\[(\w+)\])")
"""A field of an object, in a form or a query string: `thumbnail.size` or `thumbnail[size]`."""

_MEDIA_TYPES = ("video/", "image/", "audio/", "application/octet-stream")
_MAX_NAME, _MAX_NAMES = 64, 4
"""Characters of a name, and number of names, that an error repeats."""
_TEXT_PART = "The part is text. Send it as a file: with a filename in its Content-Disposition."
_OTHER_FILE = "Only the part file is a file. Send an option as text: without a filename in its Content-Disposition."
_NO_PARTS = (
    "The form has no parts: the boundary in its Content-Type is missing or wrong, or the form was cut off. Let "
    "your HTTP client set Content-Type."
)
_LARGE_FORM = (
    "The form has over 500 kB of text in a part, or over 1000 parts. Send it as a file: with a filename in its "
    "Content-Disposition."
)
_FILE_EXAMPLE = '{"encoding": "base64", "content": "…"}'


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Attributes:
        data: The bytes of the file.
        options: The other fields of the body and those of the query string, validated.
    """

    data: bytes
    options: LoadedData


def read_upload(schema: FileSchema) -> Upload:
    """Read the file and the options of a request. Raises ApiError or ValidationError."""
    upload = _from_form(schema) if is_form() else _from_json(schema)
    log_fields.add(content_sha256=hashlib.sha256(upload.data).hexdigest())
    _check_kind(upload.data, schema.reads)
    return upload


def read_uploads() -> tuple[list[bytes | ApiError], LoadedData]:
    """Read the files of a request: the `pictures` of a JSON body, or the `file` parts of a form.

    Returns:
        The bytes of each file, in order, or an error if it is not a picture; and the options.

    Raises:
        ApiError: The body cannot be read.
        ValidationError: The body breaks its schema.
    """
    if not is_form():
        options = load_options(ImagesSchema(), _read_file_json())
        return [_picture_or_error(image["content"]) for image in options.pop("pictures")], options
    fields, files = read_form()
    if not files:
        raise ValidationError({"file": [_missing_file(fields)]})
    options = _load_form(ImagesSchema(), fields)
    try:
        IMAGE_COUNT(files)
    except ValidationError as error:
        raise ValidationError({"file": error.messages}) from error
    return [_picture_or_error(file) for file in files], options


def load_options(schema: OptionsSchema, body: Mapping[str, object], *, partial: bool = False) -> LoadedData:
    """Validate a body together with the query string, which may have any field that is not the file itself.

    Args:
        schema: Of both.
        body: Parsed. It may be no object at all, which the schema then rejects.
        partial: Whether the fields that cannot be in the query string may be missing.

    Raises:
        ValidationError: They break the schema, or both have the same field.
    """
    query = _join_nested(to_dict(request.args.items(multi=True)))
    if query and isinstance(body, Mapping):
        errors = {name: ["Send it in the body."] for name in query if name in schema.body_only}
        errors |= {name: ["Send it once: in the body or in the query string."] for name in query if name in body}
        if errors:
            raise ValidationError(errors)
        body = {**body, **query}
    loaded: LoadedData = schema.load(body, partial=schema.body_only if partial else None)
    return loaded


def read_json(example: str = _FILE_EXAMPLE, *, analyzed: bool = False) -> Mapping[str, object]:
    """Parse the body as JSON, whatever its Content-Type: most clients that leave it out send JSON.

    Args:
        example: A valid body, for the error message.
        analyzed: Whether this is a call to analyze something: an Idempotency-Key then counts.

    Returns:
        The body. It may be no object at all, which its schema then rejects.

    Raises:
        ApiError: The body is compressed, is no JSON or has too many parts.
        ValidationError: An object in it has two fields of one name.
    """
    _require_identity_encoding()
    stream = request.stream  # waits for a slot
    with stage("body"):
        data = stream.read()
    if analyzed:
        idempotency.begin([data])
    if _has_too_many_parts(data):
        raise ApiError("bad_json", f"The body has too many parts. Send a JSON object, such as {example}.")
    if not data:
        raise ApiError("bad_json", f"The body is empty. Send a JSON object, such as {example}.")
    try:
        text = data.decode("utf-8-sig")
        # Both are 40 MB for a video of 30 MB. The bytes are not needed while the text is parsed.
        del data
        # strict=False accepts the raw line breaks that the `base64` command puts into a body.
        return cast(
            Mapping[str, object],
            json.loads(text, strict=False, parse_constant=_reject_constant, object_pairs_hook=to_dict),
        )
    except (ValueError, RecursionError) as error:
        raise ApiError("bad_json", f"Send a JSON object, such as {example}.") from error


def is_form() -> bool:
    """Return whether the body is multipart/form-data."""
    return request.mimetype == "multipart/form-data"


def read_form() -> tuple[dict[str, str], list[bytes]]:
    """Return the fields of the form, and the bytes of its `file` parts. Raises ApiError or ValidationError."""
    _require_identity_encoding()
    _ = request.stream  # waits for a slot
    try:
        with stage("body"):
            form, files = request.form, request.files.getlist("file")
    except RequestEntityTooLarge as error:
        if request_body.bytes_read() > (request.max_content_length or 0):
            raise
        raise ValidationError({"file": [_LARGE_FORM]}) from error
    fields = to_dict(form.items(multi=True))
    # A page sends the inputs in which nobody chose a file as well, without a filename.
    others = {name for name, file in request.files.items(multi=True) if name != "file" and file.filename}
    if files and others:
        raise ValidationError({name: [_OTHER_FILE] for name in others})
    # `api.middleware.request_body` keeps the parts in memory: this makes no copy.
    contents = [cast(io.BytesIO, file.stream).getvalue() for file in files]
    idempotency.begin([json.dumps(fields, sort_keys=True).encode(), *contents])
    return fields, contents


def has_body() -> bool:
    """Return whether the request announces a body."""
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _from_json(schema: FileSchema) -> Upload:
    options = load_options(schema, _read_file_json())
    options.pop("encoding")
    return Upload(_decode(options.pop("content")), options)


def _from_form(schema: FileSchema) -> Upload:
    fields, files = read_form()
    if not files:
        raise ValidationError({"file": [_missing_file(fields)]})
    if len(files) > 1:
        raise ValidationError({"file": [f"There are {len(files)}. Send one file per request."]})
    return Upload(files[0], _load_form(schema, fields))


def _missing_file(fields: Mapping[str, str]) -> str:
    """Say why a form has no file: it was not read, its part has another name, or no file name."""
    if "file" in fields:
        return _TEXT_PART
    if not fields and not request.files:
        return _NO_PARTS
    names = ", ".join(name[:_MAX_NAME] for name in [*request.files][:_MAX_NAMES])
    return (
        f"The form has the file in another part, {names}: name that part file."
        if names
        else "The form has no such part."
    )


def _load_form(schema: OptionsSchema, fields: Mapping[str, str]) -> LoadedData:
    # A page sends the fields that nobody filled in as well.
    filled = {name: value for name, value in fields.items() if name not in schema.body_only and value != ""}
    return load_options(schema, _join_nested(filled), partial=True)


def _join_nested(fields: Mapping[str, str]) -> dict[str, object]:
    """Join `object.field` or `object[field]` of a form or a query string to objects.

    Raises:
        ValidationError: The object itself is there as well, and is not just `true`; or a field is there in both ways.
    """
    joined: dict[str, object] = {}
    objects: dict[str, dict[str, object]] = {}
    for name, value in fields.items():
        match = _NESTED_NAME.fullmatch(name)
        if match:
            options, option = objects.setdefault(match[1], {}), match[2] or match[3]
            if option in options:
                raise ValidationError({f"{match[1]}.{option}": ["It was sent 2 times. Send it once."]})
            options[option] = value
        else:
            joined[name] = value
    # `thumbnail=true` adds nothing to `thumbnail.size=240`.
    if twice := [name for name in objects if joined.get(name, "true") not in ("true", "True")]:
        raise ValidationError({name: ["Send it once: as one object, or one option each."] for name in twice})
    return {**joined, **objects}


def _read_file_json() -> Mapping[str, object]:
    if request.mimetype.startswith(_MEDIA_TYPES):
        raise ApiError(
            "unsupported_media", "Send the file as base64 in a JSON body, or as the file part of multipart/form-data."
        )
    return read_json(analyzed=True)


def _decode(content: str) -> bytes:
    try:
        with stage("base64"):
            return decode_base64(content)
    except ValueError as error:
        raise ApiError("bad_base64") from error


def _picture_or_error(content: str | bytes) -> bytes | ApiError:
    try:
        data = _decode(content) if isinstance(content, str) else content
        _check_kind(data, IMAGE)
    except ApiError as error:
        return error
    return data


def _check_kind(data: bytes, reads: str) -> None:
    """Reject an empty file, and one of the other kind with the route for it. The pipelines reject the rest."""
    if not data:
        raise ApiError("unsupported_media", f"The file is empty: it has 0 bytes. Send a {reads}.")
    if reads == VIDEO and is_image(data):
        raise ApiError("unsupported_media", "This is a picture. Send pictures to POST /api/detect, videos here.")
    if reads == IMAGE and not is_image(data) and video_demuxer(data):
        raise ApiError(
            "unsupported_media", "This is a video or an animation. Send videos to POST /predict, pictures here."
        )


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
