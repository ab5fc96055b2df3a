"""POST /api/companion: one gentle question about a journal entry, streamed. Nothing of it is stored or logged."""

import socket
from collections.abc import Generator, Iterator
from itertools import chain

from flask import Response, g, json, jsonify, request

from api import log_fields
from api.errors import ApiError, to_message
from api.openapi import GuardedBlueprint
from api.request_parsing import read_json
from api.schemas.companion import MAX_CHARACTERS, CompanionSchema, JournalEntrySchema
from api.services import services
from moodreel.storage.call_log import CallFields
from moodreel.timing import stage

MAX_BODY_BYTES = 64 * 1024
_TYPE = "text/event-stream"
_EXAMPLE = '{"emotion": "Sad", "confidence": 0.84, "text": "…"}'
_STREAM = (
    'event: question\ndata: {"text": "What would"}\n\n'
    'event: question\ndata: {"text": " make the new place yours?"}\n\n'
    "event: done\ndata: {}\n\n"
)
_DESCRIPTION = (
    "Server-sent events. `question`: a piece of the question, `text`. `support`: the whole fixed answer to words of "
    "crisis, `text`; the model did not get the entry. `done`: the end. `error`: the end after a failure, `code` and "
    "`message`. A failure before the first piece is an ordinary problem response instead."
)

blueprint = GuardedBlueprint("companion", __name__, dated=False, description="A question about a journal entry")


@blueprint.route("/api/companion", methods=["GET"])
@blueprint.doc(operationId="getCompanion")
@blueprint.response(200, CompanionSchema)
def state() -> Response:
    """Tell whether the companion is on."""
    return jsonify({"enabled": services().companion is not None, "max_characters": MAX_CHARACTERS})


@blueprint.route("/api/companion", methods=["POST"])
@blueprint.doc(
    operationId="askCompanion",
    requestBody={"required": True, "content": {"application/json": {"schema": JournalEntrySchema}}},
)
@blueprint.response(200, {"type": "string"}, content_type=_TYPE, description=_DESCRIPTION, example=_STREAM, headers={})
@blueprint.error_responses(
    "bad_json",
    "too_large",
    "unsupported_media",
    "invalid_request",
    "companion_off",
    "companion_unavailable",
    "companion_timeout",
    "companion_bad_answer",
    "overloaded",
)
def ask() -> Response:
    """Ask one gentle question about a journal entry, streamed as it is written.

    It is off (404, `companion_off`) until the operator sets LLM_BASE_URL and LLM_MODEL. The text goes to that model,
    and is not stored. Words of crisis are answered with a fixed text, without the model.
    """
    companion = services().companion
    if companion is None:
        raise ApiError("companion_off")
    request.max_content_length = MAX_BODY_BYTES
    entry = JournalEntrySchema().load(read_json(_EXAMPLE))
    if answer := companion.crisis_words.answer(entry["text"]):
        return Response([_event("support", text=answer), _event("done")], mimetype=_TYPE)
    sock = request.environ.get("gunicorn.socket")
    headers = g.get("trace_headers", {})
    return _stream(companion.ask(**entry, is_unwanted=lambda: _is_closed(sock), headers=headers))


def _stream(pieces: Generator[str]) -> Response:
    """Send the pieces as they come. What fails before the first one raises ApiError."""
    with stage("companion"):
        first = next(pieces)
    log_fields.add(model=services().settings.llm_model)
    response = Response(_events(chain([first], pieces), log_fields.current()), mimetype=_TYPE)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would collect the pieces
    response.call_on_close(pieces.close)
    return response


def _events(pieces: Iterator[str], fields: CallFields) -> Iterator[str]:
    """Write the pieces as events. The fields are those of the call's row."""
    try:
        for piece in pieces:
            yield _event("question", text=piece)
        yield _event("done")
    except ApiError as error:
        fields["error"] = error.code
        yield _event("error", **to_message(error))
    except GeneratorExit:
        fields["error"] = "client_closed_request"
        raise


def _event(name: str, **data: object) -> str:
    """Write a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _is_closed(sock: socket.socket | None) -> bool:
    """Return whether the client has closed its connection."""
    if sock is None:
        return False
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except (BlockingIOError, ValueError):  # a TLS socket takes no flags
        return False
    except OSError:
        return True
