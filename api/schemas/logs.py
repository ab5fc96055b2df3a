"""Schemas of the call log and its filters."""

from marshmallow import fields, post_load, validate

from api.schemas.fields import AnswerSchema, Boolean, Date, LoadedData, WholeNumber, field_doc
from api.schemas.files import OptionsSchema
from moodreel.storage.call_log import CallFilters
from moodreel.storage.timestamps import parse_end, parse_start


class LogsQuery(OptionsSchema):
    """Filters of the calls. Send them as a query string or as a JSON body, not both."""

    start_date = Date(parse_start, metadata=field_doc("ISO 8601, inclusive; UTC without a zone.", example="2025-08-01"))
    end_date = Date(parse_end, metadata=field_doc("As `start_date`; a date without a time includes that day."))
    status_code = WholeNumber(validate=validate.Range(100, 599))
    success = Boolean(metadata=field_doc('`"True"`, `"False"` or a JSON boolean.'))
    client_id = fields.String()
    endpoint = fields.String(metadata={"example": "/predict"})
    request_id = fields.String()
    prediction = fields.String(metadata={"example": "Happy"})
    modalities = fields.String(metadata=field_doc("What the prediction is based on.", example="video,audio"))
    caller = fields.String(metadata=field_doc("Identifies a key or a user.", example="key-1a2b3c4d"))
    error = fields.String(metadata=field_doc("The `code` of the error.", example="no_face"))
    model = fields.String(metadata=field_doc("Name of the model.", example="moodreel-five"))
    job = fields.String(metadata=field_doc("Id of a job: selects the call that made it, and its runs."))
    limit = WholeNumber(load_default=100, validate=validate.Range(1, 1000))
    cursor = fields.String(load_default=None, metadata=field_doc("The `next_cursor` of the previous page."))

    @post_load
    def _to_filters(self, data: LoadedData, **_: object) -> LoadedData:
        limit, cursor = data.pop("limit"), data.pop("cursor")
        filters = CallFilters(start=data.pop("start_date", None), end=data.pop("end_date", None), **data)
        return {"filters": filters, "limit": limit, "cursor": cursor}


class CallSchema(AnswerSchema):
    """One call. It never contains a video, an image, a text or a key."""

    timestamp = fields.String(metadata={"example": "2025-08-16T12:34:56.123456Z"})
    request_id = fields.String()
    method = fields.String(metadata={"example": "POST"})
    endpoint = fields.String(metadata={"example": "/predict"})
    status_code = fields.Integer(
        allow_none=True,
        metadata=field_doc("null if the call never finished because its worker died.", example=200),
    )
    success = fields.Boolean(allow_none=True)
    latency_ms = fields.Float(allow_none=True)
    client_id = fields.String(allow_none=True)
    caller = fields.String(
        allow_none=True,
        metadata=field_doc("Identifies a key or a user, and reveals neither key nor name.", example="key-1a2b3c4d"),
    )
    prediction = fields.String(allow_none=True, metadata={"example": "Happy"})
    confidence = fields.Float(allow_none=True)
    error = fields.String(allow_none=True, metadata=field_doc("The `code` of the error."))
    bytes_in = fields.Integer(allow_none=True)
    bytes_out = fields.Integer(allow_none=True)
    content_sha256 = fields.String(allow_none=True)
    video_seconds = fields.Float(allow_none=True)
    frames = fields.Integer(allow_none=True)
    model = fields.String(allow_none=True)
    worker = fields.Integer(allow_none=True)
    timings = fields.Dict(
        fields.String(), fields.Float(), allow_none=True, metadata=field_doc("Milliseconds by stage.")
    )
    modalities = fields.String(
        allow_none=True,
        metadata=field_doc("What a prediction of `/api/predict/multimodal` is based on.", example="video,audio"),
    )
    job = fields.String(
        allow_none=True,
        metadata=field_doc("Id of the job: the call made it (status 202), or is a run of it (any other status)."),
    )


class LogsSchema(AnswerSchema):
    """A page of calls, newest first."""

    logs = fields.List(fields.Nested(CallSchema))
    count = fields.Integer(metadata=field_doc("Number of calls on this page."))
    next_cursor = fields.String(allow_none=True, metadata=field_doc("null on the last page."))
