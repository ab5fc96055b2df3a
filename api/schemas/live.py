"""Schemas of the messages of live video."""

from typing import ClassVar

from marshmallow import EXCLUDE, Schema, fields, post_dump, validate
from marshmallow.types import ErrorMessages

from api.base64_input import decode_base64
from api.schemas.fields import Boolean, LoadedData, Probability, RoundedFloat, field_doc
from api.schemas.files import OptionsSchema
from api.schemas.videos import ExplanationSchema
from moodreel.live.messages import MAX_FACES

MAX_SAFE_INTEGER = 2**53
"""Larger integers are not exact in JavaScript."""


class StrictNumber(fields.Float):
    """A JSON number; `fields.Float` would accept "0.5" and true."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> float:
        # Rejects NaN, and integers that are too large for a float.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_SAFE_INTEGER:
            raise self.make_error("invalid")
        return float(value)


class StrictInteger(fields.Integer):
    """A JSON integer."""

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid")
        return value


class FrameBytes(fields.Field[bytes]):
    """An image as binary data, or as base64 with or without a `data:` prefix."""

    default_error_messages: ClassVar[ErrorMessages] = {  # type: ignore[misc]
        "invalid": "Send the JPEG as binary data, or as base64."
    }

    def _deserialize(self, value: object, attr: str | None, data: object, **kwargs: object) -> bytes:
        if isinstance(value, bytes | bytearray):
            return bytes(value)
        if not isinstance(value, str):
            raise self.make_error("invalid")
        try:
            return decode_base64(value)
        except ValueError as error:
            raise self.make_error("invalid") from error


class SessionSettingsSchema(OptionsSchema):
    """The settings of a session. A setting that is left out stays as it is."""

    faces = fields.String(
        validate=validate.OneOf(("largest", "all")), metadata=field_doc("The faces to predict for.", example="all")
    )
    max_faces = StrictInteger(
        validate=validate.Range(1, MAX_FACES), metadata=field_doc("Maximum number of faces.", example=MAX_FACES)
    )
    smoothing = StrictNumber(
        validate=validate.Range(0, 5),
        metadata=field_doc("Time constant in seconds; 0 disables smoothing.", example=0.5),
    )
    frame_rate = StrictNumber(
        validate=validate.Range(1, 30), metadata=field_doc("Frames per second to predict.", example=15.0)
    )
    size = StrictInteger(
        attribute="side",
        validate=validate.Range(256, 1280),
        metadata=field_doc("Longest side in pixels to which frames are reduced.", example=640),
    )
    model = fields.String(
        allow_none=True,
        validate=validate.Length(1, 100),
        metadata=field_doc("The name of a model in the store.", example=None),
    )
    explain = Boolean(
        metadata=field_doc("Whether to name the facial movements with the largest weights.", example=False)
    )


class ControlSchema(OptionsSchema):
    """A command to the session."""

    action = fields.String(required=True, validate=validate.OneOf(("start", "stop", "configure")))
    settings = fields.Nested(SessionSettingsSchema, load_default=dict)


class FrameSchema(Schema):
    """One frame."""

    class Meta:
        unknown = EXCLUDE

    frame = FrameBytes(required=True)
    sequence = StrictInteger(
        load_default=None, allow_none=True, validate=validate.Range(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    )
    time = StrictNumber(load_default=None, allow_none=True)


class CredentialsSchema(Schema):
    """The credentials of a client."""

    class Meta:
        unknown = EXCLUDE

    token = fields.String()
    api_key = fields.String(validate=validate.Length(1, 1024))


class FacialActionSchema(Schema):
    """A facial movement."""

    name = fields.String()
    strength = Probability(attribute="activation")


class LiveFaceSchema(Schema):
    """A face in a frame."""

    id = fields.Integer(attribute="track")
    box = fields.List(fields.Integer())
    emotion = fields.String()
    confidence = Probability()
    probabilities = fields.Dict(fields.String(), Probability())
    movements = fields.List(fields.Nested(FacialActionSchema), attribute="actions")
    explanation = fields.Nested(ExplanationSchema)

    @post_dump
    def _drop_missing_explanation(self, face: LoadedData, **_: object) -> LoadedData:
        """Remove the explanation unless it was requested."""
        if face["explanation"] is None:
            del face["explanation"]
        return face


class DetectionResultSchema(Schema):
    """The emotions of the faces in a frame."""

    sequence = fields.Integer(attribute="frame.sequence", allow_none=True)
    time = fields.Float(attribute="frame.time", allow_none=True)
    faces = fields.List(fields.Nested(LiveFaceSchema))
    width = fields.Integer()
    height = fields.Integer()
    size = fields.Integer(attribute="side")
    latency_ms = RoundedFloat()
    server_ms = fields.Function(lambda result: round(result.latency_ms, 1))  # the older name of the same
    waited_ms = RoundedFloat(attribute="queued_ms")
    frames = fields.Integer()
    dropped = fields.Integer()
    model = fields.String()


class SuggestionSchema(Schema):
    """What the client should send from now on."""

    reason = fields.String(allow_none=True)
    frame_rate = RoundedFloat()
    width = fields.Integer()
    height = fields.Integer()
