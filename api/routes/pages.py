"""What a browser asks for that is no part of the contract."""

from flask import Blueprint, Response, current_app, redirect
from werkzeug.wrappers import Response as BaseResponse

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def home() -> BaseResponse:
    """Send whoever opens the service in a browser to its documentation."""
    return redirect("/docs")


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """Give the tab its picture."""
    return current_app.send_static_file("favicon.svg")
