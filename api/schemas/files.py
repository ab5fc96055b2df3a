"""The schema of a file in a request, and of the options beside it."""

import difflib
from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate

from api.schemas.fields import LargeString, field_doc

BASE64_FIELDS = ("encoding", "content")
"""Fields of a JSON body that a form does not have: its `file` part is the file itself."""
VIDEO, IMAGE, EITHER = "video", "picture", "video or picture"
"""What a route reads."""
UNKNOWN = "Unknown field."
_MAX_HINTS, _MAX_HINT_LENGTH = 8, 64
"""Unknown names that get a hint, and characters of one. Each is compared with all known names, which costs time."""


class ObjectField(fields.Field[object]):
    """An option that is an object with fields of its own."""

    def __init__(self, schema: Schema, **options: Any) -> None:
        super().__init__(**options)
        self.schema = schema


class OptionsSchema(Schema):
    """The options of a call. Of a name that it does not know, it names the nearest that it does.

    Attributes:
        body_only: Fields that cannot be in the query string.
    """

    class Meta:
        unknown = RAISE

    body_only: tuple[str, ...] = ()

    def handle_error(self, error: ValidationError, data: object, **_: object) -> None:
        """Name the nearest known name of each unknown one, or all of them."""
        if not isinstance(data, Mapping) or not isinstance(error.messages, dict):
            return
        unknown = [name for name in data if name not in self.fields and name in error.messages]
        for name in unknown[:_MAX_HINTS]:
            nearest = self._nearest(name) if isinstance(name, str) else None
            hint = f"Did you mean {nearest}?" if nearest else f"There are {', '.join(self.fields)}."
            error.messages[name] = [f"{UNKNOWN} {hint}"]

    def _nearest(self, name: str) -> str | None:
        """Return the known name most like this one; a field of an object is written as `object.field`."""
        known = {name: name for name in self.fields}
        for parent, field in self.fields.items():
            if isinstance(field, ObjectField):
                known = {child: f"{parent}.{child}" for child in field.schema.fields} | known
        matches = difflib.get_close_matches(name[:_MAX_HINT_LENGTH].lower(), known, n=1)
        return known[matches[0]] if matches else None


class FileSchema(OptionsSchema):
    """A file as base64 in JSON.

    Attributes:
        reads: What kind of file: `VIDEO`, `IMAGE` or `EITHER`.
    """

    body_only = BASE64_FIELDS
    reads = VIDEO

    encoding = fields.String(
        required=True, validate=validate.Equal("base64"), metadata=field_doc("Only `base64`.", example="base64")
    )
    content = LargeString(
        required=True,
        metadata=field_doc(
            "The file as base64. URL-safe base64, line breaks, a `data:` prefix and missing padding are accepted too.",
            example="AAAAIGZ0eXBpc29tAAACAGlzb21pc28y",
        ),
    )
