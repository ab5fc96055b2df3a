"""The page and its files over HTTP: who gets it, its headers, compression, and `STUDIO=off`."""

import gzip
import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.settings import Settings
from tests.support.server import KEY, ROOT

STUDIO = ROOT / "api" / "static" / "studio"
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def client(folder: Path, **settings: object) -> FlaskClient:
    paths = {"log_path": folder / "calls.db", "presence_path": folder / "presence.db"}
    # No request of these tests needs a model.
    no_models = {"engine": object(), "text_pipeline": object(), "audiovisual_pipeline": object()}
    return create_app(Settings(api_key=(KEY,), **paths, **settings), **no_models).test_client()


@pytest.fixture
def browser_client(tmp_path) -> FlaskClient:
    return client(tmp_path)


def test_browsers_get_the_page_under_a_strict_policy(browser_client):
    response = browser_client.get("/", headers=BROWSER)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(
        policy.split("; ")
    )
    assert {"camera=(self)", "microphone=(self)", "geolocation=()"} <= set(
        response.headers["Permissions-Policy"].split(", ")
    )
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.vary.find("Accept") >= 0


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_other_clients_are_redirected_to_the_documentation(browser_client, accept):
    response = browser_client.get("/", headers={"accept": accept} if accept else {})
    assert (response.status_code, response.location) == (302, "/docs")


def test_a_studio_that_is_off_is_gone(tmp_path):
    off = client(tmp_path, studio=False)
    assert off.get("/", headers=BROWSER).location == "/docs"
    assert off.get("/static/studio/app.js").status_code == 404
    address = re.search(r"static/v-[^/]+/", client(tmp_path).get("/", headers=BROWSER).text)[0]
    assert off.get(f"/{address}studio/app.js").status_code == 404
    assert off.get("/static/favicon.svg").status_code == 200


def test_files_are_compressed_and_not_sent_again_while_they_are_the_same(browser_client):
    plain = browser_client.get("/static/studio/app.js")
    assert plain.data == (STUDIO / "app.js").read_bytes()
    packed = browser_client.get("/static/studio/app.js", headers={"accept-encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert packed.content_length == len(packed.data) < len(plain.data) / 2
    head = browser_client.head("/static/studio/app.js", headers={"accept-encoding": "gzip"})
    assert head.data == b""
    for name in ("Content-Encoding", "Content-Length", "ETag", "Vary"):
        assert head.headers[name] == packed.headers[name]
    again = {"accept-encoding": "gzip", "if-none-match": packed.headers["ETag"]}
    assert browser_client.get("/static/studio/app.js", headers=again).status_code == 304
    part = browser_client.get("/static/studio/app.js", headers={"accept-encoding": "gzip", "range": "bytes=0-9"})
    assert (part.status_code, part.data) == (206, plain.data[:10])


def test_what_waits_for_the_end_of_a_response_runs_once_and_after_a_compressed_file(browser_client):
    ended = []

    @browser_client.application.after_request
    def wait(response):
        response.call_on_close(lambda: ended.append(response.status_code))
        return response

    packed = browser_client.get("/static/studio/app.js", headers={"accept-encoding": "gzip"})
    assert ended == []
    assert gzip.decompress(packed.data)
    packed.close()
    assert ended == [200]


def test_the_files_of_one_version_are_kept_and_those_of_another_are_gone(browser_client):
    page = browser_client.get("/", headers=BROWSER)
    assert page.headers["Cache-Control"] == "no-cache"
    addresses = set(re.findall(r'"(static/[^"]+)"', page.text))
    [version] = {address.split("/")[1] for address in addresses}
    for address in addresses:
        response = browser_client.get(f"/{address}", headers={"accept-encoding": "gzip"})
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["Content-Encoding"] == "gzip"
        assert browser_client.get(f"/{address.replace(version, 'v-0123456789abcdef')}").status_code == 404
    assert browser_client.get("/static/studio/app.js").headers["Cache-Control"] == "no-cache"


def test_every_string_is_used_and_no_text_is_outside_of_the_strings_file():
    code = {path.name: path.read_text() for path in STUDIO.glob("*.js")}
    groups = json.loads((STUDIO / "strings" / "en.json").read_text())
    # These are chosen by a code or a label of the service.
    by_code = {"problems", "emotions", "tips", "camera", "screens"}
    unused = [
        f"{group}.{name}"
        for group, texts in groups.items()
        if group not in by_code
        for name in texts
        if not any(re.search(rf"\bS\.{group}\.{name}\b", text) for text in code.values())
    ]
    assert unused == []
    literal = re.compile(r">\s*[A-Z][a-z]+ [a-z]+[^<`$]*<")
    assert [name for name, text in code.items() if literal.search(text)] == []
