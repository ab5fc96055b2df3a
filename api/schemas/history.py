"""Schemas of the history, its entries and their summary."""

from datetime import date
from zoneinfo import ZoneInfo

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from api.schemas.fields import AnswerSchema, Date, LoadedData, Probability, TimeZone, WholeNumber, field_doc
from api.schemas.files import OptionsSchema
from moodreel.emotions import FIVE
from moodreel.storage.history import KINDS
from moodreel.storage.mood_calendar import PERIODS
from moodreel.storage.timestamps import parse_end, parse_start

_YEARS = (1970, 2999)
_COUNTS = {"Anger": 0, "Happy": 5, "Shock": 1, "Neutral": 3, "Sad": 1}
_MEANS = {"Anger": 0.05, "Happy": 0.42, "Shock": 0.08, "Neutral": 0.35, "Sad": 0.1}
_DIFFERENCE = {"Anger": -0.02, "Happy": 0.11, "Shock": 0.0, "Neutral": -0.06, "Sad": -0.03}


def _check_year(day: date) -> None:
    if not _YEARS[0] <= day.year <= _YEARS[1]:
        raise ValidationError(f"Must be from {_YEARS[0]} to {_YEARS[1]}.")


class EmptyQuery(Schema):
    """No parameters: a filter, which would be ignored, must not delete everything."""

    class Meta:
        unknown = RAISE


class HistoryQuery(OptionsSchema):
    """Filters of the entries, and the page."""

    kind = fields.String(validate=validate.OneOf(KINDS))
    emotion = fields.String(metadata=field_doc("The `emotion` of an entry, or its `mood`.", example="Happy"))
    start_date = Date(parse_start, metadata=field_doc("ISO 8601, inclusive; UTC without a zone.", example="2025-08-01"))
    end_date = Date(parse_end, metadata=field_doc("As `start_date`; a date without a time includes that day."))
    limit = WholeNumber(load_default=100, validate=validate.Range(1, 1000))
    cursor = fields.String(load_default=None, metadata=field_doc("The `next_cursor` of the previous page."))


class SummaryQuery(OptionsSchema):
    """A range of days or weeks."""

    by = fields.String(load_default="day", validate=validate.OneOf(PERIODS))
    start_date = fields.Date(
        load_default=None,
        validate=_check_year,
        metadata=field_doc("Inclusive; by default 30 days or 12 weeks ago. Weeks are whole.", example="2025-08-01"),
    )
    end_date = fields.Date(load_default=None, validate=_check_year, metadata=field_doc("Inclusive; by default today."))
    tz = TimeZone(
        load_default=lambda: ZoneInfo("UTC"), metadata=field_doc("The time zone of the days.", example="Europe/Berlin")
    )

    @post_load
    def _to_arguments(self, data: LoadedData, **_: object) -> LoadedData:
        return {"by": data["by"], "start": data["start_date"], "end": data["end_date"], "zone": data["tz"]}


class StoredMediaSchema(AnswerSchema):
    """A file at `/api/history/{id}/media/{name}`."""

    name = fields.String(metadata={"example": "thumbnail.mp4"})
    type = fields.String(metadata={"example": "video/mp4"})
    size = fields.Integer(metadata=field_doc("Bytes.", example=29_000))


class EntrySchema(AnswerSchema):
    """One analysis. It never contains what was sent."""

    id = fields.String(metadata={"example": "8a54c0f2d1b94f0c9ad2f6b1c0e7d385"})
    kind = fields.String(validate=validate.OneOf(KINDS))
    created = fields.String(metadata={"example": "2025-08-16T12:34:56.123456Z"})
    emotion = fields.String(
        allow_none=True, metadata=field_doc("The label of the model; null without a face.", example="happy")
    )
    mood = fields.String(
        allow_none=True,
        validate=validate.OneOf((*FIVE, None)),
        metadata=field_doc("The label mapped to one of five emotions; null if it maps to none.", example="Happy"),
    )
    confidence = Probability(allow_none=True, metadata={"example": 0.92})
    probabilities = fields.Dict(fields.String(), Probability(), allow_none=True)
    model = fields.String(metadata={"example": "moodreel-five"})
    facts = fields.Dict(fields.String(), metadata={"example": {"duration": 4.98, "faces": 1, "certain": True}})
    media = fields.List(fields.Nested(StoredMediaSchema))


class HistorySchema(AnswerSchema):
    """A page of entries, newest first."""

    entries = fields.List(fields.Nested(EntrySchema))
    count = fields.Integer(metadata=field_doc("Number of entries on this page."))
    next_cursor = fields.String(allow_none=True, metadata=field_doc("null on the last page."))


class DeletedSchema(AnswerSchema):
    """The number of deleted entries."""

    deleted = fields.Integer(metadata=field_doc("Number of deleted entries.", example=57))


class PeriodSchema(AnswerSchema):
    """A day or an ISO week that has entries."""

    name = fields.String(metadata=field_doc("Such as `2025-03-30` or `2025-W13`.", example="2025-03-30"))
    start_date = fields.Date(metadata={"example": "2025-03-30"})
    end_date = fields.Date(metadata={"example": "2025-03-30"})
    entries = fields.Integer(metadata=field_doc("Entries without a face included.", example=3))
    emotions = fields.Dict(fields.String(), fields.Integer(), metadata=field_doc("Entries by mood.", example=_COUNTS))
    leading = fields.String(
        allow_none=True,
        validate=validate.OneOf((*FIVE, None)),
        metadata=field_doc("The mood of most entries; in a tie, the more likely one.", example="Happy"),
    )


class BaselineSchema(AnswerSchema):
    """The baseline of the user: the mean probabilities of the entries of the last days."""

    days = fields.Integer(metadata={"example": 90})
    entries = fields.Integer(metadata=field_doc("Entries with probabilities.", example=57))
    entries_needed = fields.Integer(metadata=field_doc("With fewer entries, `probabilities` is null.", example=10))
    probabilities = fields.Dict(fields.String(), Probability(), allow_none=True, metadata={"example": _MEANS})
    difference = fields.Dict(
        fields.String(),
        Probability(),
        allow_none=True,
        metadata=field_doc(
            "The mean of the range minus the baseline, -1 to 1; null without a baseline or with fewer than 3 entries.",
            example=_DIFFERENCE,
        ),
    )


class SummarySchema(AnswerSchema):
    """A mood calendar, compared with the baseline. It shows what faces showed; it is not a diagnosis."""

    by = fields.String(validate=validate.OneOf(PERIODS))
    tz = fields.String(metadata={"example": "Europe/Berlin"})
    start_date = fields.Date(metadata={"example": "2025-03-01"})
    end_date = fields.Date(metadata={"example": "2025-03-30"})
    entries = fields.Integer(metadata=field_doc("In the whole range.", example=12))
    emotions = fields.Dict(fields.String(), fields.Integer(), metadata=field_doc("Entries by mood.", example=_COUNTS))
    periods = fields.List(fields.Nested(PeriodSchema), metadata=field_doc("Periods with entries, oldest first."))
    baseline = fields.Nested(BaselineSchema)
