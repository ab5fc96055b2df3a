"""The HTTP contract: answers, rejections, call log, metrics and OpenAPI document, over a real Gunicorn."""

import base64
import csv
import hashlib
import io
import json
import re
import socket
import sqlite3
import string
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate

from api.base64_input import decode_base64
from api.error_details import ERROR_DETAILS
from api.errors import STATUS
from api.schemas import videos
from api.settings import Settings
from moodreel.emotions import FIVE
from moodreel.faces import quality
from moodreel.pipelines import boomerang
from moodreel.storage.call_log import Call, CallLog
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import HEADERS, KEY, REAL_APP, ROOT, Server, video_body

pytestmark = pytest.mark.server

PROBLEM = "application/problem+json"
CLIP = bytes(range(256))
CONTENT = base64.b64encode(CLIP).decode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("contract")
    (folder / "tmp").mkdir()
    with Server(folder, TMPDIR=folder / "tmp", MAX_BODY_BYTES=8_000_000) as server:
        yield server


# --- answers ---


def test_predict_returns_the_emotion_of_the_face(server: Server) -> None:
    response = server.post("/predict", CLIP, format="mp4", fps=30)
    assert response.json() == {
        "emotion": "Happy",
        "confidence": 0.92,
        "probabilities": {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01},
        "face_coverage": 0.97,
        "certain": True,
        "quality": {
            "face_coverage": 0.97,
            "size": 310,
            "sharpness": 420.5,
            "light": 0.5235,
            "yaw": 6.1,
            "reason": None,
            "tip": None,
        },
        "frames_analysed": 24,
        "duration": 4.98,
        "width": 720,
        "height": 1280,
        "peak": 2.5,
        "track": 0,
        "model": {"name": "fake", "version": "1", "sha256": "0" * 64},
    }
    assert list(response.json()["probabilities"]) == ["Anger", "Happy", "Shock", "Neutral", "Sad"]
    assert response.headers["Server-Timing"] == "decode;dur=12.3, faces;dur=45.6, model;dur=7.8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_low_quality_answer_states_reasons_and_advice(server: Server) -> None:
    answer = server.post("/predict", b"doubt").json()
    assert (answer["emotion"], answer["certain"]) == ("Happy", False)
    assert (answer["quality"]["reason"], answer["quality"]["tip"]) == ("dark", "Turn towards the light.")


def test_one_text_gets_one_answer_and_several_get_a_list_of_results(server: Server) -> None:
    scores = {
        "anger": 0.02,
        "disgust": 0.01,
        "fear": 0.01,
        "joy": 0.94,
        "neutral": 0.05,
        "sadness": 0.01,
        "surprise": 0.31,
    }
    alone = server.call("POST", "/api/text", json={"text": "hello"})
    assert alone.json() == {
        "label": "joy",
        "score": 0.94,
        "scores": scores,
        "labels": ["joy", "surprise"],
        "language": "en",
        "language_supported": True,
        "model": {"name": "fake", "version": "1", "sha256": "0" * 64},
    }
    assert alone.headers["Server-Timing"] == "tokens;dur=0.4, language;dur=0.1, model;dur=5.6"
    several = server.call("POST", "/api/text", json={"text": ["hello", "raise TextTooLong"]}).json()
    assert (several["count"], several["results"][0]) == (2, alone.json())
    assert several["results"][1]["code"] == "text_too_long"


def test_a_timeline_is_added_on_request(server: Server) -> None:
    [sample] = server.call("POST", "/predict?detail=timeline", json=video_body(CLIP)).json()["timeline"]
    assert (sample["time"], sample["emotion"], sample["face"]) == (0.4, "Happy", {"box": [10, 20, 30, 40], "track": 0})
    assert sum(sample["probabilities"].values()) == pytest.approx(1)
    assert sample["weight"] == 0.25


def test_an_explanation_is_added_on_request(server: Server) -> None:
    answer = server.call("POST", "/predict?explain=true", json=video_body(CLIP)).json()
    assert answer["explanation"] == {
        "text": "lip corners up",
        "movements": [{"name": "lip corners up", "strength": 0.81, "weight": 0.64}],
    }
    for query in ("", "?explain=false"):
        assert "explanation" not in server.call("POST", f"/predict{query}", json=video_body(CLIP)).json()
    rejected = server.call("POST", "/predict?explain=perhaps", json=video_body(CLIP))
    assert (rejected.status_code, set(rejected.json()["errors"])) == (422, {"explain"})


def test_a_thumbnail_is_base64_with_its_metadata(server: Server) -> None:
    response = server.post("/thumbnail", CLIP)
    answer, prediction = response.json(), server.post("/predict", CLIP).json()
    assert base64.b64decode(answer.pop("poster")) == b"a poster"
    options = base64.b64decode(answer.pop("thumbnail")).decode()
    defaults = {"duration": 3.0, "size": 480, "output": "mp4", "moment": "expressive", "aspect": "original"}
    assert options == repr({**defaults, "fps": None})
    assert answer == {
        "output": "mp4",
        "width": 480,
        "height": 270,
        "duration": 3.0,
        "start": 1.0,
        "peak": 2.5,
        **{
            name: prediction[name]
            for name in ("emotion", "confidence", "probabilities", "certain", "quality", "track", "model")
        },
    }
    assert "encode;dur=9.0" in response.headers["Server-Timing"]


def test_a_thumbnail_follows_the_requested_options(server: Server) -> None:
    options = {"duration": 0.5, "size": 64, "output": "gif", "moment": "whole", "aspect": "square", "fps": 25}
    answer = server.post("/thumbnail", CLIP, **options).json()
    assert base64.b64decode(answer["thumbnail"]).decode() == repr({**options, "fps": 25.0})


def test_a_thumbnail_without_a_face_has_no_emotion(server: Server) -> None:
    answer = server.post("/thumbnail", b"no face").json()
    of_a_face = ("emotion", "confidence", "probabilities", "certain", "quality", "track")
    assert [answer[name] for name in of_a_face] == [None] * 6
    assert answer["model"]["name"] == "fake"


@pytest.mark.parametrize("path", ["/predict", "/thumbnail"])
def test_a_form_is_answered_like_json(server: Server, path: str) -> None:
    form = {"files": {"file": ("clip.mp4", CLIP, "video/mp4")}, "data": {"format": "mp4", "fps": "30"}}
    assert server.call("POST", path, **form).json() == server.post(path, CLIP, format="mp4", fps=30).json()


def test_a_form_takes_the_options_of_a_thumbnail(server: Server) -> None:
    options = {"duration": "1.5", "size": "320", "output": "webp", "moment": "whole"}
    answer = server.call("POST", "/thumbnail", files={"file": CLIP}, data=options).json()
    assert (answer["duration"], answer["width"], answer["output"]) == (1.5, 320, "webp")


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_uploads_are_never_written_to_disk(server: Server, size: int) -> None:
    folder = server.folder / "tmp"
    before = (folder.stat().st_mtime_ns, sorted(folder.iterdir()))
    assert server.call("POST", "/predict", files={"file": b"x" * size}).status_code == 200
    assert server.call("POST", "/predict", files={"file": b"x" * size}, data={"fps": "no"}).status_code == 422
    # The modification time shows files that were deleted again.
    assert (folder.stat().st_mtime_ns, sorted(folder.iterdir())) == before


@pytest.mark.parametrize("body", [{"format": None, "fps": None}, {"format": "MOV"}, {"fps": 29.97}, {"fps": "30"}])
def test_format_hints_are_optional_and_lenient(server: Server, body: dict[str, Any]) -> None:
    assert server.call("POST", "/predict", json={**video_body(CLIP), **body}).status_code == 200


def test_json_is_accepted_with_any_content_type(server: Server) -> None:
    body = json.dumps(video_body(CLIP))
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"):
        headers = {**HEADERS, "content-type": content_type}
        assert server.call("POST", "/predict", headers=headers, data=body).status_code == 200


ROUTES = {"POST": ["/predict", "/thumbnail", "/api/detect", "/api/predict", "/api/predict/multimodal"]}
ROUTES["GET"] = ["/health", "/api/health", "/ready", "/metrics", "/logs", "/auth/profile", "/api/connections/count"]


@pytest.mark.parametrize(("method", "path"), [(method, path) for method in ROUTES for path in ROUTES[method]])
def test_a_slash_at_the_end_of_a_path_makes_no_difference(server: Server, method: str, path: str) -> None:
    body = {"json": video_body(CLIP)} if method == "POST" else {}
    with_slash = server.call(method, f"{path}/", **body, allow_redirects=False)
    assert with_slash.status_code == server.call(method, path, **body).status_code == 200
    [row] = server.log_rows(request_id=with_slash.headers["x-request-id"])
    assert row["endpoint"] in (path, "/api/predict/"), "the log has one name for both"


def test_a_double_slash_is_redirected_without_a_scheme(server: Server) -> None:
    response = server.call("POST", "/api//text?model=fake", json={"text": "hello"}, allow_redirects=False)
    assert (response.status_code, response.headers["Location"]) == (308, "/api/text?model=fake")
    assert server.call("POST", "/api//text", json={"text": "hello"}).status_code == 200


# --- forms of base64 ---

BASE64_FORMS = {
    "standard": CONTENT,
    "without padding": CONTENT.rstrip("="),
    "URL-safe": base64.urlsafe_b64encode(CLIP).decode(),
    "URL-safe without padding": base64.urlsafe_b64encode(CLIP).decode().rstrip("="),
    "lines of 76": textwrap.fill(CONTENT, 76),
    "lines of 76 with CRLF": textwrap.fill(CONTENT, 76).replace("\n", "\r\n") + "\r\n",
    "data URL": f"data:video/mp4;base64,{CONTENT}",
    "data URL with parameters": f"data:video/webm;codecs=vp8,opus;base64,{CONTENT}",
    "data URL as Safari records": f'data:video/mp4;codecs="avc1.42E01E,mp4a.40.2";base64,{CONTENT}',
    "data URL, URL-safe, without padding": "data:;base64," + base64.urlsafe_b64encode(CLIP).decode().rstrip("="),
}


@pytest.mark.parametrize("form", BASE64_FORMS)
def test_every_form_of_base64_is_the_same_video(server: Server, form: str) -> None:
    response = server.call("POST", "/predict", json={"encoding": "base64", "content": BASE64_FORMS[form]})
    assert response.status_code == 200
    [row] = server.log_rows(request_id=response.headers["x-request-id"])
    [same] = server.log_rows(request_id=server.post("/predict", CLIP).headers["x-request-id"])
    assert row["content_sha256"] == same["content_sha256"]


def test_raw_line_breaks_in_a_json_body_are_accepted(server: Server) -> None:
    body = '{"encoding": "base64", "content": "' + textwrap.fill(CONTENT, 76) + '"}'
    assert server.call("POST", "/predict", data=body).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        "not base64!",
        "AAAA*AAA",
        "A",
        "AAAAA",
        "AAA==",
        "AA=",
        "AA===",
        "=AAA",
        "AA==AAAA",
        "AA+-",
        "ÄÖÜß",
        "AAAA\u2028",
        "AAAA\x00",
        "data:video/mp4,AAAA",
        "data:video/mp4;base64",
        "\ud800",
    ],
)
def test_invalid_base64_is_rejected(server: Server, content: str) -> None:
    response = server.call("POST", "/predict", data=json.dumps({"encoding": "base64", "content": content}))
    assert (response.status_code, response.json()["code"]) == (422, "bad_base64")


@settings(deadline=None)
@given(
    data=st.binary(max_size=200), width=st.integers(1, 80), safe=st.booleans(), padded=st.booleans(), url=st.booleans()
)
def test_base64_round_trips(data: bytes, width: int, safe: bool, padded: bool, url: bool) -> None:
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    text = "\r\n".join(textwrap.wrap(text, width))
    assert decode_base64(f"data:video/mp4;base64,{text}" if url else text) == data


@settings(deadline=None)
@given(st.text(alphabet=string.printable + "äé€", max_size=40))
def test_arbitrary_text_is_decoded_as_base64_or_rejected_without_another_error(text: str) -> None:
    try:
        decoded = decode_base64(text)
    except ValueError:
        return
    bare = re.sub(r"\s", "", re.sub(r"^\s*data:.*?;base64,", "", text, flags=re.IGNORECASE)).rstrip("=")
    assert base64.b64encode(decoded).decode().rstrip("=")[:-1] == bare.replace("-", "+").replace("_", "/")[:-1]


# --- rejections ---


ABSENT = object()


def _body(**changes: Any) -> dict[str, Any]:
    return {"json": {name: value for name, value in {**video_body(CLIP), **changes}.items() if value is not ABSENT}}


def _form(**fields: str) -> dict[str, Any]:
    return {"files": {"file": CLIP}, "data": fields}


REJECTIONS: list[tuple[str, str, str, dict[str, Any], int, str]] = [
    ("no body", "POST", "/predict", {}, 400, "bad_json"),
    ("incomplete JSON", "POST", "/predict", {"data": b'{"encoding": "base64", '}, 400, "bad_json"),
    ("not JSON", "POST", "/predict", {"data": b"emotion?"}, 400, "bad_json"),
    ("not UTF-8", "POST", "/predict", {"data": b'{"content": "\xff\xfe"}'}, 400, "bad_json"),
    ("NaN", "POST", "/predict", {"data": b'{"fps": NaN}'}, 400, "bad_json"),
    ("deep JSON", "POST", "/predict", {"data": b"[" * 100_000}, 400, "bad_json"),
    ("empty text", "POST", "/api/text", {"json": {"text": ""}}, 422, "text_empty"),
    ("text is a number", "POST", "/api/text", {"json": {"text": 5}}, 422, "invalid_request"),
    ("too many texts", "POST", "/api/text", {"json": {"text": ["x"] * 65}}, 422, "invalid_request"),
    ("text too long", "POST", "/api/text", {"json": {"text": "raise TextTooLong"}}, 413, "text_too_long"),
    ("too many JSON parts", "POST", "/predict", {"data": b'{"a": [' + b"1," * 10_000 + b"1]}"}, 400, "bad_json"),
    ("number with 5000 digits", "POST", "/predict", {"data": b'{"fps": ' + b"9" * 5000 + b"}"}, 400, "bad_json"),
    ("body is a list", "POST", "/predict", {"json": []}, 422, "invalid_request"),
    ("body is a string", "POST", "/predict", {"json": "video"}, 422, "invalid_request"),
    ("body is null", "POST", "/predict", {"json": None, "data": b"null"}, 422, "invalid_request"),
    ("no encoding", "POST", "/predict", _body(encoding=ABSENT), 422, "invalid_request"),
    ("unknown encoding", "POST", "/predict", _body(encoding="hex"), 422, "invalid_request"),
    ("no content", "POST", "/predict", _body(content=ABSENT), 422, "invalid_request"),
    ("content is null", "POST", "/predict", _body(content=None), 422, "invalid_request"),
    ("content is a number", "POST", "/predict", _body(content=5), 422, "invalid_request"),
    ("unknown format", "POST", "/predict", _body(format="exe"), 422, "invalid_request"),
    ("format is a number", "POST", "/predict", _body(format=4), 422, "invalid_request"),
    ("fps is text", "POST", "/predict", _body(fps="fast"), 422, "invalid_request"),
    ("fps is a list", "POST", "/predict", _body(fps=[30]), 422, "invalid_request"),
    ("fps is true", "POST", "/predict", _body(fps=True), 422, "invalid_request"),
    ("fps is zero", "POST", "/predict", _body(fps=0), 422, "invalid_request"),
    ("fps is negative", "POST", "/predict", _body(fps=-1), 422, "invalid_request"),
    ("misspelt field", "POST", "/predict", _body(contnet="x"), 422, "invalid_request"),
    ("unknown detail", "POST", "/predict?detail=all", _body(), 422, "invalid_request"),
    ("unknown model", "POST", "/predict?model=nobody", _body(), 422, "invalid_request"),
    ("path as model", "POST", "/predict?model=../../etc/passwd", _body(), 422, "invalid_request"),
    ("form without file", "POST", "/predict", {"files": {"clip": CLIP}}, 422, "invalid_request"),
    ("form with invalid fps", "POST", "/predict", _form(fps="x"), 422, "invalid_request"),
    ("loop too short", "POST", "/thumbnail", _body(duration=0.4), 422, "invalid_request"),
    ("loop too long", "POST", "/thumbnail", _body(duration=10.1), 422, "invalid_request"),
    ("size too small", "POST", "/thumbnail", _body(size=63), 422, "invalid_request"),
    ("size too large", "POST", "/thumbnail", _body(size=1081), 422, "invalid_request"),
    ("size is not an integer", "POST", "/thumbnail", _body(size=480.5), 422, "invalid_request"),
    ("size of 5000 digits", "POST", "/thumbnail", _body(size="9" * 5000), 422, "invalid_request"),
    ("size of 5000 digits in the query", "POST", f"/thumbnail?size={'9' * 5000}", _body(), 422, "invalid_request"),
    (
        "size of 5000 digits in a form",
        "POST",
        "/predict",
        _form(**{"thumbnail.size": "9" * 5000}),
        422,
        "invalid_request",
    ),
    ("unknown output", "POST", "/thumbnail", _body(output="avi"), 422, "invalid_request"),
    ("unknown moment", "POST", "/thumbnail", _body(moment="boring"), 422, "invalid_request"),
    (
        "raw video",
        "POST",
        "/predict",
        {"data": CLIP, "headers": {**HEADERS, "content-type": "video/mp4"}},
        415,
        "unsupported_media",
    ),
    (
        "gzip",
        "POST",
        "/predict",
        {"data": CLIP, "headers": {**HEADERS, "content-encoding": "gzip"}},
        415,
        "unsupported_media",
    ),
    ("empty video", "POST", "/predict", _body(content=""), 415, "unsupported_media"),
    ("invalid status_code", "GET", "/logs?status_code=ok", {}, 422, "invalid_request"),
    ("invalid success", "GET", "/logs?success=perhaps", {}, 422, "invalid_request"),
    ("success is a number", "GET", "/logs", {"json": {"success": 1}}, 422, "invalid_request"),
    ("invalid start_date", "GET", "/logs?start_date=yesterday", {}, 422, "invalid_request"),
    ("invalid end_date", "GET", "/logs?end_date=2025-02-30", {}, 422, "invalid_request"),
    ("limit is no whole number", "GET", "/logs", {"json": {"limit": 2.5}}, 422, "invalid_request"),
    ("limit is true", "GET", "/logs", {"json": {"limit": True}}, 422, "invalid_request"),
    ("limit is zero", "GET", "/logs?limit=0", {}, 422, "invalid_request"),
    ("limit too high", "GET", "/logs?limit=1001", {}, 422, "invalid_request"),
    ("invalid cursor", "GET", "/logs?cursor=xyz", {}, 422, "invalid_request"),
    ("misspelt filter", "GET", "/logs?client-id=ios", {}, 422, "invalid_request"),
    ("filters are a list", "GET", "/logs", {"json": [1]}, 422, "invalid_request"),
    ("filters are not JSON", "GET", "/logs", {"data": b"{"}, 400, "bad_json"),
    ("filters in query and body", "GET", "/logs?limit=5", {"json": {"success": "True"}}, 400, "ambiguous_filters"),
    ("unknown path", "GET", "/nowhere", {}, 404, "not_found"),
    ("GET /api/detect", "GET", "/api/detect", {}, 405, "method_not_allowed"),
    ("path traversal", "GET", "/static/../settings.py", {}, 404, "not_found"),
    ("GET /predict", "GET", "/predict", {}, 405, "method_not_allowed"),
    ("POST /logs", "POST", "/logs", {}, 405, "method_not_allowed"),
    ("DELETE /health", "DELETE", "/health", {}, 405, "method_not_allowed"),
]


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"), [row[1:] for row in REJECTIONS], ids=[row[0] for row in REJECTIONS]
)
def test_a_rejection_is_a_problem_with_a_stable_code(
    server: Server, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(server.call(method, path, **options), status, code)


DOMAIN_ERRORS = {
    "UnsupportedMedia": (415, "unsupported_media"),
    "VideoCorrupt": (422, "video_corrupt"),
    "VideoTooShort": (422, "video_too_short"),
    "VideoTooLong": (413, "video_too_long"),
    "VideoTooBig": (413, "video_too_big"),
    "NoFace": (422, "no_face"),
    "Overloaded": (503, "overloaded"),
}


@pytest.mark.parametrize("path", ["/predict", "/thumbnail"])
@pytest.mark.parametrize("name", DOMAIN_ERRORS)
def test_each_clip_error_has_its_own_code(server: Server, path: str, name: str) -> None:
    status, code = DOMAIN_ERRORS[name]
    body = assert_problem(server.post(path, f"raise {name}".encode()), status, code)
    if status < 500:
        assert body["detail"] == "A sentence for the caller. Do this next."


def test_a_damaged_model_is_told_apart_from_a_bug_and_what_is_wrong_with_it_is_in_the_log(server: Server) -> None:
    body = assert_problem(server.post("/predict", b"raise ModelInvalid"), 503, "model_missing")
    assert body["detail"].startswith("The files of this model are damaged on the server. Choose another model")
    assert "A sentence for the caller. Do this next." in server.output


@pytest.mark.parametrize("path", ["/predict", "/thumbnail"])
def test_an_unexpected_exception_is_shown_in_the_log_only(server: Server, path: str) -> None:
    body = assert_problem(server.post(path, b"crash"), 500, "internal")
    assert "RuntimeError: /a/secret/path" in server.output
    assert body["request_id"] in server.output


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (b"GET", 400, "bad_request"),
        (b"GET /health HTTP/7.0", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00", 400, "bad_request"),
        (b"GET /health HTTP/1.1\r\nx api key: unlogged", 400, "bad_header"),
        (b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2", 400, "bad_header"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1", 414, "uri_too_long"),
        (b"POST /predict HTTP/1.1\r\nExpect: magic", 417, "expectation_failed"),
        (b"GET /health HTTP/1.1" + b"\r\na: 1" * 101, 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nx-large: " + b"a" * 9000, 431, "headers_too_large"),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: zip", 501, "not_implemented"),
    ],
)
def test_what_is_no_http_is_a_problem_too(server: Server, request_head: bytes, status: int, code: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request_head + b"\r\n\r\n")
        answer = HTTPResponse(connection)
        answer.begin()
        body = json.loads(answer.read())
    assert (answer.status, body["status"], body["code"]) == (status, status, code)
    assert body["detail"] == ERROR_DETAILS[code] or code == "bad_header"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["Content-Type"] == PROBLEM
    assert answer.headers["Connection"] == "close"
    assert "unlogged" not in server.output
    [row] = server.log_rows(request_id=body["request_id"])
    assert (row["method"], row["endpoint"], row["status_code"], row["error"]) == ("-", "-", status, code)


def assert_problem(response: requests.Response, status: int, code: str) -> dict[str, Any]:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code)
    assert response.headers["Content-Type"] == PROBLEM
    assert body["status"] == status == STATUS[code]
    assert body["request_id"] == response.headers["x-request-id"]
    assert {"type", "title", "detail"} <= body.keys()
    assert ("errors" in body) == (code == "invalid_request")
    assert not re.search(rf"Traceback|File \"|{ROOT}|/a/secret|\.py\b|site-packages|Errno", response.text)
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    assert ("Allow" in response.headers) == (status == 405)
    return body


def test_a_schema_error_has_a_message_for_each_field(server: Server) -> None:
    body = server.call("POST", "/thumbnail", **_body(size=5, output="avi", content=ABSENT)).json()
    assert body["errors"].keys() == {"size", "output", "content"}
    assert all(isinstance(message, str) for messages in body["errors"].values() for message in messages)
    assert body["detail"].startswith("Correct ")
    alone = server.call("POST", "/thumbnail", **_body(size=5)).json()
    assert alone["detail"].startswith("size: Must be ")


PHOTO = synthetic_image.encode_image(synthetic_frames.noise_frames(1)[0])
VIDEO = synthetic_video.encode_video(synthetic_frames.counter_frames(3))
NO_DATE = {"x-api-key": KEY}
SENTENCES: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("photo to /predict", "POST", "/predict", {"files": {"file": PHOTO}}, "Send pictures to POST /api/detect"),
    ("photo to /thumbnail", "POST", "/thumbnail", {"json": video_body(PHOTO)}, "Send pictures to POST /api/detect"),
    ("video to /api/detect", "POST", "/api/detect", {"files": {"file": VIDEO}}, "Send videos to POST /predict"),
    ("empty file", "POST", "/predict", {"files": {"file": b""}}, "has 0 bytes. Send a video."),
    ("empty picture", "POST", "/api/detect", {"json": video_body(b"")}, "has 0 bytes. Send a picture."),
    ("other part", "POST", "/predict", {"files": {"video": CLIP}}, "in another part, video: name that part file."),
    ("text part", "POST", "/predict", {"files": {"file": (None, "AAAA")}}, "file: The part is text. Send it as a file"),
    ("large text part", "POST", "/predict", {"files": {"file": (None, "A" * 600_000)}}, "in its Content-Disposition."),
    ("many parts", "POST", "/api/detect/batch", {"files": [("file", b"")] * 1001}, "or over 1000 parts."),
    ("too large form", "POST", "/predict", {"files": {"file": b"x" * 8_000_001}}, "The body may have at most 8 MB."),
    (
        "no boundary",
        "POST",
        "/predict",
        {"data": b"--x--", "headers": {**HEADERS, "content-type": "multipart/form-data"}},
        "file: The form has no parts: the boundary in its Content-Type is missing or wrong",
    ),
    (
        "option as a file",
        "POST",
        "/thumbnail",
        {"files": {"file": CLIP, "size": ("blob", "240")}},
        "size: Only the part file is a file. Send an option as text",
    ),
    (
        "other parts of a batch",
        "POST",
        "/api/detect/batch",
        {"files": [("file[]", PHOTO)] * 2},
        "file: The form has the file in another part, file[]: name that part file.",
    ),
    (
        "part of a batch with another name",
        "POST",
        "/api/detect/batch",
        {"files": [("file", PHOTO), ("file2", PHOTO)]},
        "file2: Only the part file is a file.",
    ),
    (
        "item that is no object",
        "POST",
        "/api/detect/batch",
        {"json": {"pictures": ["AAAA"]}},
        "pictures.0: Not a JSON object.",
    ),
    ("no part", "POST", "/predict", {"files": {"fps": (None, "30")}}, "file: The form has no such part."),
    ("two files", "POST", "/predict", {"files": [("file", CLIP), ("file", CLIP)]}, "file: There are 2. Send one file"),
    ("list", "POST", "/predict", {"json": ["AAAA"]}, "body: Not a JSON object."),
    ("filters that are no JSON", "GET", "/logs", {"data": "status_code=200"}, 'such as {"status_code": 200}.'),
    ("other format", "POST", "/predict", {"json": {**video_body(CLIP), "format": "ogv"}}, "3gp, gif. Correct it"),
    ("no body", "POST", "/predict", {}, "The body is empty. Send a JSON object, such as"),
    ("no key", "POST", "/predict", {"headers": {}}, "Send an API key in the x-api-key header."),
    ("wrong key", "POST", "/predict", {"headers": {"x-api-key": "k"}}, "This service has no such API key"),
    ("no date", "POST", "/predict", {"headers": NO_DATE}, "Send the date header, or x-date from a browser"),
    ("bad date", "GET", "/logs", {"headers": {**NO_DATE, "date": "now"}}, "The date header is not a date in ISO 8601"),
    (
        "bad x-date",
        "GET",
        "/logs",
        {"headers": {**NO_DATE, "x-date": "now"}},
        "The x-date header is not a date in ISO 8601",
    ),
    (
        "too large",
        "POST",
        "/predict",
        {"data": b"x" * 8_000_001},
        "The body may have at most 8 MB. Send a shorter clip, or",
    ),
    (
        "WebSocket",
        "GET",
        "/health",
        {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}},
        "There is no WebSocket at this address. The one for texts is /api/ws.",
    ),
    ("large token", "POST", "/auth/verify-token", {"data": b"x" * 20_000}, "The body may have at most 16384 bytes."),
]


@pytest.mark.parametrize(
    ("method", "path", "options", "sentence"), [row[1:] for row in SENTENCES], ids=[row[0] for row in SENTENCES]
)
def test_each_usual_mistake_has_a_sentence_of_its_own(
    server: Server, method: str, path: str, options: dict[str, Any], sentence: str
) -> None:
    assert sentence in server.call(method, path, **options).json()["detail"]


def test_a_form_without_a_length_is_too_large_all_the_same(server: Server) -> None:
    form = requests.Request("POST", server.url, files={"file": b"x" * 8_000_001}).prepare()
    headers = {**HEADERS, "content-type": form.headers["content-type"]}
    assert_problem(server.call("POST", "/predict", headers=headers, data=iter([form.body])), 413, "too_large")


def test_a_file_of_the_other_kind_is_the_problem_of_one_item_of_a_batch(server: Server) -> None:
    files = [("file", PHOTO), ("file", VIDEO), ("file", b"")]
    results = server.call("POST", "/api/detect/batch", files=files).json()["results"]
    assert results[0]["emotion"] == "happy"
    assert "POST /predict" in results[1]["detail"] and "0 bytes" in results[2]["detail"]


def test_a_minute_of_720p_fits_into_the_limits() -> None:
    defaults = Settings(api_key=("k",))
    assert defaults.max_body_bytes > 60_000_000 * 4 / 3, "60 MB is Apple's figure for a minute of 720p in H.264"
    assert defaults.max_seconds >= 60 and defaults.max_frames >= 60 * 60
    assert defaults.max_total_pixels >= 60 * 60 * 1280 * 720


# --- the call log ---


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, database_settings: dict[str, str]) -> Iterator[Server]:
    """Run a server with six known calls in its log."""
    with Server(tmp_path_factory.mktemp("logged"), **database_settings) as server:
        for number, (client, data) in enumerate(
            [("ios", b"a"), ("ios", b"raise NoFace"), ("web", b"b"), ("=1+1", b"c")]
        ):
            headers = {**HEADERS, "x-client-id": client, "x-request-id": f"r{number}"}
            server.call("POST", "/predict", headers=headers, json=video_body(data))
        requests.post(f"{server.url}/predict", headers={"x-request-id": "unauthenticated"}, timeout=30)
        requests.get(f"{server.url}/nowhere%0A%1Bc?secret=1", headers={"x-request-id": "unknown-path"}, timeout=30)
        yield server


def test_a_call_is_logged_with_its_cost_but_without_its_media(logged: Server) -> None:
    [row] = logged.log_rows(request_id="r0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", row["timestamp"])
    assert (row["method"], row["endpoint"], row["status_code"], row["success"]) == ("POST", "/predict", 200, True)
    assert (row["client_id"], row["prediction"], row["confidence"]) == ("ios", "Happy", 0.92)
    assert (row["video_seconds"], row["frames"], row["model"], row["error"]) == (4.98, 24, "fake", None)
    assert row["bytes_in"] == len(json.dumps(video_body(b"a")))
    assert row["bytes_out"] > 100
    assert row["timings"] == {"decode": 12.3, "faces": 45.6, "model": 7.8}
    assert re.fullmatch(r"key-[0-9a-f]{8}", row["caller"])
    assert row["worker"] in [worker.pid for worker in logged.workers]
    assert KEY not in json.dumps(logged.log_rows())
    assert "secret" not in json.dumps(logged.log_rows())


@pytest.mark.parametrize(
    ("filters", "request_ids"),
    [
        ({"status_code": "422"}, ["r1"]),
        ({"status_code": 422}, ["r1"]),
        ({"success": "False"}, ["unknown-path", "unauthenticated", "r1"]),
        ({"success": False}, ["unknown-path", "unauthenticated", "r1"]),
        ({"success": "True", "endpoint": "/predict"}, ["r3", "r2", "r0"]),
        ({"success": True, "client_id": "ios"}, ["r0"]),
        ({"client_id": "ios"}, ["r1", "r0"]),
        ({"endpoint": "/nowhere%0A%1Bc"}, ["unknown-path"]),
        ({"request_id": "unauthenticated"}, ["unauthenticated"]),
        ({"prediction": "Happy", "limit": 2}, ["r3", "r2"]),
        ({"prediction": "Happy", "limit": "2"}, ["r3", "r2"]),
        ({"start_date": "2001-01-01", "end_date": "2001-12-31"}, []),
        ({"start_date": "2999-01-01T00:00:00+02:00"}, []),
        ({"end_date": "2999-01-01", "prediction": "Happy"}, ["r3", "r2", "r0"]),
    ],
)
@pytest.mark.parametrize("place", ["json", "params"])
def test_filters_are_accepted_in_body_or_query(
    logged: Server, place: str, filters: dict[str, Any], request_ids: list[str]
) -> None:
    answer = logged.call("GET", "/logs", **{place: filters}).json()
    assert [row["request_id"] for row in answer["logs"]] == request_ids
    assert answer["count"] == len(request_ids)


def test_a_time_range_includes_both_ends(logged: Server) -> None:
    first, last = logged.log_rows(request_id="r1")[0]["timestamp"], logged.log_rows(request_id="r2")[0]["timestamp"]
    rows = logged.log_rows(start_date=first, end_date=last, endpoint="/predict")
    assert [row["request_id"] for row in rows] == ["r2", "r1"]
    assert logged.log_rows(start_date=first, end_date=first)[0]["request_id"] == "r1"


def test_an_empty_body_is_ignored_if_the_query_has_filters(logged: Server) -> None:
    assert logged.call("GET", "/logs?client_id=web", json={}).json()["count"] == 1


def test_rejected_calls_are_logged(logged: Server) -> None:
    by_id = {row["request_id"]: row for row in logged.log_rows(success="False")}
    unauthenticated, unknown = by_id["unauthenticated"], by_id["unknown-path"]
    assert (unauthenticated["status_code"], unauthenticated["error"]) == (401, "unauthorized")
    assert unauthenticated["caller"] is None
    assert (unknown["status_code"], unknown["error"]) == (404, "not_found")
    assert unknown["endpoint"] == "/nowhere%0A%1Bc", "a line break or a control code could fool an operator's terminal"
    assert by_id["r1"]["error"] == "no_face"


def test_csv_has_the_same_rows_and_escapes_formulas(logged: Server) -> None:
    response = logged.call("GET", "/logs?endpoint=/predict&limit=3", headers={**HEADERS, "Accept": "text/csv"})
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text)))
    same = logged.call("GET", "/logs?endpoint=/predict&limit=3").json()
    assert [row["request_id"] for row in rows] == [row["request_id"] for row in same["logs"]]
    assert list(rows[0]) == list(same["logs"][0])
    assert {row["client_id"] for row in rows if row["request_id"] == "r3"} == {"'=1+1"}
    assert response.headers["x-next-cursor"] == same["next_cursor"]


def test_pagination_returns_every_call_once_while_new_ones_arrive(logged: Server) -> None:
    log = CallLog(logged.log_location)
    for number in range(1100):
        log.write(Call.begin(request_id=f"page-{number}", method="GET", endpoint="/health"))
    log.close()
    before = {row["request_id"] for row in logged.log_rows(endpoint="/health")}
    received, cursor = [], None
    while True:
        page = logged.call(
            "GET", "/logs", json={"endpoint": "/health", "limit": 300} | ({"cursor": cursor} if cursor else {})
        )
        received += [row["request_id"] for row in page.json()["logs"]]
        requests.get(f"{logged.url}/health", timeout=30)
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
    assert len(received) == len(set(received)) == 1100
    assert before <= set(received)


# --- real clips and models ---


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("real")
    (folder / "tmp").mkdir()
    with Server(folder, REAL_APP, forked=True, TMPDIR=folder / "tmp", MAX_SECONDS=5, WEB_CONCURRENCY=1) as server:
        yield server


@pytest.fixture(scope="module")
def face() -> bytes:
    return synthetic_video.encode_video(synthetic_frames.face_frames(50))


def test_a_real_clip_is_predicted_and_logged(real: Server, face: bytes) -> None:
    response = real.call("POST", "/predict?detail=timeline&explain=true", json=video_body(face, format="mp4", fps=25))
    answer = response.json()
    assert answer["emotion"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert answer["confidence"] == answer["probabilities"][answer["emotion"]]
    assert tuple(answer["probabilities"]) == FIVE
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=0.001)
    assert (answer["duration"], answer["face_coverage"]) == (pytest.approx(2, abs=0.05), 1)
    assert (answer["certain"], answer["quality"]["reason"]) == (True, None)
    assert 80 < answer["quality"]["size"] < 160
    assert len(answer["timeline"]) == answer["frames_analysed"]
    assert answer["explanation"]["text"].startswith("lip corners up")
    assert re.fullmatch(r"[0-9a-f]{64}", answer["model"]["sha256"])
    assert re.findall(r"(\w+);dur=[\d.]+", response.headers["Server-Timing"]) == ["decode", "faces", "model"]
    [row] = real.log_rows(request_id=response.headers["x-request-id"])
    assert (row["prediction"], row["frames"]) == (answer["emotion"], answer["frames_analysed"])
    assert row["content_sha256"] == hashlib.sha256(face).hexdigest()


def test_a_real_form_is_answered_like_json(real: Server, face: bytes) -> None:
    assert real.call("POST", "/predict", files={"file": face}).json() == real.post("/predict", face).json()


def test_a_real_thumbnail_can_be_decoded(real: Server, face: bytes) -> None:
    response = real.post("/thumbnail", face, duration=1, size=160)
    answer = response.json()
    frames = synthetic_video.decode_frames(base64.b64decode(answer["thumbnail"]))
    assert {frame.shape for frame in frames} == {(120, 160, 3)} == {(answer["height"], answer["width"], 3)}
    assert base64.b64decode(answer["poster"]).startswith(b"\xff\xd8\xff")
    assert answer["emotion"] in FIVE
    assert "encode;dur=" in response.headers["Server-Timing"]


@pytest.mark.parametrize("output", ["webp", "gif"])
def test_a_real_thumbnail_has_the_requested_format(real: Server, face: bytes, output: str) -> None:
    answer = real.post("/thumbnail", face, duration=1, size=96, output=output).json()
    start = base64.b64decode(answer["thumbnail"])[:12]
    assert start.startswith({"webp": b"RIFF", "gif": b"GIF8"}[output])


def test_a_clip_without_a_face_is_rejected_but_has_a_thumbnail(real: Server) -> None:
    clip = synthetic_video.encode_video(synthetic_frames.noise_frames(20))
    assert_problem(real.post("/predict", clip), 422, "no_face")
    assert real.post("/thumbnail", clip, duration=1).json()["emotion"] is None


@pytest.mark.parametrize(
    ("clip", "status", "code"),
    [
        (b"", 415, "unsupported_media"),
        (bytes(range(256)) * 40, 415, "unsupported_media"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "unsupported_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "unsupported_media"),
        ("audio only", 415, "unsupported_media"),
        ("truncated", 422, "video_corrupt"),
        ("six seconds", 413, "video_too_long"),
    ],
)
def test_a_file_that_is_not_a_video_is_rejected(real: Server, clip: Any, status: int, code: str) -> None:
    clips = {
        "audio only": synthetic_video.encode_audio_only,
        "truncated": lambda: synthetic_video.encode_video(synthetic_frames.counter_frames(25))[:200],
        "six seconds": lambda: synthetic_video.encode_video(synthetic_frames.counter_frames(60), fps=10),
    }
    assert_problem(real.post("/predict", clips[clip]() if isinstance(clip, str) else clip), status, code)


def test_an_unknown_model_is_rejected_as_a_field_error(real: Server, face: bytes) -> None:
    body = assert_problem(real.call("POST", "/predict?model=nobody", json=video_body(face)), 422, "invalid_request")
    assert body["errors"].keys() == {"model"}


def test_media_are_not_written_to_disk(real: Server) -> None:
    files = {path.relative_to(real.folder) for path in real.folder.rglob("*") if path.is_file()}
    log = {Path("logs") / name for name in ("calls.db", "calls.db-wal", "calls.db-shm")}
    assert files - log == {Path("output.txt")}
    assert real.log_path.stat().st_size < 1_000_000


# --- health, metrics and documentation ---


def test_health_and_readiness_are_reported(server: Server) -> None:
    assert server.call("GET", "/health").json() == {"status": "ok"}
    assert server.call("GET", "/ready").json() == {"status": "ready", "prior": "diary"}


def test_without_a_writable_log_calls_are_answered_and_ready_reports_503(tmp_path: Path) -> None:
    with Server(tmp_path, WEB_CONCURRENCY=1) as server:
        assert server.post("/predict", CLIP).status_code == 200
        with sqlite3.connect(server.log_path) as db:
            db.execute("drop table calls")
            db.execute("drop table upkeep")
        response = server.post("/predict", CLIP)
        assert response.json()["emotion"] == "Happy"
        assert response.headers["x-request-id"]
        body = assert_problem(server.call("GET", "/ready"), 503, "not_ready")
        assert "log" in body["detail"]
        assert "The call log logs/calls.db cannot be written" in server.output
        assert re.search(r"^moodreel_call_log_failures_total [1-9]", server.call("GET", "/metrics").text, re.MULTILINE)
        assert_problem(server.call("GET", "/logs"), 503, "log_unavailable")


def test_metrics_are_summed_over_workers(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        posted, workers = 0, set()
        with ThreadPoolExecutor(8) as clients:
            while len(workers) < 2 and posted < 320:
                list(
                    clients.map(
                        lambda data: server.post("/predict", data), [b"sleep 0.05"] * 12 + [b"raise NoFace"] * 4
                    )
                )
                posted += 16
                workers = {row["worker"] for row in server.log_rows()}
        assert workers == {worker.pid for worker in server.workers}
        text = server.call("GET", "/metrics").text
        for line in (
            f'moodreel_requests_total{{endpoint="/predict",status="200"}} {posted * 3 / 4}',
            f'moodreel_requests_total{{endpoint="/predict",status="422"}} {posted / 4}',
            f'moodreel_request_seconds_count{{endpoint="/predict"}} {float(posted)}',
            f'moodreel_stage_seconds_count{{stage="faces"}} {posted * 3 / 4}',
            f'moodreel_predictions_total{{emotion="Happy"}} {posted * 3 / 4}',
            f'moodreel_errors_total{{code="no_face"}} {posted / 4}',
            f'moodreel_faces_bucket{{kind="video",le="1.0"}} {posted * 3 / 4}',
            f'moodreel_confidence_bucket{{kind="video",le="0.9"}} {0.0}',
            f'moodreel_confidence_count{{kind="video"}} {posted * 3 / 4}',
            f'moodreel_certain_total{{certain="true"}} {posted * 3 / 4}',
            f'moodreel_queue_seconds_count{{queue="requests"}} {float(posted)}',
            'moodreel_queue{queue="requests"} 0.0',
            "moodreel_requests_in_flight 1.0",
        ):
            assert line in text.splitlines()


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_documentation_loads_no_external_resources(server: Server, path: str) -> None:
    page = server.call("GET", path)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "//" not in re.sub(r"<!--.*?-->|/\*.*?\*/", "", page.text, flags=re.DOTALL)
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert files
    for file in files:
        assert server.call("GET", file).status_code == 200


class TestOpenApi:
    @pytest.fixture
    def document(self, server: Server) -> dict[str, Any]:
        return server.call("GET", "/openapi.json").json()

    def test_it_is_valid(self, document: dict[str, Any]) -> None:
        validate(document)

    def test_it_has_the_routes_of_the_contract(self, document: dict[str, Any]) -> None:
        routes = {
            (path, method) for path, item in document["paths"].items() for method in item if method != "parameters"
        }
        assert routes >= {
            ("/predict", "post"),
            ("/thumbnail", "post"),
            ("/logs", "get"),
            ("/health", "get"),
            ("/ready", "get"),
            ("/metrics", "get"),
            ("/auth/verify-token", "post"),
            ("/auth/refresh-token", "post"),
            ("/auth/profile", "get"),
            ("/auth/usage", "get"),
        }

    @pytest.mark.parametrize(("path", "method"), [("/predict", "post"), ("/thumbnail", "post"), ("/logs", "get")])
    def test_protected_routes_document_their_security_schemes(
        self, document: dict[str, Any], path: str, method: str
    ) -> None:
        operation = document["paths"][path][method]
        assert {"api_key": []} in operation["security"]
        scheme = document["components"]["securitySchemes"]["api_key"]
        assert (scheme["in"], scheme["name"]) == ("header", "x-api-key")
        headers = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
        assert headers - {"Idempotency-Key", "Prefer", "x-webhook-url"} == {
            "date",
            "x-date",
            "x-client-id",
            "x-request-id",
        }
        assert ("Idempotency-Key" in headers) == (method == "post")

    def test_every_tested_rejection_is_documented(self, document: dict[str, Any]) -> None:
        rows = [(row[2], row[1], row[4], row[5]) for row in REJECTIONS if row[4] not in (404, 405)]
        rows += [("/predict", "POST", status, code) for status, code in DOMAIN_ERRORS.values()]
        for path, method, status, code in rows:
            response = document["paths"][path.partition("?")[0]][method.lower()]["responses"][str(status)]
            content = response["content"][PROBLEM]
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert code in content["examples"]

    def test_answers_match_the_document(self, server: Server, document: dict[str, Any]) -> None:
        query = "/predict?detail=timeline&explain=true&thumbnail=true"
        prediction = server.call("POST", query, json=video_body(CLIP)).json()
        thumbnail = server.post("/thumbnail", CLIP).json()
        logs = server.call("GET", "/logs?limit=1").json()
        problem = server.call("GET", "/nowhere").json() | {"errors": {}}
        schemas = document["components"]["schemas"]
        for name, answer in (
            ("Prediction", prediction),
            ("Quality", prediction["quality"]),
            ("Loop", prediction["loop"]),
            ("Thumbnail", thumbnail),
            ("Logs", logs),
            ("Call", logs["logs"][0]),
            ("Problem", problem),
        ):
            assert answer.keys() == schemas[name]["properties"].keys()

    def test_it_lists_every_quality_reason_and_allows_null(self, document: dict[str, Any]) -> None:
        reason = document["components"]["schemas"]["Quality"]["properties"]["reason"]
        assert reason["enum"] == [*quality.TIPS, None]
        assert reason["nullable"]

    def test_it_documents_form_bodies(self, document: dict[str, Any]) -> None:
        form = document["paths"]["/thumbnail"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["required"] == ["file"]
        assert form["properties"].keys() == {
            "file",
            "format",
            "fps",
            "model",
            "duration",
            "size",
            "output",
            "moment",
            "aspect",
        }


def test_the_thumbnail_schema_accepts_the_boomerangs_outputs_and_moments() -> None:
    fields = videos.ThumbnailOptionsSchema().fields
    assert (fields["output"].validate.choices, fields["moment"].validate.choices) == (
        boomerang.OUTPUTS,
        boomerang.LOOP_SECTIONS,
    )


def test_the_quality_schema_has_the_reasons_in_their_order() -> None:
    assert videos.QualitySchema().fields["reason"].validate.choices == (*quality.TIPS, None)
