"""Schema of a call that is answered later."""

from marshmallow import fields, validate

from api.schemas.fields import AnswerSchema, field_doc
from api.schemas.service import ProblemSchema


class JobSchema(AnswerSchema):
    """A call that is answered later."""

    id = fields.String(metadata={"example": "8a54c0f2d1b94f0c9ad2f6b1c0e7d385"})
    status = fields.String(
        validate=validate.OneOf(["waiting", "running", "done", "failed"]), metadata={"example": "done"}
    )
    created = fields.String(
        metadata={"format": "date-time", "example": "2025-08-16T12:34:56.000000Z", "optional": True}
    )
    answer_status = fields.Integer(
        metadata=field_doc("The status that the call would have had.", example=200, optional=True)
    )
    history_id = fields.String(
        metadata=field_doc(
            "The entry in the caller's history, if one was written: `/api/history/{id}`.",
            example="8a54c0f2d1b94f0c9ad2f6b1c0e7d385",
            optional=True,
        )
    )
    answer = fields.Raw(
        metadata=field_doc(
            "The answer that the call would have had.",
            type="object",
            example={"emotion": "Happy", "confidence": 0.92},
            optional=True,
        )
    )
    error = fields.Nested(ProblemSchema, metadata=field_doc("Instead of `answer`.", optional=True))
