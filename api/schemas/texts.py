"""Schemas of texts and the emotions in them."""

from typing import ClassVar

from marshmallow import ValidationError, fields, validate
from marshmallow.types import ErrorMessages

from api.schemas.fields import AnswerSchema, Probability, field_doc, model_field, results_field
from api.schemas.files import OptionsSchema
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


class TextOrTexts(fields.Field[str | list[str]]):
    """A text, or a list of texts whose length is checked first."""

    default_error_messages: ClassVar[ErrorMessages] = {  # type: ignore[misc]
        "invalid": "Neither a string nor a list of strings.",
        "invalid_text": "Not a valid string.",
    }

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> str | list[str]:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise self.make_error("invalid")
        TEXT_COUNT(value)
        wrong = [number for number, text in enumerate(value) if not isinstance(text, str)]
        if wrong:
            raise ValidationError({number: [self.error_messages["invalid_text"]] for number in wrong})
        return value


class TextSchema(OptionsSchema):
    """A text, or up to 64 texts."""

    # In a query string, a text would be in the log of every proxy.
    body_only = ("text",)

    text = TextOrTexts(
        required=True,
        metadata={
            "oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_TEXTS},
            ],
            **field_doc(
                "As it was written, with emoji and capitals. By default at most 20,000 characters each.",
                example="Nailed the interview!! 🎉 I can't believe it",
            ),
        },
    )
    model = model_field("The name of a text model in the store; by default `text-emotion`.")


class TextPredictionSchema(AnswerSchema):
    """The emotions in a text, which are not always what the author felt."""

    label = fields.String(validate=validate.OneOf(EKMAN), metadata=field_doc("The most likely emotion.", example="joy"))
    score = Probability(
        metadata=field_doc("Its calibrated probability: of labels with 0.8, about 80 % are right.", example=0.6383)
    )
    scores = fields.Dict(
        fields.String(),
        Probability(),
        metadata=field_doc(
            "For each emotion, the probability that a reader sees it in the text. They need not add up to 1: a text "
            "may show several emotions or none.",
            example=_EXAMPLE,
        ),
    )
    labels = fields.List(
        fields.String(validate=validate.OneOf(EKMAN)),
        metadata=field_doc(
            "Every emotion whose score reaches its threshold, most likely first. `label` is always one of them.",
            example=["joy", "surprise"],
        ),
    )
    language = fields.String(
        allow_none=True,
        metadata=field_doc("ISO 639 code; null for a text without words.", example="en"),
    )
    language_supported = fields.Boolean(
        metadata=field_doc("False if the language is not English: the prediction is then unreliable.", example=True)
    )
    model = fields.Nested(ModelSchema)


class TextPredictionBatchSchema(AnswerSchema):
    """A result or a problem for each text, in order."""

    results = results_field("TextPrediction")
    count = fields.Integer(metadata=field_doc("Number of texts that were sent.", example=1))
