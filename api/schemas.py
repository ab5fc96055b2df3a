"""What comes in and what goes out. The same classes validate and document."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, pre_load, validate

from moodreel.call_log import Filters, end_of, start_of
from moodreel.emotions import FIVE, SEVEN

FORMATS = ("mp4", "mov", "webm", "mkv", "avi", "3gp", "gif")
OUTPUTS = ("mp4", "webp", "gif")
MOMENTS = ("expressive", "whole")
REASONS = ("dark", "bright", "small", "blurred", "profile", "little_face", "low_confidence")
BASE64_FIELDS = ("encoding", "content")
"""Fields that a JSON body must have and a form has not: its `file` part is the video itself."""

_EXAMPLE = {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01}


def _about(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, **more}


class _Measure(fields.Float):
    """A number given to so many places: more would only look exact."""

    places = 1

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> float | None:
        return None if value is None else round(float(value), self.places)


class _Probability(_Measure):
    """A share of 1."""

    places = 4


class _Weight(_Measure):
    """A share of 1 that may be one of hundreds."""

    places = 6


class _Seconds(_Measure):
    places = 3


class _LowerCase(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(value, attr, data, **kwargs).lower()


class _Text(fields.Field[str]):
    """Text that is passed on as it is: `fields.String` would copy the 40 MB of a video."""

    default_error_messages: ClassVar[dict[str, Any]] = {"invalid": "Not a valid string."}  # type: ignore[misc]

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        return value


class ClipSchema(Schema):
    """A video, as base64 in JSON."""

    class Meta:
        unknown = RAISE

    encoding = fields.String(
        required=True, validate=validate.Equal("base64"), metadata=_about("Only `base64`.", example="base64")
    )
    content = _Text(
        required=True,
        metadata=_about(
            "The video file: standard or URL-safe base64, with or without padding, line breaks or a `data:` prefix.",
            example="AAAAIGZ0eXBpc29tAAACAGlzb21pc28y…",
        ),
    )
    format = _LowerCase(
        allow_none=True,
        validate=validate.OneOf((*FORMATS, None)),
        metadata=_about("A hint; what the bytes really are decides.", example="mp4"),
    )
    fps = fields.Float(
        allow_none=True,
        validate=validate.Range(0, 1000, min_inclusive=False),
        metadata=_about("A hint, used only where the container has no timing.", example=30),
    )


class LoopSchema(ClipSchema):
    """A video, and what its loop shall be like."""

    duration = fields.Float(
        load_default=3.0, validate=validate.Range(0.5, 10), metadata=_about("Seconds of the whole loop.")
    )
    size = fields.Integer(
        load_default=480, strict=True, validate=validate.Range(64, 1080), metadata=_about("Longest side in pixels.")
    )
    output = fields.String(load_default="mp4", validate=validate.OneOf(OUTPUTS))
    moment = fields.String(
        load_default="expressive",
        validate=validate.OneOf(MOMENTS),
        metadata=_about("`expressive` takes the moment that showed the emotion best, `whole` all of the clip."),
    )

    @pre_load
    def _whole_number_in_text(self, data: Any, **_: Any) -> Any:
        # A form sends text only, and `strict` takes none.
        if isinstance(data, Mapping) and isinstance(size := data.get("size"), str) and size.strip().isdecimal():
            return {**data, "size": int(size)}
        return data


class AnalysisQuery(Schema):
    """Options of an analysis."""

    class Meta:
        unknown = EXCLUDE

    detail = fields.String(
        load_default=None,
        validate=validate.OneOf(("timeline",)),
        metadata=_about("`timeline` adds every face at every analysed moment."),
    )
    model = fields.String(
        load_default=None, validate=validate.Length(1, 100), metadata=_about("Another model of the store.")
    )


class CoverQuery(AnalysisQuery):
    """Options of a thumbnail."""

    class Meta:
        unknown = EXCLUDE
        exclude = ("detail",)


class FaceSchema(Schema):
    box = fields.List(
        fields.Integer(),
        validate=validate.Length(equal=4),
        metadata=_about("x, y, width, height in pixels of the upright video."),
    )
    track = fields.Integer(metadata=_about("The same face has the same number through the clip."))


class MomentSchema(Schema):
    time = _Seconds(metadata=_about("Seconds from the start of the clip."))
    emotion = fields.String()
    probabilities = fields.Dict(fields.String(), _Probability())
    weight = _Weight(
        metadata=_about("How far this moment decided the answer for its face; over all its moments 1.", example=0.08)
    )
    face = fields.Nested(FaceSchema)

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        # A moment holds its face's box and track itself.
        return obj if attr == "face" else super().get_attribute(obj, attr, default)


class ModelSchema(Schema):
    name = fields.String()
    version = fields.String()
    sha256 = fields.String(metadata=_about("Of the weights."))


class QualitySchema(Schema):
    """How well the clip shows the answered face; medians over the frames that show it."""

    face_coverage = _Probability(metadata=_about("Share of the analysed frames with the face.", example=0.97))
    size = fields.Integer(
        metadata=_about("The longest side of the face's box, in pixels of the upright video.", example=310)
    )
    sharpness = _Measure(
        metadata=_about(
            "Variance of the Laplacian of the face, grey and 64 × 64 pixels large; it grows with contrast as well.",
            example=420.5,
        )
    )
    light = _Probability(metadata=_about("Mean grey value of the face, 0 black to 1 white.", example=0.52))
    yaw = _Measure(metadata=_about("Degrees that the head is turned to either side.", example=6.1))
    reason = fields.String(
        allow_none=True,
        validate=validate.OneOf((*REASONS, None)),
        metadata=_about(
            "Why the answer is not `certain`, a stable word to switch on; of several the first in the order here. "
            "null where it is.",
            example=None,
        ),
    )
    tip = fields.String(
        allow_none=True,
        metadata=_about("What the person can do next time, one sentence; null without a reason.", example=None),
    )


class PredictionSchema(Schema):
    """What the face showed, which is not always what somebody felt."""

    emotion = fields.String(
        validate=validate.OneOf((*FIVE, *SEVEN)),
        metadata=_about("The likeliest; in lower case from a model of seven emotions.", example="Happy"),
    )
    confidence = _Probability(metadata=_about("Calibrated: of answers with 0.8, about 80 % are right.", example=0.92))
    probabilities = fields.Dict(fields.String(), _Probability(), metadata={"example": _EXAMPLE})
    face_coverage = _Probability(metadata=_about("Share of the analysed frames with the face.", example=0.97))
    certain = fields.Boolean(
        metadata=_about("False where the answer should not be relied on; `quality` says why.", example=True)
    )
    quality = fields.Nested(QualitySchema)
    frames_analysed = fields.Integer(metadata={"example": 24})
    duration = _Seconds(metadata=_about("Seconds of the clip.", example=4.98))
    width = fields.Integer(metadata=_about("Of the upright video, in pixels.", example=720))
    height = fields.Integer(metadata=_about("Of the upright video, in pixels.", example=1280))
    model = fields.Nested(ModelSchema)
    timeline = fields.List(fields.Nested(MomentSchema), metadata=_about("Only with `?detail=timeline`."))


class ThumbnailSchema(Schema):
    """A loop that runs forward, then back, and repeats without a hitch."""

    thumbnail = fields.String(metadata=_about("The loop, as base64."))
    output = fields.String(validate=validate.OneOf(OUTPUTS), metadata={"example": "mp4"})
    width = fields.Integer(metadata={"example": 480})
    height = fields.Integer(metadata={"example": 270})
    duration = _Seconds(metadata=_about("Seconds of the loop.", example=3.0))
    start = _Seconds(metadata=_about("Where in the clip it starts.", example=1.2))
    peak = _Seconds(
        metadata=_about("The clip's best moment, where the loop turns and the poster was taken.", example=2.7)
    )
    emotion = fields.String(allow_none=True, metadata=_about("null for a clip without a face.", example="Happy"))
    poster = fields.String(metadata=_about("The picture at the peak, a JPEG as base64."))


class _Boolean(fields.Boolean):
    truthy: ClassVar[set[Any]] = {"True", "true", True}  # type: ignore[misc]
    falsy: ClassVar[set[Any]] = {"False", "false", False}  # type: ignore[misc]

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        # 1 and 0 equal True and False and would pass.
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class _StatusCode(fields.Integer):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        # As text in a query, as text or a number in JSON; `Integer` would cut 200.5 down to 200.
        if isinstance(value, float | bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class _Moment(fields.String):
    """A date as `moodreel.call_log` reads it."""

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


class LogsQuery(Schema):
    """Which calls. Send these as a query string or as a JSON body, not both."""

    class Meta:
        unknown = RAISE

    start_date = _Moment(start_of, metadata=_about("ISO 8601, inclusive; no zone means UTC.", example="2025-08-01"))
    end_date = _Moment(end_of, metadata=_about("The same; a date alone means to the end of that day."))
    status_code = _StatusCode(validate=validate.Range(100, 599))
    success = _Boolean(metadata=_about('`"True"`, `"False"` or a JSON boolean.'))
    client_id = fields.String()
    endpoint = fields.String(metadata={"example": "/predict"})
    request_id = fields.String()
    prediction = fields.String(metadata={"example": "Happy"})
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))
    cursor = fields.String(load_default=None, metadata=_about("The `next_cursor` of the page before."))

    @post_load
    def _to_filters(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        limit, cursor = data.pop("limit"), data.pop("cursor")
        filters = Filters(start=data.pop("start_date", None), end=data.pop("end_date", None), **data)
        return {"filters": filters, "limit": limit, "cursor": cursor}


class CallSchema(Schema):
    """One call. No video, picture, text or key is ever in it."""

    timestamp = fields.String(metadata={"example": "2025-08-16T12:34:56.123456Z"})
    request_id = fields.String()
    method = fields.String(metadata={"example": "POST"})
    endpoint = fields.String(metadata={"example": "/predict"})
    status_code = fields.Integer(
        allow_none=True, metadata=_about("null for a call that a dying worker never finished.", example=200)
    )
    success = fields.Boolean(allow_none=True)
    latency_ms = fields.Float(allow_none=True)
    client_id = fields.String(allow_none=True)
    caller = fields.String(allow_none=True, metadata=_about("Tells keys apart; not the key.", example="key-1a2b3c4d"))
    prediction = fields.String(allow_none=True, metadata={"example": "Happy"})
    confidence = fields.Float(allow_none=True)
    error = fields.String(allow_none=True, metadata=_about("The `code` that the caller got."))
    bytes_in = fields.Integer(allow_none=True)
    bytes_out = fields.Integer(allow_none=True)
    content_sha256 = fields.String(allow_none=True)
    video_seconds = fields.Float(allow_none=True)
    frames = fields.Integer(allow_none=True)
    model = fields.String(allow_none=True)
    worker = fields.Integer(allow_none=True)
    timings = fields.Dict(fields.String(), fields.Float(), allow_none=True, metadata=_about("Milliseconds by stage."))


class LogsSchema(Schema):
    """A page of calls, newest first."""

    logs = fields.List(fields.Nested(CallSchema))
    count = fields.Integer(metadata=_about("How many are on this page."))
    next_cursor = fields.String(allow_none=True, metadata=_about("null on the last page."))


class StateSchema(Schema):
    status = fields.String(metadata={"example": "ok"})


class ProblemSchema(Schema):
    """Why a call was refused (RFC 9457)."""

    type = fields.String(required=True, metadata={"example": "urn:moodreel:problem:no_face"})
    title = fields.String(required=True, metadata={"example": "No face"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(required=True, metadata=_about("A sentence that says what to do next."))
    code = fields.String(required=True, metadata=_about("A stable word to switch on.", example="no_face"))
    request_id = fields.String(required=True)
    errors = fields.Dict(fields.String(), metadata=_about("Messages by field, for `invalid_request`."))
