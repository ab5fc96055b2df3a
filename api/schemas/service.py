"""Schemas of the service itself."""

from marshmallow import Schema, fields, validate

from api.schemas.fields import AnswerSchema, field_doc
from moodreel.models.model_card import PRIORS


class HealthSchema(AnswerSchema):
    """The state of the service."""

    status = fields.String(metadata={"example": "ok"})
    mock = fields.Boolean(
        metadata=field_doc(
            "Present only if `EMO_MOCK=1`: responses of `/api/predict/multimodal` are then made up.",
            example=True,
            optional=True,
        )
    )
    prior = fields.String(
        validate=validate.OneOf(PRIORS),
        metadata=field_doc(
            "Only in `/ready`: how often people in videos are taken to show each emotion, the setting `PRIOR`. "
            "`diary`: mostly calm and happy; `balanced`: all equally often. It changes the responses to videos of "
            "models whose `model.json` has `priors`.",
            example="diary",
            optional=True,
        ),
    )


class ProblemSchema(Schema):
    """Why a request failed (RFC 9457)."""

    type = fields.String(required=True, metadata={"example": "urn:moodreel:problem:no_face"})
    title = fields.String(required=True, metadata={"example": "No face"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(required=True, metadata=field_doc("A sentence that says what to do next."))
    code = fields.String(required=True, metadata=field_doc("A stable code.", example="no_face"))
    request_id = fields.String(required=True)
    errors = fields.Dict(fields.String(), metadata=field_doc("Messages by field, for `invalid_request`."))


class ConnectionsSchema(Schema):
    """The number of connections, and when they were counted."""

    active_connections = fields.Integer(required=True, metadata={"example": 3})
    timestamp = fields.String(required=True, metadata={"format": "date-time", "example": "2025-08-16T12:34:56.000000Z"})
    time = fields.String(
        required=True,
        metadata={"format": "date-time", **field_doc("The same: `time` as in `connection_update`.")},
    )
