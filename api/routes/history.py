"""/api/history: what was found for the person who is signed in, for them alone."""

from typing import Any

from flask import Response, g, request
from marshmallow import ValidationError

from api import history_recorder
from api.errors import ApiError
from api.openapi import GuardedBlueprint
from api.schemas.history import (
    DeletedSchema,
    EmptyQuery,
    EntrySchema,
    HistoryQuery,
    HistorySchema,
    SummaryQuery,
    SummarySchema,
)
from api.services import services
from moodreel.storage.history import HistoryFilters
from moodreel.storage.objects import ObjectStorageError

blueprint = GuardedBlueprint("history", __name__, description="A signed-in user's own past", dated=False)


@blueprint.before_request
def require_user() -> None:
    """Refuse callers who have no history."""
    if services().history is None:
        raise ApiError("not_found", "This service keeps no history: its operator has to set HISTORY=on.")
    # Only a preflight comes as far as this without a caller.
    if g.caller is not None and g.caller.user is None:
        raise ApiError("forbidden", "A history is a person's own, and an API key is nobody's. Send the user's token.")


@blueprint.route("/api/history", methods=["GET"])
@blueprint.response(200, HistorySchema)
@blueprint.error_responses("forbidden", "not_found", "invalid_request", "storage_unavailable")
@blueprint.query(HistoryQuery)
def entries(query: dict[str, Any]) -> dict[str, Any]:
    """List my entries, newest first."""
    filters = HistoryFilters(query.get("kind"), query.get("emotion"), query.get("start_date"), query.get("end_date"))
    try:
        page = _history().select(g.caller.user, filters, query["limit"], query["cursor"])
    except ValueError as error:
        raise ValidationError({"cursor": ["Not a cursor: send the next_cursor of the page before."]}) from error
    return {"entries": page.rows, "count": len(page.rows), "next_cursor": page.next_cursor}


@blueprint.route("/api/history", methods=["DELETE"])
@blueprint.response(200, DeletedSchema)
@blueprint.error_responses("forbidden", "not_found", "invalid_request", "storage_unavailable")
@blueprint.query(EmptyQuery)
def delete_all(_query: dict[str, Any]) -> dict[str, int]:
    """Delete all my entries, with their pictures and loops. Takes no filters."""
    deleted = _history().delete_all(g.caller.user)
    history_recorder.delete_orphans()
    return {"deleted": deleted}


@blueprint.route("/api/history/summary", methods=["GET"])
@blueprint.response(200, SummarySchema)
@blueprint.error_responses("forbidden", "not_found", "invalid_request", "storage_unavailable")
@blueprint.query(SummaryQuery)
def summary(query: dict[str, Any]) -> Any:
    """Count my emotions by day or week, and compare them with what is usual for me."""
    try:
        return _history().mood_calendar(g.caller.user, **query)
    except ValueError as error:
        raise ValidationError({"end_date": ["Must not be before start_date."]}) from error


@blueprint.route("/api/history/<entry_id>", methods=["GET"])
@blueprint.response(200, EntrySchema)
@blueprint.error_responses("forbidden", "not_found", "storage_unavailable")
def entry(entry_id: str) -> dict[str, Any]:
    """Give one of my entries."""
    return _found(_history().get(g.caller.user, entry_id))


@blueprint.route("/api/history/<entry_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.error_responses("forbidden", "not_found", "storage_unavailable")
def delete(entry_id: str) -> None:
    """Delete one of my entries, with its pictures and loops."""
    _found(_history().delete(g.caller.user, entry_id) or None)
    history_recorder.delete_orphans()


@blueprint.route("/api/history/<entry_id>/media/<name>", methods=["GET"])
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="image/*")
@blueprint.alt_response(200, schema={"type": "string", "format": "binary"}, content_type="video/mp4", success=True)
@blueprint.error_responses("forbidden", "not_found", "storage_unavailable")
def media(entry_id: str, name: str) -> Response:
    """Give a picture or a loop of one of my entries, whole or in ranges."""
    try:
        file = _found(_history().get_media(g.caller.user, entry_id, name))
    except ObjectStorageError as error:
        history_recorder.report_failure("media", error)
        raise ApiError("storage_unavailable", "It cannot be read right now. Try again in a minute.") from error
    response = Response(file.data, mimetype=file.type)
    # Asked for anew each time: once deleted, it must be gone from the browser too, and a new loop keeps the name.
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    response.make_conditional(request, accept_ranges=True, complete_length=len(file.data))
    return response


def _history() -> Any:
    return services().history


def _found(result: Any) -> Any:
    if result is None:
        raise ApiError("not_found", "You have no such entry. GET /api/history lists yours.")
    return result
