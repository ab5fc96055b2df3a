"""GET /metrics, for Prometheus."""

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.metrics import render
from api.openapi import Blueprint

blueprint = Blueprint("metrics", __name__, description="Metrics for Prometheus")


@blueprint.route("/metrics", methods=["GET"])
@blueprint.doc(operationId="getMetrics")
@blueprint.response(200, {"type": "string"}, content_type="text/plain")
def metrics() -> Response:
    """Return the metrics of all workers."""
    return Response(render(), content_type=CONTENT_TYPE_LATEST)
