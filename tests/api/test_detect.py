"""/api/detect, /api/detect/batch and /api/predict/ over a real Gunicorn."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from api.schemas.images import MAX_IMAGES
from moodreel.emotions import SEVEN
from tests.api.test_contract import PROBLEM, assert_problem
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import DATE, KEY, REAL_APP, Server, video_body

pytestmark = pytest.mark.server

PATHS = ["/api/detect", "/api/detect/batch", "/api/predict/"]
SINGLE_PATHS = ["/api/detect", "/api/predict/"]
PROBABILITIES = {
    "happy": 0.9,
    "surprise": 0.04,
    "sad": 0.01,
    "anger": 0.01,
    "disgust": 0.01,
    "fear": 0.01,
    "neutral": 0.02,
}
DETECTION = {
    "emotion": "happy",
    "confidence": 0.9,
    "all_emotions": PROBABILITIES,
    "faces": [
        {
            "box": [10, 20, 30, 40],
            "emotion": "happy",
            "confidence": 0.9,
            "probabilities": PROBABILITIES,
            "certain": True,
            "quality": {
                "size": 310,
                "sharpness": 420.5,
                "light": 0.5235,
                "yaw": 6.1,
                "reason": None,
                "tip": None,
            },
        }
    ],
    "width": 300,
    "height": 400,
    "model": {"name": "fake", "version": "1", "sha256": "0" * 64},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("pictures"), MAX_BODY_BYTES=4_000_000) as server:
        yield server


def call(server: Server, path: str, *, method: str = "POST", **options: Any) -> requests.Response:
    """Call with a key and no date."""
    headers = {"x-api-key": KEY, **options.pop("headers", {})}
    return server.call(method, path, headers=headers, **options)


def batch(*contents: bytes) -> dict[str, Any]:
    return {"pictures": [{"content": base64.b64encode(content).decode()} for content in contents]}


def body(path: str, data: bytes = b"a picture") -> dict[str, Any]:
    return batch(data) if path.endswith("batch") else video_body(data)


@pytest.mark.parametrize(
    ("path", "hints"),
    [
        *[("/api/detect", {"format": name}) for name in ("jpg", "JPEG", "png", "heic", None)],
        *[("/api/predict/", hints) for hints in ({"format": "webp"}, {"format": "mov", "fps": 30}, {"fps": "29.97"})],
    ],
)
def test_hints_of_the_format_are_taken_as_for_videos(server: Server, path: str, hints: dict[str, Any]) -> None:
    assert call(server, path, json={**video_body(b"a picture"), **hints}).status_code == 200


def test_each_picture_of_a_batch_may_name_its_format(server: Server) -> None:
    pictures = [{"content": "YSBwaWN0dXJl", "format": "jpg"}, {"content": "YSBwaWN0dXJl", "format": "png"}]
    assert call(server, "/api/detect/batch", json={"pictures": pictures}).json()["count"] == 2


def test_a_format_that_is_no_pictures_is_refused(server: Server) -> None:
    response = call(server, "/api/detect", json={**video_body(b"a picture"), "format": "mp4"})
    assert_problem(response, 422, "invalid_request")


# --- one picture ---


def test_a_picture_gets_one_answer_for_each_face(server: Server) -> None:
    response = call(server, "/api/detect", json=body("/api/detect"))
    assert response.json() == DETECTION
    assert list(response.json()["all_emotions"]) == list(SEVEN)
    assert response.headers["Server-Timing"] == "decode;dur=1.2, faces;dur=3.4, model;dur=5.6"


def test_a_picture_without_a_face_is_answered_with_an_empty_list(server: Server) -> None:
    answer = call(server, "/api/detect", json=video_body(b"no face")).json()
    assert (answer["faces"], answer["emotion"], answer["confidence"], answer["all_emotions"]) == ([], None, None, {})


@pytest.mark.parametrize("path", PATHS)
def test_a_form_is_answered_like_json(server: Server, path: str) -> None:
    form = call(server, path, files={"file": ("photo.png", b"a picture", "image/png")})
    assert form.status_code == 200
    assert form.json() == call(server, path, json=body(path)).json()


def test_the_annotated_picture_is_returned_with_the_answer_or_alone(server: Server) -> None:
    answer = call(server, "/api/detect?draw=true", json=body("/api/detect")).json()
    assert base64.b64decode(answer.pop("picture")) == b"a JPEG"
    assert answer == DETECTION
    alone = call(server, "/api/detect?draw=true", json=body("/api/detect"), headers={"Accept": "image/jpeg"})
    assert (alone.headers["Content-Type"], alone.content) == ("image/jpeg", b"a JPEG")
    assert alone.headers["Server-Timing"]
    for accept in ("*/*", "application/json", "image/jpeg;q=0.5, application/json"):
        response = call(server, "/api/detect?draw=true", json=body("/api/detect"), headers={"Accept": accept})
        assert response.json()["picture"]


# --- a clip or a picture ---


@pytest.mark.parametrize("path", ["/api/predict/", "/api/predict"])
def test_predict_returns_only_the_emotion_with_or_without_a_trailing_slash(server: Server, path: str) -> None:
    response = call(server, path, files={"file": b"a picture or a clip"}, allow_redirects=False)
    assert response.json() == {"emotion": "happy", "confidence": 0.9, "all_emotions": PROBABILITIES}
    [row] = server.log_rows(request_id=response.headers["x-request-id"])
    assert (row["endpoint"], row["prediction"], row["frames"]) == ("/api/predict/", "happy", 24)
    assert row["video_seconds"] == 4.98


def test_a_picture_without_a_face_has_no_emotion_and_a_clip_is_rejected(server: Server) -> None:
    no_face = {"emotion": None, "confidence": None, "all_emotions": {}}
    assert call(server, "/api/predict/", json=video_body(b"no face")).json() == no_face
    assert_problem(call(server, "/api/predict/", json=video_body(b"raise NoFace")), 422, "no_face")


# --- several pictures ---


def test_a_batch_is_answered_in_order_with_errors_in_place(server: Server) -> None:
    contents = [b"one", b"raise ImageCorrupt", b"no face", b"", b"raise ImageTooBig", b"two"]
    response = call(server, "/api/detect/batch", json=batch(*contents))
    answer = response.json()
    assert (response.status_code, answer["count"]) == (200, 6)
    assert [result.get("code", result.get("emotion")) for result in answer["results"]] == [
        "happy",
        "picture_corrupt",
        None,
        "unsupported_media",
        "picture_too_big",
        "happy",
    ]
    assert answer["results"][0] == DETECTION
    problem = answer["results"][1]
    assert problem == {
        "type": "urn:moodreel:problem:picture_corrupt",
        "title": "Picture corrupt",
        "status": 422,
        "detail": "A sentence for the caller. Do this next.",
        "code": "picture_corrupt",
        "request_id": response.headers["x-request-id"],
    }


def test_invalid_base64_affects_only_its_own_item(server: Server) -> None:
    pictures = batch(b"one", b"two", b"three")
    pictures["pictures"][1]["content"] = "not base64!"
    results = call(server, "/api/detect/batch", json=pictures).json()["results"]
    assert [result.get("code") for result in results] == [None, "bad_base64", None]
    pictures["pictures"] = pictures["pictures"][1:2]
    assert call(server, "/api/detect/batch", json=pictures).json()["results"][0]["code"] == "bad_base64"


def test_a_form_may_contain_several_pictures(server: Server) -> None:
    files = [("file", (data.decode(), data)) for data in (b"one", b"no face", b"raise ImageCorrupt")]
    results = call(server, "/api/detect/batch", files=files).json()["results"]
    assert [result.get("code", result.get("emotion")) for result in results] == ["happy", None, "picture_corrupt"]


@pytest.mark.parametrize("encoding", ["json", "form"])
def test_up_to_32_pictures_are_accepted(server: Server, encoding: str) -> None:
    def send(count: int) -> requests.Response:
        if encoding == "json":
            return call(server, "/api/detect/batch", json=batch(*[b"one"] * count))
        return call(server, "/api/detect/batch", files=[("file", (f"{i}.jpg", b"one")) for i in range(count)])

    assert send(MAX_IMAGES).json()["count"] == MAX_IMAGES == 32
    for count in (33, 200):
        errors = assert_problem(send(count), 422, "invalid_request")["errors"]
        assert errors == {"pictures" if encoding == "json" else "file": ["Length must be between 1 and 32."]}


def test_too_many_pictures_are_rejected_without_decoding_them(server: Server) -> None:
    response = call(server, "/api/detect/batch", json={"pictures": [{}] * 4000})
    assert assert_problem(response, 422, "invalid_request")["errors"] == {
        "pictures": ["Length must be between 1 and 32."]
    }


# --- authentication and rejections ---


@pytest.mark.parametrize("path", PATHS)
def test_authentication_is_required_and_a_date_is_not(server: Server, path: str) -> None:
    assert call(server, path, json=body(path)).status_code == 200
    assert call(server, path, json=body(path), headers={"date": DATE}).status_code == 200
    assert_problem(call(server, path, json=body(path), headers={"date": "yesterday"}), 400, "bad_date")
    assert_problem(call(server, path, json=body(path), headers={"x-date": "yesterday"}), 400, "bad_date")
    assert_problem(call(server, path, json=body(path), headers={"x-api-key": "wrong"}), 401, "unauthorized")


def test_the_older_routes_still_require_a_date(server: Server) -> None:
    assert_problem(call(server, "/predict", json=video_body(b"clip")), 400, "bad_date")


RAW, GZIP = {"content-type": "image/jpeg"}, {"content-encoding": "gzip"}
REJECTIONS: list[tuple[str, str, dict[str, Any], int, str]] = [
    *[("not JSON", path, {"data": b"{"}, 400, "bad_json") for path in PATHS],
    *[("no body", path, {}, 400, "bad_json") for path in PATHS],
    *[("list", path, {"json": []}, 422, "invalid_request") for path in PATHS],
    *[("unknown model", f"{path}?model=nobody", {"json": body(path)}, 422, "invalid_request") for path in PATHS],
    *[("form without file", path, {"files": {"photo": b"x"}}, 422, "invalid_request") for path in PATHS],
    *[("raw picture", path, {"data": b"x", "headers": RAW}, 415, "unsupported_media") for path in PATHS],
    *[("gzip", path, {"json": body(path), "headers": GZIP}, 415, "unsupported_media") for path in PATHS],
    *[("overloaded", path, {"json": body(path, b"raise Overloaded")}, 503, "overloaded") for path in PATHS],
    *[("unexpected exception", path, {"json": body(path, b"crash")}, 500, "internal") for path in PATHS],
    *[("body too large", path, {"data": b"x" * 4_000_001}, 413, "too_large") for path in PATHS],
    *[("no content", path, {"json": {"encoding": "base64"}}, 422, "invalid_request") for path in PATHS],
    *[("no encoding", path, {"json": {"content": "AAAA"}}, 422, "invalid_request") for path in SINGLE_PATHS],
    *[
        ("invalid base64", path, {"json": {**video_body(b""), "content": "?"}}, 422, "bad_base64")
        for path in SINGLE_PATHS
    ],
    *[("empty picture", path, {"json": video_body(b"")}, 415, "unsupported_media") for path in SINGLE_PATHS],
    *[
        ("corrupt picture", path, {"json": video_body(b"raise ImageCorrupt")}, 422, "picture_corrupt")
        for path in SINGLE_PATHS
    ],
    *[
        ("picture too big", path, {"json": video_body(b"raise ImageTooBig")}, 413, "picture_too_big")
        for path in SINGLE_PATHS
    ],
    ("invalid draw", "/api/detect?draw=perhaps", {"json": body("")}, 422, "invalid_request"),
    ("empty batch", "/api/detect/batch", {"json": {"pictures": []}}, 422, "invalid_request"),
    ("batch of strings", "/api/detect/batch", {"json": {"pictures": ["AAAA"]}}, 422, "invalid_request"),
    ("batch is a string", "/api/detect/batch", {"json": {"pictures": "AAAA"}}, 422, "invalid_request"),
    ("unknown field", "/api/detect/batch", {"json": {**batch(b"x"), "draw": True}}, 422, "invalid_request"),
    ("picture without content", "/api/detect/batch", {"json": {"pictures": [{}]}}, 422, "invalid_request"),
]


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [row[1:] for row in REJECTIONS],
    ids=[f"{row[0]} {row[1]}" for row in REJECTIONS],
)
def test_a_rejection_is_a_documented_problem(
    server: Server, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(call(server, path, **options), status, code)
    document = server.call("GET", "/openapi.json").json()
    documented = document["paths"][path.partition("?")[0]]["post"]["responses"][str(status)]
    assert code in documented["content"][PROBLEM]["examples"]


# --- call log, metrics and OpenAPI document ---


def test_calls_are_logged_with_their_answers(server: Server) -> None:
    single = call(server, "/api/detect", json=video_body(b"one")).headers["x-request-id"]
    several = call(server, "/api/detect/batch", json=batch(b"one", b"", b"two")).headers["x-request-id"]
    [row] = server.log_rows(request_id=single)
    assert (row["endpoint"], row["prediction"], row["confidence"]) == ("/api/detect", "happy", 0.9)
    assert (row["model"], row["frames"], row["video_seconds"]) == ("fake", 1, None)
    assert row["timings"] == {"decode": 1.2, "faces": 3.4, "model": 5.6}
    assert row["content_sha256"] == hashlib.sha256(b"one").hexdigest()
    [row] = server.log_rows(request_id=several)
    assert (row["endpoint"], row["prediction"], row["frames"]) == ("/api/detect/batch", None, 3)
    assert (row["model"], row["content_sha256"], row["success"]) == ("fake", None, True)
    assert "/api/detect/batch" in server.call("GET", "/metrics").text


def test_health_is_also_served_at_the_path_of_the_older_service(server: Server) -> None:
    response = requests.get(f"{server.url}/api/health", timeout=30)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_answers_match_the_openapi_document(server: Server) -> None:
    document = server.call("GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    detection = call(server, "/api/detect?draw=true", json=body("/api/detect")).json()
    several = call(server, "/api/detect/batch", json=batch(b"one")).json()
    for name, answer in (
        ("Detection", detection),
        ("DetectedFace", detection["faces"][0]),
        ("FaceQuality", detection["faces"][0]["quality"]),
        ("DetectionBatch", several),
        ("Emotion", call(server, "/api/predict/", json=body("")).json()),
    ):
        assert answer.keys() == schemas[name]["properties"].keys()
    parts = schemas["DetectionBatch"]["properties"]["results"]["items"]["oneOf"]
    assert [part["$ref"].rpartition("/")[2] for part in parts] == ["Detection", "Problem"]
    assert document["paths"]["/api/health"]["get"]
    for path in PATHS:
        operation = document["paths"][path]["post"]
        assert operation["security"]
        assert "date" not in {parameter["name"] for parameter in operation["parameters"]}
    form = document["paths"]["/api/detect/batch"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["file"]["maxItems"] == 32


# --- real pictures and models ---


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("real-pictures")
    (folder / "tmp").mkdir()
    with Server(folder, REAL_APP, TMPDIR=folder / "tmp", WEB_CONCURRENCY=1, MAX_IMAGE_PIXELS=1_000_000) as server:
        yield server


def test_real_pictures_and_clips_are_answered(real: Server) -> None:
    smile = synthetic_image.encode_image(synthetic_frames.portrait())
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(10))
    response = call(real, "/api/detect?draw=true", files={"file": smile})
    answer = response.json()
    assert (answer["emotion"], len(answer["faces"])) == ("happy", 1)
    assert tuple(answer["all_emotions"]) == SEVEN
    assert re.findall(r"(\w+);dur=", response.headers["Server-Timing"]) == ["decode", "faces", "model", "encode"]
    assert Image.open(io.BytesIO(base64.b64decode(answer["picture"]))).size == (640, 640)
    [row] = real.log_rows(request_id=response.headers["x-request-id"])
    assert (row["prediction"], row["model"]) == ("happy", "face-expression")
    for data in (smile, clip):
        assert call(real, "/api/predict/", files={"file": data}).json()["emotion"] == "happy"
    large = synthetic_image.encode_image(np.zeros((1001, 1000, 3), np.uint8))
    pictures = batch(smile, b"<svg/>", large, smile[:3000], smile)
    results = call(real, "/api/detect/batch", json=pictures).json()["results"]
    assert [result.get("code", result.get("emotion")) for result in results] == [
        "happy",
        "unsupported_media",
        "picture_too_big",
        "picture_corrupt",
        "happy",
    ]
    assert results[0]["faces"] == results[4]["faces"]
    assert_problem(call(real, "/api/detect", json=video_body(clip)), 415, "unsupported_media")
    assert not re.search(r"base64|Traceback", real.output)
    files = [path for path in real.folder.rglob("*") if path.is_file()]
    assert {path.name.partition("-")[0] for path in files} == {"output.txt", "calls.db"}, "a picture was written"
    assert json.dumps(real.log_rows()).count("happy") >= 3
