"""Write one row of the call log for every request: opened before any check, closed before the response is sent.

The row of a streamed response is closed when the stream ends. Its parts pass as they come.
"""

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import quote

from flask import Flask, Response, current_app, g, request

from api import log_fields, maintenance, request_headers
from api.auth import authentication
from api.errors import problem_response
from api.log_fields import LogFields
from api.middleware import request_body
from api.services import Services, services
from moodreel.storage.call_log import Call, CallLogError, CallOutcome
from moodreel.timing import stage

logger = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Log each request of the app. Prune the log at the start and every hour."""
    app.before_request(_open_row)
    app.after_request(_close_row)
    app.teardown_request(_close_unanswered)
    maintenance.run_hourly(app, _prune)


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
        g.started, g.caller, g.request_id, g.status = time.perf_counter(), caller, request_id, 500
        _insert_row(method)
        try:
            yield
        finally:
            _finish_row(g.status, None)


def answer_unparsed(app: Flask, code: str, detail: str) -> bytes:
    """Make the whole response to a request that Gunicorn could not parse, and write its row: `app` never sees it.

    What it asked for is not known: the method and the endpoint of the row are "-".
    """
    with app.app_context():
        g.request_id = uuid.uuid4().hex
        headers = {"x-request-id": g.request_id, "Cache-Control": "no-store", "Connection": "close"}
        response = problem_response(code, detail, headers=headers)
        body = response.get_data()
        call = Call.begin(request_id=g.request_id, method="-", endpoint="-")
        call.finish(CallOutcome(response.status_code, 0.0, error=code, bytes_out=len(body)))
        services().call_log_writer.write(call)
    return f"HTTP/1.1 {response.status}\r\n{response.headers}".encode("latin1") + body


def _open_row() -> None:
    g.started = time.perf_counter()
    g.request_id = request_headers.request_id(request)
    with stage("auth"):
        g.caller = authentication.authenticate(request)
    if job := request.environ.get(authentication.JOB_ID):
        log_fields.add(job=job)
    _insert_row(request.method[:16])


def _insert_row(method: str) -> None:
    g.call = Call.begin(
        request_id=g.request_id,
        method=method,
        endpoint=endpoint(),
        client_id=request_headers.client_id(request),
        caller=g.caller.id if g.caller else None,
        job=log_fields.current().get("job"),
    )
    services().call_log_writer.write(g.call)


def set_caller(caller: str) -> None:
    """Write the caller into the row, if they were not known when the call began."""
    g.call.identify(caller)
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
    call, started, trace_id, writer = g.pop("call"), g.started, g.get("trace_id"), services().call_log_writer
    bytes_in, fields, sent = request_body.bytes_read(), log_fields.current(), [0]

    def count(parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            sent[0] += len(part)
            yield part

    def finish() -> None:
        latency = round((time.perf_counter() - started) * 1000, 3)
        row: LogFields = {"bytes_in": bytes_in, **fields}
        call.finish(CallOutcome(stream.status_code, latency, bytes_out=sent[0], **row))
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
    latency = round((time.perf_counter() - g.started) * 1000, 3)
    fields: LogFields = {"bytes_in": request_body.bytes_read(), **log_fields.current()}
    call.finish(CallOutcome(status, latency, bytes_out=bytes_out, **fields))
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
