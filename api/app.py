"""The application factory."""

from typing import Unpack

from flask import Flask

from api import errors, history_recorder, idempotency, metrics, openapi, services
from api.bootstrap import ReadyPipelines, build_services
from api.middleware import access_log, compression, cors, rate_limit, request_body, security_headers
from api.routes import (
    auth,
    companion,
    connections,
    detect,
    health,
    history,
    jobs,
    logs,
    multimodal,
    pages,
    predict,
    predict_any,
    text,
    thumbnail,
    tokens,
    websocket,
)
from api.routes import metrics as metrics_route
from api.settings import Settings
from api.socketio import server as socketio_server
from api.websocket import gunicorn_socket

_DOCUMENTED = (
    predict,
    thumbnail,
    detect,
    predict_any,
    multimodal,
    text,
    companion,
    logs,
    auth,
    tokens,
    history,
    jobs,
    connections,
    health,
    metrics_route,
)
"""The modules whose routes the OpenAPI document describes, in its order."""


def create_app(settings: Settings | None = None, **ready: Unpack[ReadyPipelines]) -> Flask:
    """Create the app. By default the settings come from the environment, and the pipelines from the settings.

    Raises:
        MoodreelError: A model, the call log or the history is unusable.
        SettingsError: A variable of the environment is unusable.
    """
    settings = settings or Settings.from_environment()
    app = Flask("api")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Each route answers with and without a slash at its end. Many clients lose the body in a redirect.
    app.url_map.strict_slashes = False
    metrics.observe_domain()
    services.init_app(app, build_services(settings, **ready))
    if tracing := services.services(app).tracing:
        tracing.init_app(app)
    around_views = (access_log, metrics, cors, security_headers, compression, rate_limit, request_body, errors)
    # After a view, the functions of the last one run first: it stores the answer before the others change it.
    for extension in (*around_views, history_recorder, idempotency):
        extension.init_app(app)

    api = openapi.init_app(app)
    for module in _DOCUMENTED:
        api.register_blueprint(module.blueprint)
    app.register_blueprint(pages.blueprint)
    websocket.init_app(app)
    socketio_server.init_app(app)
    gunicorn_socket.init_app(app)
    return app
