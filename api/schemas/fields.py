"""Fields that several schemas use."""

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from zoneinfo import ZoneInfo

from marshmallow import Schema, ValidationError, fields, validate
from marshmallow.types import ErrorMessages

_NO_ZONES = ("localtime", "posixrules", "Factory", "posix", "right")
"""Files and folders among the zones that are not zones: settings of the machine, a placeholder, copies of all zones."""

Value = TypeVar("Value")

LoadedData = dict[str, Any]
"""Data that a schema has loaded and validated, by field."""


def field_doc(description: str, **more: object) -> dict[str, object]:
    """Make the metadata of a field for the OpenAPI document."""
    return {"description": description, **more}


def model_field(description: str) -> fields.String:
    """Make the query parameter that names a model; None for the default model."""
    return fields.String(load_default=None, validate=validate.Length(1, 100), metadata=field_doc(description))


def results_field(schema: str) -> fields.List[object]:
    """Make the field with the results of a batch: each is an object of this schema of the document, or a problem."""
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in (schema, "Problem")]
    return fields.List(fields.Raw(metadata={"oneOf": schemas}))


def to_dict(items: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Return the fields of a JSON object, a form or a query string. Raises ValidationError for a repeated one."""
    pairs = list(items)
    unique = dict(pairs)
    if len(unique) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValidationError(
            {name: [f"It was sent {count} times. Send it once."] for name, count in counts.items() if count > 1}
        )
    return unique


class AnswerSchema(Schema):
    """The schema of an answer: it has each of its fields, but for those whose metadata say `optional=True`."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Tell the OpenAPI document, and so generated clients, which fields are always there."""
        field_obj.required = not field_obj.metadata.get("optional", False)


class RoundedFloat(fields.Float):
    """A number rounded to `places` decimals."""

    places = 1

    def _serialize(self, value: float | None, attr: str | None, obj: object, **kwargs: object) -> float | None:
        return None if value is None else round(float(value), self.places)


class Probability(RoundedFloat):
    """A probability or another share, 0 to 1."""

    places = 4


class Weight(RoundedFloat):
    """A share, 0 to 1, of hundreds that add up to 1."""

    places = 6


class Seconds(RoundedFloat):
    """A time or a duration in seconds."""

    places = 3


class Base64(fields.Field[bytes]):
    """Bytes, as base64 in the response."""

    def _serialize(self, value: bytes | None, attr: str | None, obj: object, **kwargs: object) -> str | None:
        return None if value is None else base64.b64encode(value).decode()


class FileFormat(fields.String):
    """The format of a file, in any case: a hint that is checked and not used."""

    def __init__(self, *formats: str) -> None:
        super().__init__(
            allow_none=True,
            # None is a choice, so that the OpenAPI document says that it may be null.
            validate=validate.OneOf((*formats, None), error=f"Must be one of: {', '.join(formats)}."),
            metadata=field_doc("A hint only: the content of the file decides.", example=formats[0]),
        )

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> str:
        return super()._deserialize(value, attr, data, **kwargs).lower()


class LargeString(fields.Field[str]):
    """Base64 that is not decoded and not copied: `fields.String` would copy the 40 MB of a video."""

    default_error_messages: ClassVar[ErrorMessages] = {"invalid": "Not a valid string."}  # type: ignore[misc]

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        return value


class Boolean(fields.Boolean):
    """A boolean, or the string "True", "true", "False" or "false"."""

    truthy: ClassVar[set[object]] = {"True", "true", True}  # type: ignore[misc]
    falsy: ClassVar[set[object]] = {"False", "false", False}  # type: ignore[misc]

    def _deserialize(
        self, value: object, attr: str | None, data: Mapping[str, object] | None, **kwargs: object
    ) -> bool:
        # 1 and 0 are equal to True and False, and would be accepted.
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class WholeNumber(fields.Integer):
    """A whole number, or a string of digits, as a form has it."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> int:
        # `Integer` would truncate 200.5 to 200.
        if isinstance(value, float | bool) or (isinstance(value, str) and not value.strip().isdecimal()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class TimeZone(fields.String):
    """An IANA time zone."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> ZoneInfo:  # type: ignore[override]
        try:
            # In a query string, the + of Etc/GMT+2 means a space.
            zone = ZoneInfo(super()._deserialize(value, attr, data, **kwargs).replace(" ", "+"))
            if zone.key.partition("/")[0] in _NO_ZONES:
                raise ValueError(zone.key)
            return zone
        except (ValueError, KeyError, OSError) as error:
            raise ValidationError("Not a time zone, such as Europe/Berlin.") from error


class Date(fields.String):
    """A date or a time in ISO 8601, parsed by a function of `moodreel.storage.timestamps`."""

    def __init__(self, parse: Callable[[str], datetime], **options: Any) -> None:
        either = {"anyOf": [{"type": "string", "format": kind} for kind in ("date", "date-time")]}
        super().__init__(**{**options, "metadata": {**either, **options.get("metadata", {})}})
        self._parse = parse

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> datetime:  # type: ignore[override]
        try:
            return self._parse(super()._deserialize(value, attr, data, **kwargs))
        except ValueError as error:
            raise ValidationError("Not a date in ISO 8601, such as 2025-08-16 or 2025-08-16T12:34:56Z.") from error
