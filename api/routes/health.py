"""GET /health and /ready: for load balancers and people who wonder."""

from typing import Any

from api.errors import ApiError
from api.openapi import Blueprint
from api.schemas.service import HealthSchema
from api.services import services

blueprint = Blueprint("health", __name__, description="Whether it works")


@blueprint.route("/health", methods=["GET"])
@blueprint.route("/api/health", methods=["GET"], endpoint="api_health")
@blueprint.response(200, HealthSchema)
def health() -> dict[str, Any]:
    """Tell that the process is alive."""
    return _state("ok")


@blueprint.route("/ready", methods=["GET"])
@blueprint.response(200, HealthSchema)
@blueprint.error_responses("not_ready")
def ready() -> dict[str, Any]:
    """Tell that the models are loaded and the log can be written."""
    # A worker takes its first call only when its models are loaded.
    if not services().call_log.is_writable():
        raise ApiError("not_ready", "The call log cannot be written. The server's own log says why.")
    return _state("ready")


def _state(status: str) -> dict[str, Any]:
    return {"status": status} | ({"mock": True} if services().settings.emo_mock else {})
