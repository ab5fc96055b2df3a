"""Pictures in, what every face in them showed out."""

import base64
from typing import Any

from marshmallow import EXCLUDE, RAISE, Schema, fields, validate

from api.schemas.fields import Boolean, Probability, about
from api.schemas.files import FileSchema
from api.schemas.videos import ModelSchema, QualitySchema
from moodreel.emotions import FIVE, SEVEN

MAX_IMAGES = 32
IMAGE_COUNT = validate.Length(1, MAX_IMAGES)

_EXAMPLE = {
    "happy": 0.9312,
    "surprise": 0.0214,
    "sad": 0.0031,
    "anger": 0.0028,
    "disgust": 0.0017,
    "fear": 0.0043,
    "neutral": 0.0355,
}


class ImageSchema(FileSchema):
    """One picture of several."""

    encoding = fields.String(
        validate=validate.Equal("base64"), metadata=about("Only `base64`; may be left out.", example="base64")
    )


class CountedList(fields.List):
    """A list that is counted before any of it is looked at: a body has room for millions, and an error for each."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            IMAGE_COUNT(value)
        return super()._deserialize(value, attr, data, **kwargs)


class ImagesSchema(Schema):
    """Several pictures, as base64 in JSON."""

    class Meta:
        unknown = RAISE

    pictures = CountedList(
        fields.Nested(ImageSchema),
        required=True,
        validate=IMAGE_COUNT,
        metadata=about("All of them together must fit into the largest body that is taken, 32 MB as shipped."),
    )


class ModelQuery(Schema):
    """Which model answers."""

    class Meta:
        unknown = EXCLUDE

    model = fields.String(
        load_default=None,
        validate=validate.Length(1, 100),
        metadata=about("Another model of the store than `face-expression`."),
    )


class DetectionQuery(ModelQuery):
    """Options of a picture."""

    draw = Boolean(
        load_default=False,
        metadata=about("`true` adds `picture`; with `Accept: image/jpeg` that JPEG is the whole answer."),
    )


class Base64(fields.Field[bytes]):
    """Bytes that go out as base64."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else base64.b64encode(value).decode()


class FaceQualitySchema(QualitySchema):
    """How well the picture shows the face."""

    class Meta:
        exclude = ("face_coverage",)


class EmotionSchema(Schema):
    """What the largest face showed, over time where it has time; nothing of it for a picture without a face."""

    emotion = fields.String(
        allow_none=True,
        validate=validate.OneOf((*SEVEN, *FIVE, None)),
        metadata=about("The likeliest; null where a picture shows no face.", example="happy"),
    )
    confidence = Probability(
        allow_none=True, metadata=about("Calibrated: of answers with 0.8, about 80 % are right.", example=0.9312)
    )
    all_emotions = fields.Dict(
        fields.String(), Probability(), metadata=about("Shares of 1; empty without a face.", example=_EXAMPLE)
    )


class DetectedFaceSchema(Schema):
    box = fields.List(
        fields.Integer(),
        validate=validate.Length(equal=4),
        metadata=about("x, y, width, height in pixels of the upright picture.", example=[181, 72, 89, 106]),
    )
    emotion = fields.String(validate=validate.OneOf((*SEVEN, *FIVE)), metadata={"example": "happy"})
    confidence = Probability(metadata={"example": 0.9312})
    probabilities = fields.Dict(fields.String(), Probability(), metadata={"example": _EXAMPLE})
    certain = fields.Boolean(
        metadata=about("False where the answer should not be relied on; `quality` says why.", example=True)
    )
    quality = fields.Nested(FaceQualitySchema)


class DetectionSchema(EmotionSchema):
    """What every face of a picture showed, which is not always what somebody felt; the picture's own answer is that of
    the largest."""

    faces = fields.List(
        fields.Nested(DetectedFaceSchema),
        metadata=about("The largest first, 32 at most; empty for a picture without a face."),
    )
    width = fields.Integer(metadata=about("Of the upright picture, in pixels.", example=3024))
    height = fields.Integer(metadata=about("Of the upright picture, in pixels.", example=4032))
    model = fields.Nested(ModelSchema)
    picture = Base64(
        attribute="drawn",
        metadata={
            "type": "string",
            **about("Only with `?draw=true`: the picture with its faces marked, a JPEG of at most 1920 pixels a side."),
        },
    )


class DetectionBatchSchema(Schema):
    """An answer or a problem for each picture, in its place."""

    results = fields.List(
        fields.Raw(
            metadata={"oneOf": [{"$ref": "#/components/schemas/Detection"}, {"$ref": "#/components/schemas/Problem"}]}
        )
    )
    count = fields.Integer(metadata=about("How many were sent.", example=1))
