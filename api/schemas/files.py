"""The schema of a file in a request."""

from marshmallow import RAISE, Schema, fields, validate

from api.schemas.fields import LargeString, field_doc

BASE64_FIELDS = ("encoding", "content")
"""Fields of a JSON body that a form does not have: its `file` part is the file itself."""


class FileSchema(Schema):
    """A file as base64 in JSON."""

    class Meta:
        unknown = RAISE

    encoding = fields.String(
        required=True, validate=validate.Equal("base64"), metadata=field_doc("Only `base64`.", example="base64")
    )
    content = LargeString(
        required=True,
        metadata=field_doc(
            "The file: standard or URL-safe base64, with or without padding, line breaks or a `data:` prefix.",
            example="AAAAIGZ0eXBpc29tAAACAGlzb21pc28y…",
        ),
    )
