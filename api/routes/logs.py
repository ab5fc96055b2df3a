"""GET /logs: the call log, filtered and paged, as JSON or CSV."""

import io
from collections.abc import Mapping

from flask import Response, g, jsonify, request
from marshmallow import ValidationError

from api.auth import authentication
from api.errors import ApiError
from api.openapi import GuardedBlueprint
from api.request_parsing import has_body, read_json
from api.schemas.fields import LoadedData, to_dict
from api.schemas.logs import LogsQuery, LogsSchema
from api.services import services
from moodreel.storage.call_log_export import write_csv
from moodreel.storage.database import Page

_NEXT_CURSOR = {"description": "Beside CSV: `next_cursor`; absent on the last page.", "schema": {"type": "string"}}

blueprint = GuardedBlueprint("logs", __name__, description="The call log")
blueprint.before_request(authentication.require_admin)


@blueprint.route("/logs", methods=["GET"])
@blueprint.doc(operationId="listCalls")
@blueprint.response(200, LogsSchema, headers={"x-next-cursor": _NEXT_CURSOR})
@blueprint.alt_response(200, schema={"type": "string"}, content_type="text/csv", success=True)
@blueprint.error_responses("bad_json", "ambiguous_filters", "too_large", "invalid_request", "overloaded")
@blueprint.document_query(LogsQuery)
def logs() -> Response:
    """List calls, newest first. The filters may be sent as a JSON body instead."""
    query = LogsQuery().load(_filters())
    page = _page(query)
    if request.accept_mimetypes.best_match(["application/json", "text/csv"]) == "text/csv":
        return _as_csv(page)
    return jsonify({"logs": page.rows, "count": len(page.rows), "next_cursor": page.next_cursor})


def _filters() -> Mapping[str, object]:
    in_query = to_dict(request.args.items(multi=True))
    if not has_body():
        return in_query
    in_body = read_json('{"status_code": 200}')
    if in_query and in_body:
        raise ApiError("ambiguous_filters")
    return in_body or in_query


def _page(query: LoadedData) -> Page:
    try:
        return services().call_log.select(**query, exclude_id=g.call.id)
    except ValueError as error:
        raise ValidationError({"cursor": ["Not a cursor: send the next_cursor of the previous page."]}) from error


def _as_csv(page: Page) -> Response:
    file = io.StringIO(newline="")
    write_csv(page.rows, file)
    response = Response(file.getvalue(), mimetype="text/csv")
    if page.next_cursor:
        response.headers["x-next-cursor"] = page.next_cursor
    return response
