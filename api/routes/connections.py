"""GET /api/connections/count: the number of clients on /api/ws."""

from api.openapi import GuardedBlueprint
from api.schemas.service import ConnectionsSchema
from api.services import services
from api.websocket.broadcaster import count_message

blueprint = GuardedBlueprint("connections", __name__, description="Open connections", dated=False)


@blueprint.route("/api/connections/count", methods=["GET"])
@blueprint.response(200, ConnectionsSchema)
def count() -> dict[str, object]:
    """Count the open WebSockets on /api/ws, over all workers."""
    return count_message(services().connections.count())
