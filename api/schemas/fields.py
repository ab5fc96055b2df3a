"""Kinds of fields that the schemas share."""

from datetime import datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from marshmallow import ValidationError, fields

Loaded = dict[str, Any]
"""Data that a schema has loaded and validated, by field."""


def about(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, **more}


class Measure(fields.Float):
    """A number given to so many places: more would only look exact."""

    places = 1

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> float | None:
        return None if value is None else round(float(value), self.places)


class Probability(Measure):
    """A share of 1."""

    places = 4


class Weight(Measure):
    """A share of 1 that may be one of hundreds."""

    places = 6


class Seconds(Measure):
    places = 3


class LowerCase(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(value, attr, data, **kwargs).lower()


class Text(fields.Field[str]):
    """Text that is passed on as it is: `fields.String` would copy the 40 MB of a video."""

    default_error_messages: ClassVar[dict[str, Any]] = {"invalid": "Not a valid string."}  # type: ignore[misc]

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        return value


class Boolean(fields.Boolean):
    truthy: ClassVar[set[Any]] = {"True", "true", True}  # type: ignore[misc]
    falsy: ClassVar[set[Any]] = {"False", "false", False}  # type: ignore[misc]

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        # 1 and 0 equal True and False and would pass.
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class StatusCode(fields.Integer):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        # As text in a query, as text or a number in JSON; `Integer` would cut 200.5 down to 200.
        if isinstance(value, float | bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class TimeZone(fields.String):
    """A time zone by its name."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ZoneInfo:  # type: ignore[override]
        try:
            # In a query string the + of Etc/GMT+2 arrives as a space.
            return ZoneInfo(super()._deserialize(value, attr, data, **kwargs).replace(" ", "+"))
        except ValidationError:
            raise
        except (ValueError, KeyError, OSError) as error:
            raise ValidationError("Not a time zone, such as Europe/Berlin.") from error


class Date(fields.String):
    """A date as `moodreel.storage.timestamps` reads it."""

    def __init__(self, read: Any, **options: Any) -> None:
        super().__init__(**options)
        self._read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:  # type: ignore[override]
        try:
            return self._read(super()._deserialize(value, attr, data, **kwargs))
        except ValueError as error:
            if isinstance(error, ValidationError):
                raise
            raise ValidationError("Not a date in ISO 8601, such as 2025-08-16 or 2025-08-16T12:34:56Z.") from error
