"""Options of the media routes: the same in a JSON body, a form and the query string; unknown ones are refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.server import Server, video_body

pytestmark = pytest.mark.server

CLIP = b"clip"
ROUTES = {
    "/predict": {"detail": "timeline", "explain": "true", "fps": "25", "model": "fake"},
    "/thumbnail": {"duration": "1.5", "size": "96", "output": "gif", "moment": "whole", "fps": "25", "model": "fake"},
    "/api/detect": {"draw": "true", "model": "fake"},
    "/api/detect/batch": {"model": "fake"},
    "/api/predict/": {"model": "fake"},
    "/api/predict/multimodal": {"fps": "25", "model": "fake"},
}
PLACES = ("json", "form", "query of json", "query of form")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("options"), WEB_CONCURRENCY=1) as server:
        yield server


def post(server: Server, path: str, place: str, options: dict[str, Any]) -> requests.Response:
    """Post a clip with options in one of `PLACES`."""
    query, fields = (options, {}) if place.startswith("query") else ({}, options)
    if place.endswith("form"):
        return server.call("POST", path, params=query, files={"file": CLIP}, data=fields)
    body = {"pictures": [video_body(CLIP)]} if path.endswith("batch") else video_body(CLIP)
    return server.call("POST", path, params=query, json={**body, **fields})


@pytest.mark.parametrize("path", ROUTES)
def test_options_are_the_same_in_every_place(server: Server, path: str) -> None:
    responses = [post(server, path, place, ROUTES[path]) for place in PLACES]
    assert [response.status_code for response in responses] == [200] * 4, responses[-1].text
    assert len({response.text for response in responses}) == 1
    assert responses[0].text != post(server, path, "json", {}).text or ROUTES[path].keys() <= {"model", "fps"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ROUTES)
def test_an_unknown_option_is_refused_with_the_nearest_known_one(server: Server, path: str, place: str) -> None:
    response = post(server, path, place, {"modle": "fake"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"] == {"modle": ["Unknown field. Did you mean model?"]}
    assert response.json()["detail"] == "modle: Unknown field. Did you mean model? Correct it and send it again."
    [message] = post(server, path, place, {"zzzz": "1"}).json()["errors"]["zzzz"]
    assert message.startswith("Unknown field. There are ") and "model" in message


@pytest.mark.parametrize(("sent", "known"), [("Duration", "duration"), ("out_put", "output"), ("sizes", "size")])
def test_a_misspelt_option_of_a_loop_is_recognized(server: Server, sent: str, known: str) -> None:
    errors = post(server, "/thumbnail", "form", {sent: "1"}).json()["errors"]
    assert errors == {sent: [f"Unknown field. Did you mean {known}?"]}


def test_an_option_in_body_and_query_is_ambiguous(server: Server) -> None:
    response = server.call("POST", "/thumbnail?size=96", json={**video_body(CLIP), "size": 128})
    assert (response.status_code, response.json()["errors"].keys()) == (422, {"size"})


@pytest.mark.parametrize(
    ("path", "name"), [("/predict", "content"), ("/api/text", "text"), ("/api/detect", "encoding")]
)
def test_what_is_analyzed_is_not_taken_from_the_url(server: Server, path: str, name: str) -> None:
    response = server.call("POST", f"{path}?{name}=QUJD", json={})
    assert (response.status_code, response.json()["errors"]) == (422, {name: ["Send it in the body."]})


def test_a_text_takes_its_model_in_body_or_query(server: Server) -> None:
    in_body = server.call("POST", "/api/text", json={"text": "hello", "model": "fake"})
    in_query = server.call("POST", "/api/text?model=fake", json={"text": "hello"})
    assert (in_body.status_code, in_body.text) == (200, in_query.text)
    refused = server.call("POST", "/api/text?mode=fake", json={"text": "hello"})
    assert refused.json()["errors"] == {"mode": ["Unknown field. Did you mean model?"]}


def test_filters_of_the_log_have_hints_too(server: Server) -> None:
    for options in ({"params": {"statuscode": "200"}}, {"json": {"statuscode": 200}}):
        errors = server.call("GET", "/logs", **options).json()["errors"]
        assert errors == {"statuscode": ["Unknown field. Did you mean status_code?"]}


def test_thousands_of_unknown_names_cost_no_time(server: Server) -> None:
    names = {f"durat{number}": 1 for number in range(4000)}
    response = server.call("POST", "/thumbnail", json={**video_body(CLIP), **names})
    hints = [message for [message] in response.json()["errors"].values() if "Did you mean" in message]
    assert (response.status_code, len(hints)) == (422, 8)


def test_every_option_is_documented_for_body_form_and_query(server: Server) -> None:
    document = server.call("GET", "/openapi.json").json()
    for path, options in ROUTES.items():
        operation = document["paths"][path]["post"]
        content = operation["requestBody"]["content"]
        schema = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        query = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
        assert options.keys() <= query
        assert not query & {"content", "encoding", "pictures"}
        assert query <= document["components"]["schemas"][schema]["properties"].keys()
        assert query <= content["multipart/form-data"]["schema"]["properties"].keys()


@pytest.mark.parametrize("place", ["query", "form"])
@pytest.mark.parametrize(
    ("path", "name"), [("/thumbnail", "size"), ("/predict", "thumbnail.size"), ("/api/detect", "draw")]
)
def test_a_repeated_option_is_refused(server: Server, path: str, name: str, place: str) -> None:
    options = [(name, "100"), (name, "200")]
    response = server.call(
        "POST",
        path,
        files={"file": CLIP},
        params=options if place == "query" else [],
        data=options if place == "form" else [],
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"] == {name: ["It was sent 2 times. Send it once."]}


@pytest.mark.parametrize(
    ("method", "path", "body", "errors"),
    [
        ("POST", "/thumbnail", '{"size": 100, "size": 200}', {"size": ["It was sent 2 times. Send it once."]}),
        ("POST", "/predict", '{"thumbnail": {"size": 1, "size": 2}}', {"size": ["It was sent 2 times. Send it once."]}),
        (
            "POST",
            "/predict?thumbnail=%7B%22size%22:1,%22size%22:2%7D",
            json.dumps(video_body(CLIP)),
            {"thumbnail": {"size": ["It was sent 2 times. Send it once."]}},
        ),
        ("POST", "/api/text", '{"text": "a", "text": "b"}', {"text": ["It was sent 2 times. Send it once."]}),
        ("GET", "/logs", '{"limit": 1, "limit": 2}', {"limit": ["It was sent 2 times. Send it once."]}),
    ],
)
def test_a_repeated_field_of_json_is_refused(
    server: Server, method: str, path: str, body: str, errors: dict[str, Any]
) -> None:
    response = server.call(method, path, data=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"] == errors


@pytest.mark.parametrize("path", ["/logs?limit=1&limit=2", "/auth/usage?tz=UTC&tz=Europe/Berlin"])
def test_a_repeated_filter_is_refused(server: Server, path: str) -> None:
    assert (
        server.call("GET", path)
        .json()["detail"]
        .endswith("It was sent 2 times. Send it once. Correct it and send it again.")
    )
