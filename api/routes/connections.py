"""GET /api/connections/count: how many are connected to /api/ws."""

from typing import Any

from api.openapi import GuardedBlueprint
from api.schemas.service import ConnectionsSchema
from api.services import services
from api.websocket.broadcaster import count_message

blueprint = GuardedBlueprint("connections", __name__, description="Who is connected", dated=False)


@blueprint.route("/api/connections/count", methods=["GET"])
@blueprint.response(200, ConnectionsSchema)
def count() -> dict[str, Any]:
    """Count the WebSockets that are open on /api/ws, over all workers."""
    return count_message(services().connections.count())
