"""Pages for people who open the service in a browser."""

from flask import Blueprint, Response, current_app, redirect
from werkzeug.wrappers import Response as BaseResponse

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def home() -> BaseResponse:
    """Redirect to the documentation."""
    return redirect("/docs")


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """Return the icon."""
    return current_app.send_static_file("favicon.svg")
