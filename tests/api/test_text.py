"""POST /api/text in one process, with the real text model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.services import services
from api.settings import Settings
from moodreel.emotions import EKMAN
from tests.support.server import KEY, STORE

HEADERS = {"x-api-key": KEY}
HAPPY_TEXT = "thank you so much, this is wonderful"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    folder: Path = tmp_path_factory.mktemp("text")
    settings = Settings(api_key=(KEY,), model_store=STORE, log_path=folder / "calls.db")
    yield create_app(settings, engine=object(), audiovisual_pipeline=object()).test_client()


def post(client: FlaskClient, body: Any, query: str = "", headers: dict[str, str] = HEADERS) -> Any:
    return client.post(f"/api/text{query}", data=json.dumps(body), headers=headers)


def test_a_text_is_answered_with_its_top_emotion_and_all_scores(client: FlaskClient) -> None:
    response = post(client, {"text": "I can't stop crying, I miss her so much."})
    answer = response.json
    assert response.status_code == 200
    assert (answer["label"], answer["language"], answer["language_supported"]) == ("sadness", "en", True)
    assert list(answer["scores"]) == list(EKMAN)
    assert answer["score"] == answer["scores"]["sadness"] == max(answer["scores"].values())
    assert answer["labels"][0] == "sadness"
    assert answer["model"]["name"] == "text-emotion"
    assert "model;dur=" in response.headers["Server-Timing"]


def test_several_texts_are_answered_in_order_and_an_error_affects_only_its_own_text(client: FlaskClient) -> None:
    texts = [HAPPY_TEXT, "", "x" * 20_001, "I am so scared"]
    response = post(client, {"text": texts})
    first, empty, long, last = response.json["results"]
    assert (response.status_code, response.json["count"]) == (200, 4)
    assert (first["label"], last["label"]) == ("joy", "fear")
    assert (empty["status"], empty["code"], long["status"], long["code"]) == (422, "text_empty", 413, "text_too_long")


def test_a_texts_scores_do_not_depend_on_the_others(client: FlaskClient) -> None:
    texts = ["thank you!", "I am so scared of tomorrow, and nobody knows", "ok"]
    together = post(client, {"text": texts}).json["results"]
    for text, found in zip(texts, together, strict=True):
        alone = post(client, {"text": text}).json
        assert found["label"] == alone["label"]
        assert found["scores"] == pytest.approx(alone["scores"], abs=2e-4)


def test_separators_inside_texts_do_not_count_as_body_parts(client: FlaskClient) -> None:
    response = post(client, {"text": ['well, [yes], {no}, "so", ' * 4000, HAPPY_TEXT]})
    assert response.status_code == 200, "not rejected for too many JSON parts"
    assert (response.json["results"][0]["code"], response.json["results"][1]["label"]) == ("text_too_long", "joy")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"text": ""}, 422, "text_empty"),
        ({"text": " \n"}, 422, "text_empty"),
        ({"text": "x" * 20_001}, 413, "text_too_long"),
        ({"text": None}, 422, "invalid_request"),
        ({"text": 5}, 422, "invalid_request"),
        ({"text": {"text": "x"}}, 422, "invalid_request"),
        ({"text": []}, 422, "invalid_request"),
        ({"text": ["x"] * 65}, 422, "invalid_request"),
        ({"text": ["x", 5]}, 422, "invalid_request"),
        ({"text": [["x"]]}, 422, "invalid_request"),
        ({"texts": "x"}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
        ("x", 422, "invalid_request"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_an_invalid_body_is_rejected_with_its_remedy(client: FlaskClient, body: Any, status: int, code: str) -> None:
    response = post(client, body)
    assert (response.status_code, response.json["code"]) == (status, code)
    assert response.mimetype == "application/problem+json"


def test_an_error_in_a_list_names_the_index(client: FlaskClient) -> None:
    assert post(client, {"text": ["fine", 5]}).json["errors"]["text"] == {"1": ["Not a valid string."]}


@pytest.mark.parametrize("text", [r"\ud83d I am happy", r"\u0000", r"a\u0000b", r"\u202e\u200f", r"\ud83d\ude02"])
def test_any_json_string_is_answered_or_rejected_without_another_error(client: FlaskClient, text: str) -> None:
    response = client.post("/api/text", data=f'{{"text": "{text}"}}', headers=HEADERS)
    assert response.status_code in (200, 422), response.text


def test_a_model_of_another_kind_is_not_found(client: FlaskClient) -> None:
    response = post(client, {"text": "fine"}, "?model=face-expression")
    assert (response.status_code, response.json["code"]) == (422, "invalid_request")
    assert response.json["errors"]["model"] == ["There is no model 'face-expression'; there are text-emotion."]
    assert post(client, {"text": "fine"}, "?model=text-emotion").status_code == 200


def test_a_missing_key_is_reported_before_body_errors(client: FlaskClient) -> None:
    assert post(client, {"text": 5}, headers={}).status_code == 401


def test_the_log_holds_the_answer_but_not_the_text(client: FlaskClient) -> None:
    secret = "zebrafinch is what I call my sadness, and I cried"
    assert post(client, {"text": secret}).status_code == 200
    assert post(client, {"text": [secret, ""]}).status_code == 200
    call_log = services(client.application).call_log
    several, single = call_log.select(limit=2).rows
    assert (single["endpoint"], single["prediction"], single["model"]) == ("/api/text", "sadness", "text-emotion")
    assert 0 < single["confidence"] <= 1
    assert (several["success"], several["prediction"], several["content_sha256"]) == (True, None, None)
    assert single["content_sha256"] is None, "the hash of a short text can be guessed"
    files = call_log.location.parent.iterdir()
    assert not any(b"zebrafinch" in path.read_bytes() for path in files)


@pytest.mark.parametrize("body", [[], None, "a text", 7])
def test_a_body_that_is_not_an_object_is_reported_as_body(client: FlaskClient, body: Any) -> None:
    answer = post(client, body).json
    assert (answer["code"], set(answer["errors"])) == ("invalid_request", {"body"})
    assert "body" in answer["detail"]
