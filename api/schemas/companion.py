"""Schemas of the companion."""

from marshmallow import Schema, fields, validate

from api.schemas.fields import AnswerSchema, field_doc

MAX_CHARACTERS = 4000


class JournalEntrySchema(Schema):
    """What a face showed, and what the person wrote. Nothing of it is stored."""

    emotion = fields.String(
        required=True,
        # A word: no room for instructions to the model.
        validate=validate.Regexp(r"^[A-Za-z]{1,20}$", error="Not a word, such as Happy."),
        metadata=field_doc("What the face showed: `emotion` of a prediction.", example="Sad"),
    )
    confidence = fields.Float(
        required=True,
        validate=validate.Range(0, 1),
        metadata=field_doc("`confidence` of the prediction, 0 to 1.", example=0.84),
    )
    text = fields.String(
        required=True,
        validate=[
            validate.Length(1, MAX_CHARACTERS),
            validate.Regexp(r"[\s\S]*\S", error="There are no words in it."),
        ],
        metadata=field_doc(
            "What the person wrote, in any language.", example="I said yes to the move. Now I keep counting boxes."
        ),
    )


class CompanionSchema(AnswerSchema):
    """Whether there is a companion, and how long a text it takes."""

    enabled = fields.Boolean(metadata=field_doc("False while LLM_BASE_URL and LLM_MODEL are not set.", example=True))
    max_characters = fields.Integer(metadata=field_doc("Characters of `text`.", example=MAX_CHARACTERS))
