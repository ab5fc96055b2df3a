"""POST /api/text over Flask's own client, with the real reader."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from api import create_app
from api.settings import Settings
from moodreel.emotions import EKMAN
from tests.serving import KEY, STORE

HEADERS = {"x-api-key": KEY}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    folder: Path = tmp_path_factory.mktemp("text")
    settings = Settings(api_key=(KEY,), model_store=STORE, log_path=folder / "calls.db")
    yield create_app(settings, analyser=object(), detector=object()).test_client()


def post(client: FlaskClient, body: Any, query: str = "", headers: dict[str, str] = HEADERS) -> Any:
    return client.post(f"/api/text{query}", data=json.dumps(body), headers=headers)


def test_a_text_is_answered_with_its_likeliest_emotion_and_the_score_of_each(client: FlaskClient) -> None:
    response = post(client, {"text": "I can't stop crying, I miss her so much."})
    answer = response.json
    assert response.status_code == 200
    assert (answer["label"], answer["language"], answer["language_supported"]) == ("sadness", "en", True)
    assert list(answer["scores"]) == list(EKMAN)
    assert answer["score"] == answer["scores"]["sadness"] == max(answer["scores"].values())
    assert answer["labels"][0] == "sadness"
    assert answer["model"]["name"] == "text-emotion"
    assert "model;dur=" in response.headers["Server-Timing"]


def test_several_texts_are_answered_in_their_places_and_a_bad_one_spoils_none(client: FlaskClient) -> None:
    texts = ["thank you so much, this is wonderful", "", "x" * 20_001, "I am so scared"]
    response = post(client, {"text": texts})
    first, empty, long, last = response.json["results"]
    assert (response.status_code, response.json["count"]) == (200, 4)
    assert (first["label"], last["label"]) == ("joy", "fear")
    assert (empty["status"], empty["code"], long["status"], long["code"]) == (422, "text_empty", 413, "text_too_long")


def test_each_of_several_texts_is_read_as_it_is_alone(client: FlaskClient) -> None:
    texts = ["thank you!", "I am so scared of tomorrow, and nobody knows", "ok"]
    together = post(client, {"text": texts}).json["results"]
    for text, found in zip(texts, together, strict=True):
        alone = post(client, {"text": text}).json
        assert found["label"] == alone["label"]
        assert found["scores"] == pytest.approx(alone["scores"], abs=2e-4)
