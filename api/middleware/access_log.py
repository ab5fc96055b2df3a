"""Write one row of the call log for every request: opened before any check, closed before the response is sent.

The row of a streamed response is closed when the stream ends. Its parts pass as they come.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from urllib.parse import quote

from flask import Flask, Response, current_app, g, request

from api import log_fields, maintenance, request_headers
from api.auth import authentication
from api.auth.authentication import Caller
from api.error_details import ERROR_DETAILS
from api.errors import problem_response
from api.middleware import request_body
from api.services import Services, services
from moodreel.storage.call_log import Call, CallFields, CallLogError
from moodreel.timing import stage

logger = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Log each request of the app. Prune the log at the start and every hour."""
    app.before_request(_open_row)
    app.after_request(_close_row)
    app.teardown_request(_close_unanswered)
    maintenance.run_hourly(app, partial(_prune, services(app)))


def endpoint() -> str:
    """Return the route of the request, or its path if it has none. Never the query, which may hold anything."""
    if request.url_rule:
        return request.url_rule.rule
    # Anybody can send such a path: its line breaks and control codes must not reach an operator's terminal.
    return "".join(character if character.isprintable() else quote(character) for character in request.path)[:200]


@contextmanager
def sub_request(method: str) -> Iterator[None]:
    """Log a part of a request in a row of its own, with the same caller and request id and its own log fields.

    The block sets `g.status` to the status of the row, by default 500.
    """
    caller, request_id, tracing = g.caller, g.request_id, services().tracing
    with current_app.app_context(), tracing.message(method, endpoint()) if tracing else nullcontext():
        g.request_id, g.status = request_id, 500
        _begin_row(method)
        set_caller(caller)
        try:
            yield
        finally:
            _finish_row(g.status, None)


def answer_unparsed(app: Flask, code: str, detail: str | None) -> bytes:
    """Make the whole response to a request that Gunicorn could not parse, and write its row: `app` never sees it.

    What it asked for is not known: the method and the endpoint of the row are "-".
    """
    with app.app_context():
        g.request_id = uuid.uuid4().hex
        headers = {"x-request-id": g.request_id, "Cache-Control": "no-store", "Connection": "close"}
        response = problem_response(code, detail or ERROR_DETAILS[code], headers=headers)
        body = response.get_data()
        call = Call.begin(request_id=g.request_id, method="-", endpoint="-")
        call.finish(response.status_code, len(body), error=code)
        services().call_log_writer.write(call)
    return f"HTTP/1.1 {response.status}\r\n{response.headers}".encode("latin1") + body


def _open_row() -> None:
    g.request_id = request_headers.request_id(request)
    if job := request.environ.get(authentication.JOB_ID):
        log_fields.add(job=job)
    _begin_row(request.method[:16])
    with stage("auth"):
        caller = authentication.authenticate(request)
    set_caller(caller)


def _begin_row(method: str) -> None:
    g.call = Call.begin(
        request_id=g.request_id,
        method=method,
        endpoint=endpoint(),
        client_id=request_headers.client_id(request),
        job=log_fields.current().get("job"),
    )


def set_caller(caller: Caller | None) -> None:
    """Write the row of the call that has begun, with its caller."""
    g.caller = caller
    g.call.identify(caller.id if caller else None)
    services().call_log_writer.write(g.call)


def _close_row(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    if response.is_streamed and response.content_length is None:
        _close_row_after(response)
    else:
        # The length of a static file is known only from its header.
        _finish_row(response.status_code, response.content_length or response.calculate_content_length())
    return response


def _close_row_after(stream: Response) -> None:
    """Close the row when the stream has ended: its context is gone by then."""
    call, trace_id, writer = g.pop("call"), g.get("trace_id"), services().call_log_writer
    bytes_in, fields, sent = request_body.bytes_read(), log_fields.current(), [0]

    def count(parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            sent[0] += len(part)
            yield part

    def finish() -> None:
        row: CallFields = {"bytes_in": bytes_in, **fields}
        call.finish(stream.status_code, sent[0], **row)
        writer.write(call, trace_id)

    parts = stream.response
    stream.response = count(stream.iter_encoded())
    if hasattr(parts, "close"):
        stream.call_on_close(parts.close)
    stream.call_on_close(finish)


def _close_unanswered(_error: BaseException | None) -> None:
    """Close a row without a response. Only a bug in an after_request function leaves one."""
    _finish_row(500, None)


def _finish_row(status: int, bytes_out: int | None) -> None:
    call, g.call = g.get("call"), None
    if call is None:
        return
    fields: CallFields = {"bytes_in": request_body.bytes_read(), **log_fields.current()}
    call.finish(status, bytes_out, **fields)
    services().call_log_writer.write(call)


def _prune(container: Services) -> None:
    """Delete old rows. Every process tries every hour; the log lets only one of them prune, once a day."""
    days = container.settings.log_retention_days
    try:
        deleted = container.call_log.prune_if_due(days)
    except CallLogError as error:
        return logger.error("%s", error)
    if deleted:
        logger.info("%d calls older than %d days were deleted from the log", deleted, days)
