"""A clip in, what it showed or its loop out."""

from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, fields, pre_load, validate

from api.schemas.fields import Boolean, LowerCase, Measure, Probability, Seconds, Weight, about
from api.schemas.files import FileSchema
from moodreel.emotions import FIVE, SEVEN

FORMATS = ("mp4", "mov", "webm", "mkv", "avi", "3gp", "gif")

OUTPUTS = ("mp4", "webp", "gif")

MOMENTS = ("expressive", "whole")

REASONS = ("dark", "bright", "small", "blurred", "profile", "little_face", "low_confidence")

_EXAMPLE = {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01}


class VideoSchema(FileSchema):
    """A video, as base64 in JSON."""

    format = LowerCase(
        allow_none=True,
        validate=validate.OneOf((*FORMATS, None)),
        metadata=about("A hint; what the bytes really are decides.", example="mp4"),
    )
    fps = fields.Float(
        allow_none=True,
        validate=validate.Range(0, 1000, min_inclusive=False),
        metadata=about("A hint, used only where the container has no timing.", example=30),
    )


class ThumbnailOptionsSchema(VideoSchema):
    """A video, and what its loop shall be like."""

    duration = fields.Float(
        load_default=3.0, validate=validate.Range(0.5, 10), metadata=about("Seconds of the whole loop.")
    )
    size = fields.Integer(
        load_default=480, strict=True, validate=validate.Range(64, 1080), metadata=about("Longest side in pixels.")
    )
    output = fields.String(load_default="mp4", validate=validate.OneOf(OUTPUTS))
    moment = fields.String(
        load_default="expressive",
        validate=validate.OneOf(MOMENTS),
        metadata=about("`expressive` takes the moment that showed the emotion best, `whole` all of the clip."),
    )

    @pre_load
    def _whole_number_in_text(self, data: Any, **_: Any) -> Any:
        # A form sends text only, and `strict` takes none.
        if isinstance(data, Mapping) and isinstance(size := data.get("size"), str) and size.strip().isdecimal():
            return {**data, "size": int(size)}
        return data


class PredictionQuery(Schema):
    """Options of an analysis."""

    class Meta:
        unknown = EXCLUDE

    detail = fields.String(
        load_default=None,
        validate=validate.OneOf(("timeline",)),
        metadata=about("`timeline` adds every face at every analysed moment."),
    )
    explain = Boolean(
        load_default=False,
        metadata=about("`true` adds the facial movements that weighed most."),
    )
    model = fields.String(
        load_default=None, validate=validate.Length(1, 100), metadata=about("Another model of the store.")
    )


class ThumbnailQuery(PredictionQuery):
    """Options of a thumbnail."""

    class Meta:
        unknown = EXCLUDE
        exclude = ("detail", "explain")


class FaceSchema(Schema):
    box = fields.List(
        fields.Integer(),
        validate=validate.Length(equal=4),
        metadata=about("x, y, width, height in pixels of the upright video."),
    )
    track = fields.Integer(metadata=about("The same face has the same number through the clip."))


class TimelinePointSchema(Schema):
    time = Seconds(metadata=about("Seconds from the start of the clip."))
    emotion = fields.String()
    probabilities = fields.Dict(fields.String(), Probability())
    weight = Weight(
        metadata=about("How far this moment decided the answer for its face; over all its moments 1.", example=0.08)
    )
    face = fields.Nested(FaceSchema)

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        # A moment holds its face's box and track itself.
        return obj if attr == "face" else super().get_attribute(obj, attr, default)


class ModelSchema(Schema):
    name = fields.String()
    version = fields.String()
    sha256 = fields.String(metadata=about("Of the weights."))


class QualitySchema(Schema):
    """How well the clip shows the answered face; medians over the frames that show it."""

    face_coverage = Probability(metadata=about("Share of the analysed frames with the face.", example=0.97))
    size = fields.Integer(
        metadata=about("The longest side of the face's box, in pixels of the upright video.", example=310)
    )
    sharpness = Measure(
        metadata=about(
            "Variance of the Laplacian of the face, grey and 64 × 64 pixels large; it grows with contrast as well.",
            example=420.5,
        )
    )
    light = Probability(
        attribute="brightness", metadata=about("Mean grey value of the face, 0 black to 1 white.", example=0.52)
    )
    yaw = Measure(metadata=about("Degrees that the head is turned to either side.", example=6.1))
    reason = fields.String(
        allow_none=True,
        validate=validate.OneOf((*REASONS, None)),
        metadata=about(
            "Why the answer is not `certain`, a stable word to switch on; of several the first in the order here. "
            "null where it is.",
            example=None,
        ),
    )
    tip = fields.String(
        allow_none=True,
        metadata=about("What the person can do next time, one sentence; null without a reason.", example=None),
    )


class ActionWeightSchema(Schema):
    name = fields.String(metadata=about("In plain words.", example="lip corners up"))
    strength = Probability(attribute="activation", metadata=about("0 as in a calm face, 1 as in few.", example=0.81))
    weight = Probability(metadata=about("Its share of all that spoke for the emotion.", example=0.64))


class ExplanationSchema(Schema):
    """Which facial movements go with such an answer in this face: a linear model's word on what networks answered."""

    text = fields.String(metadata=about("The names of the movements.", example="lip corners up, upper lip raised"))
    movements = fields.List(
        fields.Nested(ActionWeightSchema),
        attribute="actions",
        metadata=about("At most three, the heaviest first; none for a face at rest."),
    )


class PredictionSchema(Schema):
    """What the face showed, which is not always what somebody felt."""

    emotion = fields.String(
        validate=validate.OneOf((*FIVE, *SEVEN)),
        metadata=about("The likeliest; in lower case from a model of seven emotions.", example="Happy"),
    )
    confidence = Probability(metadata=about("Calibrated: of answers with 0.8, about 80 % are right.", example=0.92))
    probabilities = fields.Dict(fields.String(), Probability(), metadata={"example": _EXAMPLE})
    face_coverage = Probability(metadata=about("Share of the analysed frames with the face.", example=0.97))
    certain = fields.Boolean(
        metadata=about("False where the answer should not be relied on; `quality` says why.", example=True)
    )
    quality = fields.Nested(QualitySchema)
    frames_analysed = fields.Integer(metadata={"example": 24})
    duration = Seconds(metadata=about("Seconds of the clip.", example=4.98))
    width = fields.Integer(metadata=about("Of the upright video, in pixels.", example=720))
    height = fields.Integer(metadata=about("Of the upright video, in pixels.", example=1280))
    model = fields.Nested(ModelSchema)
    timeline = fields.List(fields.Nested(TimelinePointSchema), metadata=about("Only with `?detail=timeline`."))
    explanation = fields.Nested(ExplanationSchema, metadata=about("Only with `?explain=true`."))


class ThumbnailSchema(Schema):
    """A loop that runs forward, then back, and repeats without a hitch."""

    thumbnail = fields.String(metadata=about("The loop, as base64."))
    output = fields.String(validate=validate.OneOf(OUTPUTS), metadata={"example": "mp4"})
    width = fields.Integer(metadata={"example": 480})
    height = fields.Integer(metadata={"example": 270})
    duration = Seconds(metadata=about("Seconds of the loop.", example=3.0))
    start = Seconds(metadata=about("Where in the clip it starts.", example=1.2))
    peak = Seconds(
        metadata=about("The clip's best moment, where the loop turns and the poster was taken.", example=2.7)
    )
    emotion = fields.String(allow_none=True, metadata=about("null for a clip without a face.", example="Happy"))
    poster = fields.String(metadata=about("The picture at the peak, a JPEG as base64."))
