"""HTTP: the only room that knows Flask."""

from typing import Any

from flask import Flask

from api import errors, history_recorder, metrics, openapi, services, socketio
from api.middleware import access_log, cors, request_body, security_headers
from api.routes import (
    auth,
    connections,
    health,
    history,
    logs,
    multimodal,
    pages,
    pictures,
    predict,
    predict_any,
    text,
    thumbnail,
    tokens,
    websocket,
)
from api.routes import metrics as metrics_route
from api.settings import Settings
from api.websocket import gunicorn_socket


def create_app(
    settings: Settings | None = None,
    analyser: Any = None,
    detector: Any = None,
    words: Any = None,
    viewer: Any = None,
) -> Flask:
    """Build the service: settings from the environment, and what analyses as it is, unless they are given."""
    settings = settings or Settings.from_environment()
    app = Flask("api")
    app.json.sort_keys = False  # type: ignore[attr-defined]
    services.attach(app, settings, analyser, detector, words, viewer)
    access_log.watch(app)
    metrics.watch(app)
    cors.watch(app)
    security_headers.watch(app)
    request_body.watch(app)
    errors.register(app)
    history_recorder.watch(app)

    documented = openapi.document(app)
    documented.register_blueprint(predict.blueprint)
    documented.register_blueprint(thumbnail.blueprint)
    documented.register_blueprint(pictures.blueprint)
    documented.register_blueprint(predict_any.blueprint)
    documented.register_blueprint(multimodal.blueprint)
    documented.register_blueprint(text.blueprint)
    documented.register_blueprint(logs.blueprint)
    documented.register_blueprint(auth.blueprint)
    documented.register_blueprint(tokens.blueprint)
    documented.register_blueprint(history.blueprint)
    documented.register_blueprint(connections.blueprint)
    documented.register_blueprint(health.blueprint)
    documented.register_blueprint(metrics_route.blueprint)
    app.register_blueprint(pages.blueprint)
    websocket.attach(app)
    socketio.serve(app)
    gunicorn_socket.watch(app)
    return app
