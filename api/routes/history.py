"""/api/history: the analyses of the signed-in user, for that user only."""

from flask import Response, g, request
from marshmallow import ValidationError

from api import history_recorder
from api.errors import ApiError
from api.openapi import GuardedBlueprint
from api.schemas.fields import LoadedData
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
from moodreel.storage.history import History, HistoryFilters
from moodreel.storage.mood_calendar import MoodCalendar
from moodreel.storage.objects import ObjectStorageError

blueprint = GuardedBlueprint("history", __name__, description="The history of the signed-in user", dated=False)


@blueprint.before_request
def require_user() -> None:
    """Reject callers who have no history."""
    if services().history is None:
        raise ApiError("not_found", "This service keeps no history. Its operator can set HISTORY=on.")
    if request.method != "OPTIONS" and g.caller.user is None:
        raise ApiError("forbidden", "A history belongs to a user, not to an API key. Send the user's token.")


@blueprint.route("/api/history", methods=["GET"])
@blueprint.doc(operationId="listHistory")
@blueprint.response(200, HistorySchema)
@blueprint.error_responses("forbidden", "not_found", "invalid_request", "storage_unavailable")
@blueprint.query(HistoryQuery)
def entries(query: LoadedData) -> dict[str, object]:
    """List my entries, newest first."""
    filters = HistoryFilters(query.get("kind"), query.get("emotion"), query.get("start_date"), query.get("end_date"))
    try:
        page = _history().select(g.caller.user, filters, query["limit"], query["cursor"])
    except ValueError as error:
        raise ValidationError({"cursor": ["Not a cursor: send the next_cursor of the previous page."]}) from error
    return {"entries": page.rows, "count": len(page.rows), "next_cursor": page.next_cursor}


@blueprint.route("/api/history", methods=["DELETE"])
@blueprint.doc(operationId="deleteHistory")
@blueprint.response(200, DeletedSchema)
@blueprint.error_responses("forbidden", "not_found", "invalid_request", "storage_unavailable")
@blueprint.query(EmptyQuery)
def delete_all(_query: LoadedData) -> dict[str, int]:
    """Delete all my entries, with their media. There are no filters."""
    deleted = _history().delete_all(g.caller.user)
    history_recorder.delete_orphans(_history())
    return {"deleted": deleted}


@blueprint.route("/api/history/summary", methods=["GET"])
@blueprint.doc(operationId="summarizeHistory")
@blueprint.response(200, SummarySchema)
@blueprint.error_responses("forbidden", "not_found", "invalid_request", "storage_unavailable")
@blueprint.query(SummaryQuery)
def summary(query: LoadedData) -> MoodCalendar:
    """Count my emotions by day or week, and compare them with my baseline."""
    try:
        return _history().mood_calendar(g.caller.user, **query)
    except ValueError as error:
        raise ValidationError({"end_date": ["Must not be before start_date."]}) from error


@blueprint.route("/api/history/<entry_id>", methods=["GET"])
@blueprint.doc(operationId="getHistoryEntry")
@blueprint.response(200, EntrySchema)
@blueprint.error_responses("forbidden", "not_found", "storage_unavailable")
def entry(entry_id: str) -> dict[str, object]:
    """Return one of my entries."""
    found = _history().get(g.caller.user, entry_id)
    if found is None:
        raise _no_entry()
    return found


@blueprint.route("/api/history/<entry_id>", methods=["DELETE"])
@blueprint.doc(operationId="deleteHistoryEntry")
@blueprint.response(204)
@blueprint.error_responses("forbidden", "not_found", "storage_unavailable")
def delete(entry_id: str) -> Response:
    """Delete one of my entries, with its media."""
    if not _history().delete(g.caller.user, entry_id):
        raise _no_entry()
    history_recorder.delete_orphans(_history())
    response = Response(status=204)
    del response.headers["Content-Type"]  # there is no content
    return response


@blueprint.route("/api/history/<entry_id>/media/<name>", methods=["GET"])
@blueprint.doc(operationId="getHistoryMedia")
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="image/*")
@blueprint.alt_response(200, schema={"type": "string", "format": "binary"}, content_type="video/mp4", success=True)
@blueprint.alt_response(206, description="The part that the header Range asks for.", success=True)
@blueprint.alt_response(304, description="It is the one that If-None-Match names.", success=True)
@blueprint.error_responses("forbidden", "not_found", "requested_range_not_satisfiable", "storage_unavailable")
def media(entry_id: str, name: str) -> Response:
    """Return an image or a loop of one of my entries, whole or in byte ranges."""
    try:
        file = _history().get_media(g.caller.user, entry_id, name)
    except ObjectStorageError as error:
        history_recorder.report_failure("media", error)
        raise ApiError("storage_unavailable", "The file cannot be read right now. Try again in a minute.") from error
    if file is None:
        raise _no_entry()
    response = Response(file.data, mimetype=file.type)
    # The browser must ask each time: a deleted file must be gone from its cache, and a new loop has the same name.
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    response.make_conditional(request, accept_ranges=True, complete_length=len(file.data))
    return response


def _history() -> History:
    history = services().history
    # `require_user` has rejected the request otherwise.
    assert history is not None
    return history


def _no_entry() -> ApiError:
    return ApiError("not_found", "You have no such entry. GET /api/history lists yours.")
