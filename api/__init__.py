"""HTTP: the only room that knows Flask."""

from typing import Any

from flask import Flask

from api import bodies, cors, errors, headers, keeping, live, metrics, openapi, request_log, services, sockets
from api.routes import (
    auth,
    connections,
    emotion,
    health,
    history,
    logs,
    multimodal,
    pages,
    pictures,
    predict,
    socket,
    text,
    thumbnail,
    tokens,
)
from api.routes import metrics as metrics_route
from api.settings import Settings


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
    request_log.watch(app)
    metrics.watch(app)
    cors.watch(app)
    headers.watch(app)
    bodies.watch(app)
    errors.register(app)
    keeping.watch(app)

    documented = openapi.document(app)
    documented.register_blueprint(predict.blueprint)
    documented.register_blueprint(thumbnail.blueprint)
    documented.register_blueprint(pictures.blueprint)
    documented.register_blueprint(emotion.blueprint)
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
    socket.attach(app)
    live.serve(app)
    sockets.watch(app)
    return app
