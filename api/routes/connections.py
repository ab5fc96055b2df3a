"""GET /api/connections/count: the number of clients on /api/ws."""

from api.auth import authentication
from api.openapi import GUARDED_CODES, SECURITY_SCHEMES, Blueprint
from api.schemas.service import ConnectionsSchema
from api.services import services
from api.websocket.broadcaster import count_message

blueprint = Blueprint("connections", __name__, description="Open connections")


@blueprint.before_request
def require_caller_if_private() -> None:
    """Reject a caller without a key or token, if the operator wants that."""
    if services().settings.connections_count == "private":
        authentication.require_caller(dated=False)


@blueprint.route("/api/connections/count", methods=["GET"])
@blueprint.doc(operationId="countConnections", security=[{}, *({name: []} for name in SECURITY_SCHEMES)])
@blueprint.response(200, ConnectionsSchema)
@blueprint.error_responses(*GUARDED_CODES)
def count() -> dict[str, object]:
    """Count the open WebSockets on /api/ws, over all workers. It needs a key only if CONNECTIONS_COUNT is private."""
    message = count_message(services().connections.count())
    return {**message, "timestamp": message["time"]}
