"""Pages for people who open the service in a browser: the studio at `/`, its files, and the icon."""

from flask import Blueprint, Response, current_app, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from api.services import services

STUDIO_FOLDER = "studio/"
"""Folder of the studio's files in the static folder."""

blueprint = Blueprint("pages", __name__)


@blueprint.before_app_request
def hide_studio_files() -> None:
    """Answer 404 for the files of a studio that is off."""
    filename = (request.view_args or {}).get("filename", "") if request.endpoint == "static" else ""
    if filename.startswith(STUDIO_FOLDER) and not services().settings.studio:
        raise NotFound


@blueprint.get("/")
def home() -> BaseResponse:
    """Return the studio to browsers. Other clients, and all if `STUDIO=off`, are redirected to the documentation."""
    # `*/*`, which most other clients send, is no wish for a page.
    accepts_page = request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
    if accepts_page and services().settings.studio:
        response: BaseResponse = current_app.send_static_file(f"{STUDIO_FOLDER}index.html")
    else:
        response = redirect("/docs")
    response.vary.add("Accept")
    return response


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """Return the icon."""
    return current_app.send_static_file("favicon.svg")
