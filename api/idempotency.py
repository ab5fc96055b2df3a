"""Answer a repeated call with its first answer, if it has an Idempotency-Key.

A client that got no answer, such as a phone that lost its network, can send the same call again with the same key: it
is analyzed, and stored in the history, once. `api.request_parsing` calls `begin` as soon as it has read a body.

Source: draft-ietf-httpapi-idempotency-key-header-07.
"""

import hashlib
import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import cast

from flask import Flask, Response, abort, g, request

from api import log_fields
from api.auth.authentication import Caller
from api.errors import ApiError
from api.services import services
from moodreel.storage.answer_store import Answer, AnswerStoreError, KeyInUse, KeyReused
from moodreel.storage.call_log import CallFields

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_KEY = re.compile(r'"?([\x21\x23-\x7e]{1,255})"?')
"""A string of a structured field (RFC 9651), quoted as the draft asks for, or bare as most clients send it."""
_FINAL = range(200, 500)
_NOT_KEPT = (409, 429)
"""Status of answers that say to send the call again."""
_NOT_REPEATED = ("job", "timings")
"""Fields of the first call's log row that are about that call alone."""

logger = logging.getLogger(__name__)


def init_app(app: Flask) -> None:
    """Keep the answers of calls that have a key."""
    app.after_request(_keep)
    app.teardown_request(_release)


def begin(body: Iterable[bytes]) -> None:
    """Start an analysis, unless the call has a key and was answered already.

    Args:
        body: The parts of the body, without what differs in a repeated call, such as the boundary of a form.

    Raises:
        ApiError: The key is malformed, was used for another call, or its call is not answered yet.
        HTTPException: It has the first answer as its response.
    """
    header, store = request.headers.get(HEADER, "").strip(), services().answers
    if not header or store is None:
        return
    match = _KEY.fullmatch(header)
    if match is None:
        raise ApiError("bad_header", f"{HEADER} takes at most 255 visible ASCII characters, such as a UUID.")
    caller: Caller = g.caller
    key = _hash([caller.owner.encode(), match[1].encode()])
    accept = request.headers.get("Accept") or "*/*"  # the same (RFC 9110, section 12.5.1)
    call = _hash([request.path.rstrip("/").encode(), request.query_string, accept.encode(), *body])
    try:
        answer = store.claim(key, call)
        if answer is not None and _names_no_job(answer, caller):
            store.release(key)
            answer = store.claim(key, call)
    except KeyReused as error:
        detail = (
            f"This {HEADER} was used for another call. Make a new key for each call, and keep it when you repeat one."
        )
        raise ApiError("idempotency_key_reused", detail) from error
    except KeyInUse as error:
        raise ApiError(
            "request_in_progress", f"The call with this {HEADER} is not answered yet. Wait a little."
        ) from error
    except AnswerStoreError as error:
        return logger.error("%s", error)
    if answer is not None:
        log_fields.add(**cast(CallFields, answer.log))
        abort(Response(answer.body, answer.status, [*answer.headers, (REPLAYED, "true")]))
    g.idempotency_key = key


def _names_no_job(answer: Answer, caller: Caller) -> bool:
    """Return whether an answer names a job that was deleted, or whose own answer has expired."""
    jobs, location = services().jobs, dict(answer.headers).get("Location", "")
    if answer.status != HTTPStatus.ACCEPTED or jobs is None:
        return False
    return jobs.store.get(caller.owner, location.removeprefix("/jobs/")) is None


def _keep(response: Response) -> Response:
    if "idempotency_key" in g and response.status_code in _FINAL and response.status_code not in _NOT_KEPT:
        headers = [(name, value) for name, value in response.headers if name != "Content-Length"]
        log = {name: value for name, value in log_fields.current().items() if name not in _NOT_REPEATED}
        _write(Answer(response.status_code, headers, response.get_data(), log))
    return response


def _release(_error: BaseException | None) -> None:
    """Release the key of a call that has no answer to store, so that the call can be repeated."""
    if "idempotency_key" in g:
        _write(None)


def _write(answer: Answer | None) -> None:
    key, store = g.pop("idempotency_key"), services().answers
    try:
        if store is not None:
            store.release(key) if answer is None else store.put(key, answer)
    except AnswerStoreError as error:
        logger.error("%s", error)


def _hash(parts: Iterable[bytes]) -> str:
    """Hash a list of bytes; each is hashed first, so that no two lists are the same when they are joined."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
