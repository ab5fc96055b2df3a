"""Schemas of images and the emotions in them."""

from marshmallow import fields, validate

from api.schemas import videos
from api.schemas.fields import (
    AnswerSchema,
    Base64,
    Boolean,
    FileFormat,
    Probability,
    field_doc,
    model_field,
    results_field,
)
from api.schemas.files import EITHER, IMAGE, FileSchema, OptionsSchema
from api.schemas.videos import CERTAIN, CONFIDENCE, ModelSchema, QualitySchema, VideoSchema
from moodreel.emotions import SEVEN

FORMATS = ("jpg", "jpeg", "png", "webp", "heic", "heif")
MAX_IMAGES = 32
IMAGE_COUNT = validate.Length(1, MAX_IMAGES)
LABELS = f"{', '.join(SEVEN)}, or a label of the `model` asked for"
MODEL = "The name of a model in the store; by default `face-expression`."

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
    """One image of several."""

    encoding = fields.String(
        validate=validate.Equal("base64"), metadata=field_doc("Only `base64`; optional.", example="base64")
    )
    format = FileFormat(*FORMATS)


class CountedList(fields.List[object]):
    """A list whose length is checked first: a body may have millions of items, with an error for each."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> list[object]:
        if isinstance(value, list):
            IMAGE_COUNT(value)
        return super()._deserialize(value, attr, data, **kwargs)


class ImagesSchema(OptionsSchema):
    """Several images as base64 in JSON."""

    body_only = ("pictures",)

    pictures = CountedList(
        fields.Nested(ImageSchema),
        required=True,
        validate=IMAGE_COUNT,
        metadata=field_doc("Together they must fit into the largest body that is accepted, by default 100 MB."),
    )
    model = model_field(MODEL)


class EmotionOptionsSchema(VideoSchema):
    """An image or a video, and the model to use."""

    reads = EITHER

    format = FileFormat(*FORMATS, *videos.FORMATS)
    model = model_field(MODEL)


class DetectionOptionsSchema(FileSchema):
    """An image, and the options of its detection."""

    reads = IMAGE

    format = FileFormat(*FORMATS)
    model = model_field(MODEL)
    draw = Boolean(
        load_default=False,
        metadata=field_doc("`true` adds `picture`. With `Accept: image/jpeg`, the response is that JPEG alone."),
    )


class FaceQualitySchema(QualitySchema):
    """How well the image shows the face."""

    class Meta:
        exclude = ("face_coverage",)


class EmotionSchema(AnswerSchema):
    """The emotion of the largest face in an image, or of the main face in a video."""

    emotion = fields.String(
        allow_none=True,
        metadata=field_doc(f"The most likely emotion: {LABELS}; null for an image without a face.", example="happy"),
    )
    confidence = Probability(
        allow_none=True,
        metadata=field_doc(CONFIDENCE, example=0.9312),
    )
    all_emotions = fields.Dict(
        fields.String(),
        Probability(),
        metadata=field_doc("Probability of each emotion; empty without a face.", example=_EXAMPLE),
    )


class DetectedFaceSchema(AnswerSchema):
    """A face in an image."""

    box = fields.List(
        fields.Integer(),
        validate=validate.Length(equal=4),
        metadata=field_doc("x, y, width and height in pixels of the upright image.", example=[181, 72, 89, 106]),
    )
    emotion = fields.String(metadata=field_doc(f"The most likely emotion: {LABELS}.", example="happy"))
    confidence = Probability(metadata=field_doc(CONFIDENCE, example=0.9312))
    probabilities = fields.Dict(fields.String(), Probability(), metadata={"example": _EXAMPLE})
    certain = fields.Boolean(metadata=field_doc(CERTAIN, example=True))
    quality = fields.Nested(FaceQualitySchema)


class DetectionSchema(EmotionSchema):
    """The emotion of every face in an image, which is not always what the person felt.

    `emotion`, `confidence` and `all_emotions` are those of the largest face.
    """

    faces = fields.List(
        fields.Nested(DetectedFaceSchema),
        metadata=field_doc("Largest first, at most 32; empty for an image without a face."),
    )
    width = fields.Integer(metadata=field_doc("Pixels of the upright image.", example=3024))
    height = fields.Integer(metadata=field_doc("Pixels of the upright image.", example=4032))
    model = fields.Nested(ModelSchema)
    picture = Base64(
        attribute="drawn",
        metadata=field_doc(
            "Only with `?draw=true`: the image with its faces marked, a JPEG with sides of at most 1920 pixels.",
            optional=True,
        ),
    )


class DetectionBatchSchema(AnswerSchema):
    """A result or a problem for each image, in order."""

    results = results_field("Detection")
    count = fields.Integer(metadata=field_doc("Number of images that were sent.", example=1))
