"""Answer a call later: `Prefer: respond-async` (RFC 7240) makes it a job, which any worker runs.

A job runs as the same request would: its body goes through the same view, so it has the same answer, errors, history
entry and row in the call log. Who makes the call is checked before: credentials are not kept.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from typing import TypeVar

from flask import Flask, Response, g, jsonify, request
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response as PlainResponse

from api import idempotency, log_fields, webhooks
from api.auth.authentication import JOB_CALLER, JOB_ID, Caller
from api.errors import STATUS, ApiError, problem_response
from api.openapi import GuardedBlueprint
from api.schemas.jobs import JobSchema
from api.services import services
from api.webhooks import WebhookSender
from moodreel.errors import MoodreelError
from moodreel.storage.job_store import LEASE_SECONDS, MAX_ATTEMPTS, WAITING, Job, JobStore, JobStoreError, TooManyJobs
from moodreel.timing import stage

POLL_SECONDS = 1.0
"""How often a worker looks for jobs that others have added."""
PRUNE_SECONDS = 60.0
BUSY_SECONDS = 2.0
"""How long a job that found no slot waits for its next try."""
RETRY_AFTER_SECONDS = 2
"""When to ask again for a job that is not done."""
FULL_RETRY_AFTER_SECONDS = 60
"""When to repeat a call that was rejected because of too many jobs."""
HISTORY_ID = "history_id"
"""The field of a stored answer that names the entry in the caller's history."""
REPORT_SECONDS = 60.0
"""Time between two messages about failures."""

RETRY_HEADER = {
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait before asking for the answer."}
}
HEADERS = {
    "Location": {"schema": {"type": "string"}, "description": "`/jobs/{id}`, where the answer will be."},
    "Preference-Applied": {"schema": {"type": "string"}, "example": "respond-async"},
    **RETRY_HEADER,
}
"""As the OpenAPI document describes them."""

_View = TypeVar("_View", bound=Callable[..., object])

_KEPT_HEADERS = ("Content-Type", "Content-Encoding", "x-client-id", "date", "x-date")
_RESPOND_ASYNC = re.compile(r"(^|,)\s*respond-async\s*($|[,;])", re.IGNORECASE)

logger = logging.getLogger(__name__)


def asynchronous(blueprint: GuardedBlueprint) -> Callable[[_View], _View]:
    """Let the calls of a blueprint become jobs. Returns a decorator that describes this at its view."""
    blueprint.before_request(_accept)

    def decorate(view: _View) -> _View:
        view = blueprint.alt_response(202, schema=JobSchema, headers=HEADERS, success=True)(view)
        return blueprint.accept_preference(view)

    return decorate


def _accept() -> Response | None:
    """Make the call a job, if it prefers that and jobs are on; else None. Runs before the view."""
    runner = services().jobs
    if runner is None or request.method != "POST" or JOB_CALLER in request.environ:
        return None
    if not _RESPOND_ASYNC.search(",".join(request.headers.getlist("Prefer"))):
        return None
    webhook = request.headers.get(webhooks.HEADER, "").strip() or None
    if webhook is not None:
        runner.check_webhook(webhook)
    stream = request.stream  # waits for a slot
    with stage("body"):
        body = stream.read()
    if len(body) > (limit := services().settings.max_jobs_bytes):
        detail = (
            f"The body of a call that is answered later may have at most {limit} bytes. Send it without respond-async."
        )
        raise ApiError("too_large", detail)
    # A repeated call has another boundary between the parts of its form.
    boundary = request.mimetype_params.get("boundary", "").encode()
    idempotency.begin([body.replace(boundary, b"") if boundary else body])
    caller: Caller = g.caller
    call = {
        "path": request.path,
        "query": request.query_string.decode("latin-1"),
        "headers": {name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers}
        | g.get("trace_headers", {}),
        "request_id": g.request_id,
        "caller": {"id": caller.id, "roles": sorted(caller.roles), "user": caller.user},
    }
    try:
        job_id = runner.add(caller.owner, call, body, webhook)
    except TooManyJobs as error:
        raise ApiError(
            "overloaded",
            "Too many calls wait to be answered later. Try again in a minute.",
            headers={"Retry-After": str(FULL_RETRY_AFTER_SECONDS)},
        ) from error
    log_fields.add(job=job_id)
    response = jsonify({"id": job_id, "status": WAITING})
    response.status_code = 202
    response.headers["Location"] = f"/jobs/{job_id}"
    response.headers["Preference-Applied"] = "respond-async"
    response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


class JobRunner:
    """Run jobs in a thread of this worker, one at a time.

    Args:
        store: The jobs of all workers.
        sender: Calls the webhooks of jobs that have ended; None calls none.
    """

    def __init__(self, store: JobStore, sender: WebhookSender | None) -> None:
        self.store = store
        self._sender = sender
        self._wake = threading.Event()
        self._stopping = False
        self._job: Job | None = None
        self._thread: threading.Thread | None = None
        self._pruned_at = self._reported_at = -float("inf")

    def check_webhook(self, url: str) -> None:
        """Check the URL that a caller sent. Raises ApiError."""
        if self._sender is None:
            raise ApiError("bad_header", "This service does not call webhooks. Its operator can set WEBHOOK_HOSTS.")
        self._sender.check(url)

    def add(self, owner: str, call: Mapping[str, object], body: bytes, webhook: str | None = None) -> str:
        """Add a job, and run it soon. Raises TooManyJobs or JobStoreError."""
        job_id = self.store.add(owner, call, body, webhook)
        self._wake.set()
        return job_id

    def start(self, app: Flask) -> None:
        """Start to run jobs. Call it after the fork."""
        self._thread = threading.Thread(target=self._run, args=[app], name="jobs", daemon=True)
        self._thread.start()
        if self._sender is not None:
            threading.Thread(target=self._call_webhooks, args=[self._sender], name="webhooks", daemon=True).start()

    def stop(self) -> None:
        """Run no further job."""
        self._stopping = True
        self._wake.set()

    def finish(self, seconds: float) -> None:
        """Wait for the end of the job that has begun; if it takes too long, let another worker run it.

        Native code that still runs when the interpreter ends aborts the process.
        """
        self.stop()
        if self._thread is not None:
            self._thread.join(seconds)
        if (job := self._job) is not None:
            with suppress(JobStoreError):
                self.store.release(job)

    def run_next(self, app: Flask) -> bool:
        """Run the job that has waited for the longest time. Returns False if none waits. Raises JobStoreError."""
        job = self.store.claim()
        if job is None:
            return False
        self._job, ended = job, threading.Event()
        threading.Thread(target=self._keep_claimed, args=(job, ended), name="job-lease", daemon=True).start()
        try:
            answer = _gave_up(app, job) if job.attempts > MAX_ATTEMPTS else _answer(app, job)
            if _is_overloaded(answer):
                self.store.release(job, BUSY_SECONDS)
            else:
                self.store.finish(job, answer.status_code, _to_text(answer))
        finally:
            self._job = None
            ended.set()
        return True

    def _run(self, app: Flask) -> None:
        while not self._stopping:
            if not self._try(lambda: self.run_next(app)):
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()
            if time.monotonic() > self._pruned_at + PRUNE_SECONDS:
                self._pruned_at = time.monotonic()
                self._try(self.store.prune)

    def _call_webhooks(self, sender: WebhookSender) -> None:
        while not self._stopping:
            if not self._try(lambda: sender.call_next(self.store)):
                time.sleep(POLL_SECONDS)

    def _try(self, task: Callable[[], bool | None]) -> bool | None:
        try:
            return task()
        except MoodreelError as error:
            if time.monotonic() > self._reported_at + REPORT_SECONDS:
                self._reported_at = time.monotonic()
                logger.error("%s", error)
        except Exception:
            logger.exception("a job failed")
        return None

    def _keep_claimed(self, job: Job, ended: threading.Event) -> None:
        while not ended.wait(LEASE_SECONDS / 3):
            with suppress(JobStoreError):
                self.store.renew(job)


def _answer(app: Flask, job: Job) -> PlainResponse:
    """Answer the call of a job, as the app answers requests."""
    call = json.loads(job.call)
    headers = {**call["headers"], "Accept": "application/json", "x-request-id": call["request_id"]}
    builder = EnvironBuilder(
        call["path"],
        method="POST",
        query_string=call["query"],
        headers=headers,
        input_stream=BytesIO(job.body),
        content_length=len(job.body),
    )
    caller = Caller(call["caller"]["id"], frozenset(call["caller"]["roles"]), call["caller"]["user"])
    environ = {**builder.get_environ(), JOB_CALLER: caller, JOB_ID: job.id}
    return PlainResponse.from_app(app.wsgi_app, environ, buffered=True)


def _to_text(answer: PlainResponse) -> str:
    """Return the body of an answer, with the entry of the history that a header names as `HISTORY_ID`."""
    entry_id = answer.headers.get("x-history-id")
    if entry_id is None:
        return answer.get_data(as_text=True)
    return json.dumps({**json.loads(answer.get_data()), HISTORY_ID: entry_id})


def _gave_up(app: Flask, job: Job) -> PlainResponse:
    with app.app_context():
        g.request_id = json.loads(job.call)["request_id"]
        detail = f"The analysis of this file stopped the service {MAX_ATTEMPTS} times. It is not tried again."
        return problem_response("internal", detail)


def _is_overloaded(answer: PlainResponse) -> bool:
    return bool(answer.status_code == STATUS["overloaded"] and answer.get_json().get("code") == "overloaded")
