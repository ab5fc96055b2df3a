"""GET /health and /ready, for load balancers."""

from api.errors import ApiError
from api.openapi import Blueprint
from api.schemas.service import HealthSchema
from api.services import services

_WAIT_SECONDS = 0.2
"""Rows that wait for a shorter time, because many are being written, are not a failure."""

blueprint = Blueprint("health", __name__, description="Health and readiness")


@blueprint.route("/health", methods=["GET"])
@blueprint.doc(operationId="getHealth")
@blueprint.response(200, HealthSchema)
def health() -> dict[str, object]:
    """Return that the process is alive."""
    return _status("ok")


@blueprint.route("/api/health", methods=["GET"])
@blueprint.doc(operationId="getApiHealth")
@blueprint.response(200, HealthSchema)
def api_health() -> dict[str, object]:
    """Return that the process is alive, at the address of an older service."""
    return _status("ok")


@blueprint.route("/ready", methods=["GET"])
@blueprint.doc(operationId="getReadiness")
@blueprint.response(200, HealthSchema)
@blueprint.error_responses("not_ready")
def ready() -> dict[str, object]:
    """Return that the models are loaded and the call log can be written."""
    # A worker accepts its first request only after its models are loaded. This request has a row as well.
    if failure := services().call_log_writer.failure(_WAIT_SECONDS):
        raise ApiError("not_ready", failure)
    return {**_status("ready"), "prior": services().settings.prior}


def _status(status: str) -> dict[str, object]:
    return {"status": status, **({"mock": True} if services().settings.emo_mock else {})}
