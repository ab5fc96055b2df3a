"""One row of the call log around every call: opened before anything is checked, closed before the answer is sent."""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask, Response, current_app, g, request

from api import log_fields, maintenance
from api.auth import authentication
from api.metrics import LOG_FAILURES
from api.middleware import request_body
from api.services import Services, services
from moodreel.storage.call_log import CallLogError, CallOutcome

log = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Log each call of the app; prune the log at the start and from then on when a call finds it due."""
    app.before_request(_open)
    app.after_request(_close)
    app.teardown_request(_close_lost)
    maintenance.run_hourly(app, _prune)


def endpoint() -> str:
    """Give the call's route, or its path where it has none; never the query, which may hold anything."""
    return request.url_rule.rule if request.url_rule else request.path[:200]


@contextmanager
def sub_request(method: str) -> Iterator[None]:
    """Log a part of a call as a call of its own, with the same caller and request id and with facts of its own.

    The block says how it ended by `g.status` (500 unless it does), and may record anything but that.
    """
    caller, request_id = g.caller, g.request_id
    with current_app.app_context():
        g.began, g.caller, g.request_id, g.status = time.perf_counter(), caller, request_id, 500
        _begin(method)
        try:
            yield
        finally:
            _write(g.status, None)


def _open() -> None:
    g.began = time.perf_counter()
    g.request_id = authentication.request_id(request) or uuid.uuid4().hex
    g.caller = authentication.authenticate(request)
    _begin(request.method[:16])


def _begin(method: str) -> None:
    g.row_id = None
    try:
        g.row_id = services().call_log.begin(
            request_id=g.request_id,
            method=method,
            endpoint=endpoint(),
            client_id=authentication.client_id(request),
            caller=g.caller.id if g.caller else None,
        )
    except CallLogError as error:
        _report(error)


def _close(response: Response) -> Response:
    response.headers["x-request-id"] = g.request_id
    # A file that is sent as it lies knows its length by its header alone.
    _write(response.status_code, response.content_length or response.calculate_content_length())
    return response


def _close_lost(_error: BaseException | None) -> None:
    """Close a row that no answer closed, which only a bug in an after_request function leaves open."""
    _write(500, None)


def _write(status: int, bytes_out: int | None) -> None:
    row_id, g.row_id = g.get("row_id"), None
    if row_id is None:
        return
    latency = round((time.perf_counter() - g.began) * 1000, 3)
    outcome = CallOutcome(
        status, latency, **{"bytes_in": request_body.bytes_read(), "bytes_out": bytes_out, **log_fields.current()}
    )
    try:
        services().call_log.finish(row_id, outcome)
    except CallLogError as error:
        _report(error)


def _report(error: CallLogError) -> None:
    """Tell the operator; the caller is answered all the same."""
    LOG_FAILURES.inc()
    log.error("%s", error)


def _prune(shared: Services) -> None:
    """Delete old calls. Every process asks now and then; the log lets one a day do it."""
    days = shared.settings.log_retention_days
    try:
        deleted = shared.call_log.prune_if_due(days)
    except CallLogError as error:
        return _report(error)
    if deleted:
        log.info("%d calls older than %d days were deleted from the log", deleted, days)
