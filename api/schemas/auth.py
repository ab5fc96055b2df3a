"""Schemas of tokens, profiles and usage."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from api.schemas.fields import AnswerSchema, LoadedData, RoundedFloat, TimeZone, field_doc
from api.schemas.files import OptionsSchema

DEFAULT_USAGE_DAYS = 30
"""Days of a usage query that names no start."""
MAX_DAYS = 366
"""Most days of one usage query."""

_ROLES = field_doc("Of the token. `ADMIN` can read `/logs`.", example=["USER"])
_TIME = {"example": "2025-08-16T12:34:56Z"}


class UtcTime(fields.Field[datetime]):
    """A time to the second, in UTC."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: object, **kwargs: object) -> str | None:
        return None if value is None else value.strftime("%Y-%m-%dT%H:%M:%SZ")


class Minutes(RoundedFloat):
    """A duration in minutes."""

    places = 3


class TokenSchema(Schema):
    """A token to verify."""

    class Meta:
        unknown = RAISE

    token = fields.String(required=True, metadata={"example": "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOi….…"})


class VerifiedTokenSchema(AnswerSchema):
    """The claims of a valid token."""

    valid = fields.Constant(
        True, metadata=field_doc("Always true. For an invalid token the response is a problem with status 401.")
    )
    user_id = fields.String(
        metadata=field_doc("`userId` of your own tokens, `sub` of a provider's tokens.", example="42")
    )
    subject = fields.String(metadata={"example": "ada@app.example"})
    roles = fields.List(fields.String(), metadata=_ROLES)
    issuer = fields.String(metadata={"example": "https://app.example"})
    issued_at = UtcTime(metadata=_TIME)
    expires_at = UtcTime(metadata=_TIME)


class ProfileSchema(AnswerSchema):
    """The caller. For an API key only `id`, `kind` and `roles` are set, the rest is null."""

    id = fields.String(
        metadata=field_doc("As in the log. It reveals neither key nor name.", example="user-0123456789abcdef")
    )
    kind = fields.String(validate=validate.OneOf(("api_key", "token")))
    user_id = fields.String(allow_none=True, metadata={"example": "42"})
    subject = fields.String(allow_none=True, metadata={"example": "ada@app.example"})
    roles = fields.List(fields.String(), metadata=_ROLES)
    issuer = fields.String(allow_none=True, metadata={"example": "https://app.example"})
    issued_at = UtcTime(allow_none=True, metadata=_TIME)
    expires_at = UtcTime(allow_none=True, metadata=_TIME)


class RenewedTokenSchema(AnswerSchema):
    """A new token."""

    token = fields.String(
        allow_none=True,
        metadata=field_doc("null if it is returned in the cookie, which scripts of the page cannot read."),
    )
    expires_at = UtcTime(metadata=_TIME)


class UsageQuery(OptionsSchema):
    """A range of days, both ends inclusive; by default the last 30 days."""

    start_date = fields.Date(
        load_default=None, metadata=field_doc(f"A range has at most {MAX_DAYS} days.", example="2025-08-01")
    )
    end_date = fields.Date(load_default=None, metadata=field_doc("By default today."))
    tz = TimeZone(
        load_default=lambda: ZoneInfo("UTC"), metadata=field_doc("The time zone of the days.", example="Europe/Berlin")
    )

    @post_load
    def _to_days(self, data: LoadedData, **_: object) -> LoadedData:
        first: date | None = data["start_date"]
        last: date | None = data["end_date"]
        zone = data["tz"]
        try:
            last = last or datetime.now(zone).date()
            first = first or last - timedelta(days=DEFAULT_USAGE_DAYS - 1)
            # In UTC, midnight may be on the day before or after.
            first - timedelta(days=2), last + timedelta(days=2)
        except OverflowError as error:
            raise ValidationError("The date is out of range.", "end_date") from error
        if not 0 <= (last - first).days < MAX_DAYS:
            raise ValidationError(
                f"The range must have 1 to {MAX_DAYS} days, from start_date to end_date.", "start_date"
            )
        return {"first": first, "last": last, "zone": zone}


class DaySchema(AnswerSchema):
    """The usage of one day."""

    date = fields.Date(metadata={"example": "2025-08-16"})
    calls = fields.Integer(metadata=field_doc("Failed calls included.", example=3))
    minutes = Minutes(metadata=field_doc("Minutes of video.", example=0.25))


class UsageSchema(AnswerSchema):
    """The usage of the caller, by day, as far back as the log goes."""

    start_date = fields.Date(metadata={"example": "2025-08-01"})
    end_date = fields.Date(metadata={"example": "2025-08-30"})
    tz = fields.String(metadata={"example": "UTC"})
    calls = fields.Integer(metadata=field_doc("Over all days.", example=90))
    minutes = Minutes(metadata=field_doc("Minutes of video over all days.", example=7.5))
    days = fields.List(fields.Nested(DaySchema), metadata=field_doc("Every day, oldest first."))
