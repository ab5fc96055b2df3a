"""Schemas of videos, predictions and thumbnails."""

import json
from collections.abc import Mapping
from typing import ClassVar

from marshmallow import fields, validate
from marshmallow.types import ErrorMessages

from api.schemas.fields import (
    AnswerSchema,
    Base64,
    Boolean,
    FileFormat,
    LoadedData,
    Probability,
    RoundedFloat,
    Seconds,
    Weight,
    WholeNumber,
    field_doc,
    model_field,
    to_dict,
)
from api.schemas.files import FileSchema, ObjectField, OptionsSchema
from moodreel.emotions import FIVE
from moodreel.faces.quality import TIPS
from moodreel.pipelines.boomerang import LOOP_SECONDS, LOOP_SECTIONS, LOOP_SIDES, OUTPUTS, LoopOptions
from moodreel.pipelines.loop_crop import ASPECTS

FORMATS = ("mp4", "mov", "webm", "mkv", "avi", "3gp", "gif")

REASONS = tuple(TIPS)

CONFIDENCE = (
    "Probability of `emotion`, calibrated under the service's `PRIOR`. The model's card (`CARD.md` in its folder) has "
    "the calibration error and the data it was measured on. On other data it may be larger."
)
PEAK = "The best moment of the clip in seconds, at which a loop turns and its poster is taken."
CERTAIN = (
    "False if the prediction should not be relied on; `quality` has the reason. If the model's `model.json` has "
    "`priors`, at least 85 of 100 predictions with a high enough confidence were right, over all data sets of pictures "
    'and clips in the table of its card (`CARD.md`, "Prior and confidence"); each set has the same weight, and on some '
    "the share may be lower. For other models a confidence of 0.6 is enough; it promises no such share."
)

_EXAMPLE = {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01}


class VideoSchema(FileSchema):
    """A video as base64 in JSON."""

    format = FileFormat(*FORMATS)
    fps = fields.Float(
        allow_none=True,
        validate=validate.Range(0, 1000, min_inclusive=False),
        metadata=field_doc("A hint, used only if the container has no timestamps.", example=30),
    )


class LoopOptionsSchema(OptionsSchema):
    """The options of a loop."""

    duration = fields.Float(
        load_default=LoopOptions.duration,
        validate=validate.Range(*LOOP_SECONDS),
        metadata=field_doc("Seconds of the whole loop."),
    )
    size = WholeNumber(
        load_default=LoopOptions.size,
        validate=validate.Range(*LOOP_SIDES),
        metadata=field_doc("Longest side in pixels."),
    )
    output = fields.String(
        load_default=None,
        validate=validate.OneOf(OUTPUTS),
        metadata=field_doc("By default what the Accept header asks for, else `mp4`.", default=LoopOptions.output),
    )
    moment = fields.String(
        load_default=LoopOptions.moment,
        validate=validate.OneOf(LOOP_SECTIONS),
        metadata=field_doc("`expressive`: the moment that shows the emotion best. `whole`: all of the clip."),
    )
    aspect = fields.String(
        load_default=LoopOptions.aspect,
        validate=validate.OneOf(ASPECTS),
        metadata=field_doc("`square` and `portrait` (9:16) crop the picture around the face, no more than needed."),
    )


class ThumbnailOptionsSchema(VideoSchema, LoopOptionsSchema):
    """A video, and the options of its loop."""

    model = model_field("The name of a model in the store.")


class LoopField(ObjectField):
    """The options of a loop, or `true` for the defaults. In a form or a query string either of them is JSON."""

    default_error_messages: ClassVar[ErrorMessages] = {  # type: ignore[misc]
        "invalid": 'Neither true nor an object, such as {{"size": 240}}.'
    }

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> LoadedData | None:
        if isinstance(value, str):
            try:
                value = json.loads({"True": "true", "False": "false"}.get(value, value), object_pairs_hook=to_dict)
            except (ValueError, RecursionError) as error:
                raise self.make_error("invalid") from error
        if isinstance(value, bool):
            value = {} if value else None
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.make_error("invalid")
        loaded: LoadedData = self.schema.load(value)
        return loaded


class PredictionOptionsSchema(VideoSchema):
    """A video, and the options of its prediction."""

    detail = fields.String(
        load_default=None,
        validate=validate.OneOf(("timeline",)),
        metadata=field_doc("`timeline` adds every face in every analyzed frame."),
    )
    explain = Boolean(
        load_default=False,
        metadata=field_doc("`true` adds the facial movements with the largest weights."),
    )
    model = model_field("The name of a model in the store.")
    thumbnail = LoopField(
        LoopOptionsSchema(),
        load_default=None,
        allow_none=True,
        metadata={
            "oneOf": [{"type": "boolean"}, {"$ref": "#/components/schemas/LoopOptions"}],
            **field_doc(
                "`true`, or the options of a loop: adds `thumbnail`, `poster` and `loop`, from the same analysis. In a "
                "form or a query string: JSON, or one option each, such as `thumbnail.size`.",
                example={"duration": 2, "size": 240},
            ),
        },
    )


class FaceSchema(AnswerSchema):
    """A face in a frame."""

    box = fields.List(
        fields.Integer(),
        validate=validate.Length(equal=4),
        metadata=field_doc("x, y, width and height in pixels of the upright video."),
    )
    track = fields.Integer(metadata=field_doc("The same face has the same number in all frames."))


class TimelinePointSchema(AnswerSchema):
    """One face in one frame."""

    time = Seconds(metadata=field_doc("Seconds from the start of the clip."))
    emotion = fields.String()
    probabilities = fields.Dict(fields.String(), Probability())
    weight = Weight(
        metadata=field_doc(
            "The share of this frame in the prediction for its face. The weights of a face add up to 1.", example=0.08
        )
    )
    face = fields.Nested(FaceSchema)

    def get_attribute(self, obj: object, attr: str, default: object) -> object:
        """Return the value of a field."""
        # The point has the box and the track of its face.
        return obj if attr == "face" else super().get_attribute(obj, attr, default)


class ModelSchema(AnswerSchema):
    """The model that made a prediction."""

    name = fields.String()
    version = fields.String()
    sha256 = fields.String(metadata=field_doc("Hash of the weights."))


class QualitySchema(AnswerSchema):
    """How well the clip shows the main face: medians over the frames with the face."""

    face_coverage = Probability(metadata=field_doc("Share of the analyzed frames that show the face.", example=0.97))
    size = fields.Integer(
        metadata=field_doc("Longest side of the box of the face, in pixels of the upright video.", example=310)
    )
    sharpness = RoundedFloat(
        metadata=field_doc(
            "Variance of the Laplacian of the face, in grey and 64 × 64 pixels. It grows with contrast as well.",
            example=420.5,
        )
    )
    light = Probability(
        attribute="brightness", metadata=field_doc("Mean grey value of the face, 0 black to 1 white.", example=0.52)
    )
    yaw = RoundedFloat(metadata=field_doc("Degrees by which the head is turned to either side.", example=6.1))
    reason = fields.String(
        allow_none=True,
        validate=validate.OneOf((*REASONS, None)),
        metadata=field_doc(
            "Why the prediction is not `certain`: a stable code. If there are several reasons, the first in this "
            "order. null if it is certain.",
            example=None,
        ),
    )
    tip = fields.String(
        allow_none=True,
        metadata=field_doc("What the person can do next time, in one sentence. null without a reason.", example=None),
    )


class ActionWeightSchema(AnswerSchema):
    """A facial movement and its weight."""

    name = fields.String(metadata=field_doc("The movement in plain words.", example="lip corners up"))
    strength = Probability(
        attribute="activation", metadata=field_doc("0 as in a calm face, 1 as in very few faces.", example=0.81)
    )
    weight = Probability(metadata=field_doc("Its share of the evidence for the emotion.", example=0.64))


class ExplanationSchema(AnswerSchema):
    """Which facial movements explain the prediction, by a linear surrogate model."""

    text = fields.String(metadata=field_doc("The names of the movements.", example="lip corners up, upper lip raised"))
    movements = fields.List(
        fields.Nested(ActionWeightSchema),
        attribute="actions",
        metadata=field_doc("At most three, largest weight first. None for a face at rest."),
    )


class LoopSchema(AnswerSchema):
    """What a loop is like."""

    output = fields.String(validate=validate.OneOf(OUTPUTS), metadata={"example": "mp4"})
    width = fields.Integer(
        metadata=field_doc(
            "Pixels. A GIF is made smaller until it has at most three times the bytes of its MP4.", example=480
        )
    )
    height = fields.Integer(metadata=field_doc("Pixels.", example=270))
    duration = Seconds(metadata=field_doc("Duration of the loop in seconds.", example=3.0))
    start = Seconds(metadata=field_doc("Start of the loop in the clip.", example=1.2))


class PredictionSchema(AnswerSchema):
    """The emotion that the face showed, which is not always what the person felt."""

    emotion = fields.String(
        metadata=field_doc(
            f"The most likely emotion: {', '.join(FIVE)}, or a label of the `model` asked for.", example="Happy"
        ),
    )
    confidence = Probability(metadata=field_doc(CONFIDENCE, example=0.92))
    probabilities = fields.Dict(fields.String(), Probability(), metadata={"example": _EXAMPLE})
    face_coverage = Probability(metadata=field_doc("Share of the analyzed frames that show the face.", example=0.97))
    certain = fields.Boolean(metadata=field_doc(CERTAIN, example=True))
    quality = fields.Nested(QualitySchema)
    frames_analysed = fields.Integer(metadata={"example": 24})
    duration = Seconds(metadata=field_doc("Duration of the clip in seconds.", example=4.98))
    width = fields.Integer(metadata=field_doc("Pixels of the upright video.", example=720))
    height = fields.Integer(metadata=field_doc("Pixels of the upright video.", example=1280))
    peak = Seconds(metadata=field_doc(PEAK, example=2.7))
    track = fields.Integer(metadata=field_doc("The `track` of the main face in the timeline.", example=0))
    model = fields.Nested(ModelSchema)
    timeline = fields.List(
        fields.Nested(TimelinePointSchema), metadata=field_doc("Only with `?detail=timeline`.", optional=True)
    )
    explanation = fields.Nested(ExplanationSchema, metadata=field_doc("Only with `?explain=true`.", optional=True))
    thumbnail = Base64(
        attribute="boomerang.data",
        metadata=field_doc("Only with `thumbnail`: the loop as base64.", optional=True),
    )
    poster = Base64(
        attribute="boomerang.poster",
        metadata=field_doc("Only with `thumbnail`: the frame at the peak, a JPEG as base64.", optional=True),
    )
    loop = fields.Nested(LoopSchema, attribute="boomerang", metadata=field_doc("Only with `thumbnail`.", optional=True))


class ThumbnailSchema(AnswerSchema):
    """A loop that plays forward, then backward, and repeats smoothly, and the emotion of the main face in the clip.

    For a clip without a face, what is said of a face is null.
    """

    thumbnail = Base64(attribute="boomerang.data", metadata=field_doc("The loop as base64."))
    output = fields.String(attribute="boomerang.output", validate=validate.OneOf(OUTPUTS), metadata={"example": "mp4"})
    width = fields.Integer(attribute="boomerang.width", metadata={"example": 480})
    height = fields.Integer(attribute="boomerang.height", metadata={"example": 270})
    duration = Seconds(
        attribute="boomerang.duration", metadata=field_doc("Duration of the loop in seconds.", example=3.0)
    )
    start = Seconds(attribute="boomerang.start", metadata=field_doc("Start of the loop in the clip.", example=1.2))
    peak = Seconds(attribute="boomerang.peak", metadata=field_doc(PEAK, example=2.7))
    emotion = fields.String(allow_none=True, metadata=field_doc("null for a clip without a face.", example="Happy"))
    confidence = Probability(allow_none=True, metadata=field_doc(CONFIDENCE, example=0.92))
    probabilities = fields.Dict(fields.String(), Probability(), allow_none=True, metadata={"example": _EXAMPLE})
    certain = fields.Boolean(allow_none=True, metadata=field_doc(CERTAIN, example=True))
    quality = fields.Nested(QualitySchema, allow_none=True)
    track = fields.Integer(allow_none=True, metadata=field_doc("As in `/predict`.", example=0))
    model = fields.Nested(ModelSchema)
    poster = Base64(
        attribute="boomerang.poster",
        metadata=field_doc("The frame at the peak: a JPEG as base64."),
    )
