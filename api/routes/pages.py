"""Pages for people who open the service in a browser: the studio at `/`, its files, and the icon."""

import hashlib
from functools import lru_cache
from pathlib import Path

from flask import Blueprint, Response, current_app, redirect, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as BaseResponse

from api.services import services

STUDIO_FOLDER = "studio/"
"""Folder of the studio's files in the static folder."""
_VERSIONED_FOLDERS = ("studio", "vendor/lit-html", "vendor/socket.io-client")
_YEAR = 31_536_000

blueprint = Blueprint("pages", __name__)


@blueprint.before_app_request
def hide_studio_files() -> None:
    """Answer 404 for the files of a studio that is off."""
    if (static_filename() or "").startswith(STUDIO_FOLDER) and not services().settings.studio:
        raise NotFound


@blueprint.get("/")
def home() -> BaseResponse:
    """Return the studio to browsers. Other clients, and all if `STUDIO=off`, are redirected to the documentation."""
    # `*/*`, which most other clients send, does not ask for a page.
    accepts_page = request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
    if accepts_page and services().settings.studio:
        page = (_static_folder() / STUDIO_FOLDER / "index.html").read_text(encoding="utf-8")
        # Its modules import each other by relative addresses, so that all are of one version.
        response: BaseResponse = Response(page.replace('="static/', f'="static/v-{_version()}/'), mimetype="text/html")
        response.cache_control.no_cache = True
    else:
        response = redirect("/docs")
    response.vary.add("Accept")
    return response


@blueprint.get("/static/v-<version>/<path:filename>")
def versioned(version: str, filename: str) -> Response:
    """Return a file of the studio as it is now; browsers keep it. The files of other versions are gone."""
    if version != _version():
        raise NotFound
    response = current_app.send_static_file(filename)
    response.headers["Cache-Control"] = f"public, max-age={_YEAR}, immutable"
    return response


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """Return the icon."""
    return current_app.send_static_file("favicon.svg")


def static_filename() -> str | None:
    """Return the name of the static file that is requested; None for any other request."""
    is_file = request.endpoint in ("static", "pages.versioned")
    return (request.view_args or {}).get("filename") if is_file else None


def _static_folder() -> Path:
    return Path(str(current_app.static_folder))


def _version() -> str:
    """Hash the files of the studio, which an upgrade may replace while the service runs."""
    paths = sorted(path for name in _VERSIONED_FOLDERS for path in (_static_folder() / name).rglob("*"))
    return _hash(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path.is_file()))


@lru_cache(1)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, *_ in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
