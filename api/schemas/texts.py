"""Texts in, the emotions that their words show out."""

from typing import Any, ClassVar

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate

from api.schemas.fields import Probability, about
from api.schemas.videos import ModelSchema
from moodreel.emotions import EKMAN

MAX_TEXTS = 64
TEXT_COUNT = validate.Length(1, MAX_TEXTS)

_EXAMPLE = {
    "anger": 0.0407,
    "disgust": 0.0005,
    "fear": 0.0016,
    "joy": 0.6383,
    "neutral": 0.09,
    "sadness": 0.0108,
    "surprise": 0.4769,
}


class TextOrTexts(fields.Field[Any]):
    """One text, or a list of them, which is counted before any of it is looked at."""

    default_error_messages: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "invalid": "Neither a string nor a list of strings.",
        "invalid_text": "Not a valid string.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str | list[str]:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise self.make_error("invalid")
        TEXT_COUNT(value)
        wrong = [number for number, text in enumerate(value) if not isinstance(text, str)]
        if wrong:
            raise ValidationError({number: [self.error_messages["invalid_text"]] for number in wrong})
        return value


class TextSchema(Schema):
    """A text, or up to 64 of them."""

    class Meta:
        unknown = RAISE

    text = TextOrTexts(
        required=True,
        metadata={
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TEXTS},
            ],
            **about(
                "As it was written: emoji, capitals and all. Each at most 20,000 characters as shipped.",
                example="Nailed the interview!! 🎉 I can't believe it",
            ),
        },
    )


class TextQuery(Schema):
    """Which model answers."""

    class Meta:
        unknown = EXCLUDE

    model = fields.String(
        load_default=None,
        validate=validate.Length(1, 100),
        metadata=about("Another model for texts of the store than `text-emotion`."),
    )


class TextPredictionSchema(Schema):
    """What the words of a text show, which is not always what somebody felt."""

    label = fields.String(validate=validate.OneOf(EKMAN), metadata=about("The likeliest emotion.", example="joy"))
    score = Probability(
        metadata=about("Its probability, calibrated: of labels with 0.8, about 80 % are right.", example=0.6383)
    )
    scores = fields.Dict(
        fields.String(),
        Probability(),
        metadata=about(
            "Of each emotion, how likely a reader would see it in the text. They need not add up to 1: a text may show "
            "several, or none.",
            example=_EXAMPLE,
        ),
    )
    labels = fields.List(
        fields.String(validate=validate.OneOf(EKMAN)),
        metadata=about(
            "Every emotion that is likely enough to be said, by a threshold of its own, the likeliest first; `label` "
            "is always among them.",
            example=["joy", "surprise"],
        ),
    )
    language = fields.String(
        allow_none=True,
        metadata=about("ISO 639 code; null where there are no words to tell it by.", example="en"),
    )
    language_supported = fields.Boolean(
        metadata=about("False for another language than English: the answer is then a mere guess.", example=True)
    )
    model = fields.Nested(ModelSchema)


class TextPredictionBatchSchema(Schema):
    """An answer or a problem for each text, in its place."""

    results = fields.List(
        fields.Raw(
            metadata={
                "oneOf": [{"$ref": "#/components/schemas/TextPrediction"}, {"$ref": "#/components/schemas/Problem"}]
            }
        )
    )
    count = fields.Integer(metadata=about("How many were sent.", example=1))
