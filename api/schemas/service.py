"""What any address may answer."""

from marshmallow import Schema, fields

from api.schemas.fields import about


class HealthSchema(Schema):
    status = fields.String(metadata={"example": "ok"})
    mock = fields.Boolean(
        metadata=about("Only where `EMO_MOCK=1` has the answers of `/api/predict/multimodal` made up.", example=True)
    )


class ProblemSchema(Schema):
    """Why a call was refused (RFC 9457)."""

    type = fields.String(required=True, metadata={"example": "urn:moodreel:problem:no_face"})
    title = fields.String(required=True, metadata={"example": "No face"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(required=True, metadata=about("A sentence that says what to do next."))
    code = fields.String(required=True, metadata=about("A stable word to switch on.", example="no_face"))
    request_id = fields.String(required=True)
    errors = fields.Dict(fields.String(), metadata=about("Messages by field, for `invalid_request`."))


class ConnectionsSchema(Schema):
    """How many are connected, and when that was so."""

    active_connections = fields.Integer(required=True, metadata={"example": 3})
    timestamp = fields.String(required=True, metadata={"format": "date-time", "example": "2025-08-16T12:34:56.000000Z"})
