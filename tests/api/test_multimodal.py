"""POST /api/predict/multimodal in one process with random models, and over a real Gunicorn."""

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.registry import REGISTRY

from api.app import create_app
from api.schemas import multimodal
from api.schemas.multimodal import percentages
from api.services import services
from api.settings import Settings
from moodreel.emotions import EIGHT
from moodreel.models.model_card import MODALITIES
from moodreel.pipelines import clip_loader
from moodreel.pipelines.audiovisual import AudioVisualPipeline
from moodreel.pipelines.engine import Engine
from tests.api.test_contract import assert_problem
from tests.support import accounts, synthetic_audio, synthetic_frames, synthetic_video
from tests.support.audiovisual_models import write_model
from tests.support.server import KEY, REAL_APP, STORE, Server, assert_start_fails, video_body

PATH = "/api/predict/multimodal"
HEADERS = {"x-api-key": KEY}
BLACK = [np.zeros((48, 64, 3), np.uint8)] * 10


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load(STORE, wait_seconds=120)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_model(root / "faces-eight", modalities=["video"])
    write_model(root / "both")
    write_model(root / "research", commercial=False, licence="CC BY-NC-SA 4.0")
    return root


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, store: Path, engine: Engine) -> Flask:
    return make_app(tmp_path_factory.mktemp("service"), engine, model_store=store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def make_app(folder: Path, engine: Engine, pipeline: AudioVisualPipeline | None = None, **settings: Any) -> Flask:
    """Make an app that loads the models of its store, unless it gets the pipeline of another app."""
    settings = {"api_key": (KEY,), "log_path": folder / "calls.db", **settings}
    return create_app(Settings(**settings), engine=engine, text_pipeline=object(), audiovisual_pipeline=pipeline)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return synthetic_audio.encode_sine_clip(synthetic_frames.face_frames(40, 160, 120), 4, rate=44_100, layout="stereo")


def post(client: FlaskClient, data: bytes, query: str = "", **fields: Any) -> Any:
    return client.post(PATH + query, json=video_body(data, **fields), headers=HEADERS)


def log_row(client: FlaskClient, response: Any) -> dict[str, Any]:
    headers = {**HEADERS, "date": "2025-08-16T12:34:56Z"}
    query = {"request_id": response.headers["x-request-id"]}
    [row] = client.get("/logs", query_string=query, headers=headers).json["logs"]
    return row


# --- answers ---


def test_a_clip_is_answered_in_percent_with_the_modalities_used(client: FlaskClient, clip: bytes) -> None:
    response = post(client, clip, "?model=both", format="mp4", fps=10)
    answer = response.json
    assert response.status_code == 200
    assert answer["labels"] == list(EIGHT)
    assert len(answer["probs"]) == 8
    assert sum(answer["probs"]) == pytest.approx(100, abs=1e-9)
    best = int(np.argmax(answer["probs"]))
    assert answer["top1"] == {"label": EIGHT[best], "prob": answer["probs"][best]}
    assert answer["modalities"] == ["video", "audio"]
    assert answer["missing"] == {}
    assert [window["modalities"] for window in answer["windows"]] == [["video", "audio"]] * 2
    assert [sum(window["probs"]) for window in answer["windows"]] == pytest.approx([100, 100])
    assert answer["duration"] == pytest.approx(4, abs=0.1)
    assert answer["frames_analysed"] == 16
    assert (answer["model"]["name"], answer["commercial"], answer["licence"]) == ("both", True, "MIT")
    assert "mock" not in answer
    assert "X-Mock" not in response.headers
    for stage in ("decode", "faces", "sound", "model"):
        assert f"{stage};dur=" in response.headers["Server-Timing"]


def test_the_log_holds_the_answer_and_its_modalities_but_no_media(client: FlaskClient, clip: bytes) -> None:
    response = post(client, clip, "?model=both")
    row = log_row(client, response)
    assert (row["endpoint"], row["status_code"], row["model"]) == (PATH, 200, "both")
    assert (row["prediction"], row["modalities"]) == (response.json["top1"]["label"], "video,audio")
    assert row["confidence"] == pytest.approx(response.json["top1"]["prob"] / 100, abs=2e-4)
    assert row["content_sha256"] == hashlib.sha256(clip).hexdigest()
    headers = {**HEADERS, "date": "2025-08-16T12:34:56Z"}
    calls = client.get("/logs", query_string={"modalities": "video,audio"}, headers=headers).json["logs"]
    assert row["request_id"] in {call["request_id"] for call in calls}
    assert {call["modalities"] for call in calls} == {"video,audio"}


def test_a_form_is_answered_like_json(client: FlaskClient, clip: bytes) -> None:
    form = {"file": (io.BytesIO(clip), "clip.mp4", "video/mp4"), "format": "mp4"}
    answer = client.post(f"{PATH}?model=both", data=form, headers=HEADERS, content_type="multipart/form-data")
    assert answer.json == post(client, clip, "?model=both").json


RECORDINGS = {
    "AAC, stereo, in MP4": (
        synthetic_audio.encode_sine_clip(synthetic_frames.face_frames(10, 160, 120), 1, rate=44_100, layout="stereo"),
        2,
    ),
    "Opus in WebM": (
        synthetic_audio.encode_sine_clip(
            synthetic_frames.face_frames(10, 160, 120), 1, container="webm", video="libvpx", codec="libopus"
        ),
        2,
    ),
    "MP3": (synthetic_audio.encode_audio(synthetic_audio.sine(300, 1), container="mp3", codec="libmp3lame"), 1),
    "WAV of 8 kHz": (synthetic_audio.encode_audio(synthetic_audio.sine(300, 1, rate=8_000), rate=8_000), 1),
    "black video with audio": (synthetic_audio.encode_sine_clip(BLACK, 1), 1),
    "face without audio": (synthetic_video.encode_video(synthetic_frames.face_frames(10, 160, 120), fps=10), 1),
}


@pytest.mark.parametrize(("data", "count"), RECORDINGS.values(), ids=RECORDINGS.keys())
def test_the_available_modalities_are_used(client: FlaskClient, data: bytes, count: int) -> None:
    answer = post(client, data, "?model=both").json
    assert len(answer["modalities"]) == count
    assert len(answer["missing"]) == 2 - count


def test_the_default_model_uses_faces_and_reports_that_it_ignores_audio(client: FlaskClient, clip: bytes) -> None:
    answer = post(client, clip).json
    assert (answer["model"]["name"], answer["modalities"]) == ("faces-eight", ["video"])
    assert answer["missing"] == {"audio": "not_read"}


def test_concurrent_calls_get_their_own_answers(app: Flask, clip: bytes) -> None:
    other = synthetic_video.encode_video(synthetic_frames.face_frames(10, 160, 120)[::-1], fps=10)
    expected = [post(app.test_client(), data).json for data in (clip, other)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda data: post(app.test_client(), data).json, [clip, other] * 4))
    assert answers == expected * 4


# --- rejections ---


@pytest.mark.parametrize(
    ("data", "query", "status", "code", "remedy"),
    [
        (synthetic_video.encode_video(BLACK), "?model=both", 422, "no_face_no_sound", "microphone"),
        (synthetic_video.encode_video(BLACK), "", 422, "no_face", "arm's length"),
        (
            synthetic_audio.encode_audio(synthetic_audio.sine(300, 1)),
            "",
            415,
            "unsupported_media",
            "Send a clip with pictures",
        ),
        (synthetic_video.encode_video(BLACK)[:300], "", 422, "video_corrupt", "Send it again"),
        (b"fLaC" + bytes(4000), "?model=both", 422, "audio_corrupt", "Send it again"),
        (
            synthetic_audio.encode_audio(synthetic_audio.sine(300, 61, rate=4000), rate=4000),
            "?model=both",
            413,
            "audio_too_long",
            "shorter",
        ),
        (b"", "", 415, "unsupported_media", "Send"),
        (
            b"FORM\0\0\0\x2eAIFFCOMM",
            "?model=both",
            415,
            "unsupported_media",
            "Send WAV, FLAC, OGG, MP3, M4A or AAC, or",
        ),
        (b"FORM\0\0\0\x2eAIFFCOMM", "", 415, "unsupported_media", "Send MP4"),
        (b"x", "?model=nobody", 422, "invalid_request", "Correct it"),
        (b"x", "?model=research", 403, "noncommercial_model", "NONCOMMERCIAL_MODELS=1"),
    ],
)
def test_a_rejection_states_the_remedy(
    client: FlaskClient, data: bytes, query: str, status: int, code: str, remedy: str
) -> None:
    response = post(client, data, query)
    assert (response.status_code, response.json["code"]) == (status, code)
    assert remedy in response.json["detail"]
    assert response.mimetype == "application/problem+json"
    assert log_row(client, response)["error"] == code


def test_an_api_key_is_required_and_a_date_is_not(client: FlaskClient, clip: bytes) -> None:
    assert client.post(PATH, json=video_body(clip)).status_code == 401
    assert client.get(PATH, headers=HEADERS).status_code == 405
    assert post(client, clip, format="exe").status_code == 422


def test_research_only_weights_are_marked_in_every_answer(
    tmp_path: Path, store: Path, engine: Engine, clip: bytes
) -> None:
    (tmp_path / "research").symlink_to(store / "research")
    allowed = make_app(tmp_path, engine, model_store=tmp_path, noncommercial_models=True).test_client()
    answer = post(allowed, clip, "?model=research").json
    assert (answer["commercial"], answer["licence"]) == (False, "CC BY-NC-SA 4.0")
    by_path = make_app(tmp_path, engine, model_store=tmp_path, checkpoint_path=store / "research").test_client()
    answer = post(by_path, clip).json
    assert (answer["model"]["name"], answer["commercial"], answer["modalities"]) == ("research", False, [*MODALITIES])


def test_without_a_model_the_service_starts_and_the_answer_names_the_setting(
    tmp_path: Path, engine: Engine, clip: bytes
) -> None:
    empty = make_app(tmp_path, engine, model_store=tmp_path).test_client()
    assert empty.get("/ready").json == {"status": "ready", "prior": "diary"}
    response = post(empty, clip)
    assert (response.status_code, response.json["code"]) == (503, "model_missing")
    assert "CHECKPOINT_PATH" in response.json["detail"]
    assert "EMO_MOCK" in response.json["detail"]
    assert int(response.headers["Retry-After"]) > 0


# --- history ---


def test_answers_are_stored_for_signed_in_users_but_mock_answers_are_not(
    app: Flask, tmp_path: Path, engine: Engine, clip: bytes
) -> None:
    headers = {"Authorization": f"Bearer {accounts.own_token()}"}
    settings = {
        "model_store": tmp_path,
        "history": True,
        "history_path": tmp_path / "history.db",
        "security_secret": accounts.SECRET,
        "security_issuer": accounts.ISSUER,
    }
    real = make_app(tmp_path, engine, services(app).audiovisual_pipeline, **settings).test_client()
    response = real.post(f"{PATH}?model=both", json=video_body(clip), headers=headers)
    [entry] = real.get("/api/history", headers=headers).json["entries"]
    assert entry["id"] == response.headers["x-history-id"]
    assert (entry["kind"], entry["emotion"]) == ("video", response.json["top1"]["label"])
    assert entry["facts"]["modalities"] == ["video", "audio"]
    audio = synthetic_audio.encode_audio(synthetic_audio.sine(300, 1))
    assert real.post(f"{PATH}?model=both", json=video_body(audio), headers=headers).status_code == 200
    [entry] = real.get("/api/history?kind=audio", headers=headers).json["entries"]
    assert entry["kind"] == "audio"
    mock = make_app(tmp_path, engine, **settings, emo_mock=True).test_client()
    response = mock.post(PATH, json=video_body(clip), headers=headers)
    assert response.json["mock"] is True
    assert "x-history-id" not in response.headers
    assert mock.get("/api/history", headers=headers).json["count"] == 2


# --- mock mode ---


def test_mock_answers_are_deterministic_and_marked_everywhere(
    tmp_path: Path, engine: Engine, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_app(tmp_path, engine, model_store=tmp_path, emo_mock=True).test_client()
    assert "EMO_MOCK=1" in caplog.text
    counts = _prediction_counts()
    first, again = post(client, clip), post(client, clip)
    other = post(client, synthetic_video.encode_video(synthetic_frames.face_frames(10, 160, 120), fps=10))
    for response in (first, again, other):
        assert response.json["mock"] is True
        assert response.headers["X-Mock"] == "1"
        assert response.json["model"]["name"] == "mock"
        assert sum(response.json["probs"]) == pytest.approx(100)
    assert first.json == again.json
    assert first.json["probs"] != other.json["probs"]
    assert (first.json["modalities"], other.json["modalities"]) == (["video", "audio"], ["video"])
    assert log_row(client, first)["model"] == "mock"
    assert _prediction_counts() == counts, "mock answers are not counted as predictions"
    assert client.get("/health").json == {"status": "ok", "mock": True}
    assert client.get("/ready").json == {"status": "ready", "mock": True, "prior": "diary"}
    truncated = post(client, synthetic_video.encode_video(BLACK)[:300])
    assert (truncated.status_code, truncated.json["code"]) == (422, "video_corrupt")


def _prediction_counts() -> dict[str, float | None]:
    return {label: REGISTRY.get_sample_value("moodreel_predictions_total", {"emotion": label}) for label in EIGHT}


# --- the schemas ---


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
def test_percentages_add_up_to_100_and_keep_their_order(weights: list[float]) -> None:
    probabilities = [weight / sum(weights) for weight in weights]
    rounded = percentages(probabilities)
    assert round(sum(rounded), 6) == 100
    pairs = list(zip(probabilities, rounded, strict=True))
    assert all(abs(percentage - 100 * probability) <= 0.0100001 for probability, percentage in pairs)
    ordered = [percentage for _, percentage in sorted(pairs)]
    assert ordered == sorted(ordered)


def test_the_schemas_constants_match_the_domain() -> None:
    assert multimodal.MODALITIES == MODALITIES
    reasons = (
        clip_loader.NONE,
        clip_loader.NO_FACE,
        clip_loader.CORRUPT,
        clip_loader.UNSUPPORTED,
        clip_loader.NOT_REQUESTED,
    )
    assert reasons == multimodal.MISSING


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("multimodal"), MAX_BODY_BYTES=2_000_000) as server:
        yield server


@pytest.mark.server
class TestContract:
    def test_an_answer_has_the_keys_of_its_schema(self, fake: Server) -> None:
        document = fake.call("GET", "/openapi.json").json()
        answer = fake.post(PATH, b"mock")
        schemas = document["components"]["schemas"]
        real = fake.post(PATH, b"x").json()
        assert answer.json().keys() | real.keys() == schemas["AudioVisualPrediction"]["properties"].keys()
        assert answer.json().keys() ^ real.keys() == {"mock", "commercial", "licence"}
        assert answer.json()["top1"].keys() == schemas["TopLabel"]["properties"].keys()
        assert answer.json()["windows"][0].keys() == schemas["WindowPrediction"]["properties"].keys()
        assert answer.headers["X-Mock"] == "1"
        headers = document["paths"][PATH]["post"]["responses"]["200"]["headers"]
        assert {"X-Mock", "Server-Timing", "x-history-id"} <= headers.keys()
        assert real["top1"] == {"label": "happy", "prob": 80.0}
        assert fake.post(PATH, b"silent").json()["missing"] == {"audio": "none"}
        assert fake.post(PATH, b"research").json()["commercial"] is False

    @pytest.mark.parametrize(
        ("name", "status", "code"),
        [
            ("UnsupportedMedia", 415, "unsupported_media"),
            ("NoVideoStream", 415, "unsupported_media"),
            ("VideoCorrupt", 422, "video_corrupt"),
            ("VideoTooLong", 413, "video_too_long"),
            ("VideoTooBig", 413, "video_too_big"),
            ("AudioCorrupt", 422, "audio_corrupt"),
            ("AudioTooLong", 413, "audio_too_long"),
            ("NoFace", 422, "no_face"),
            ("NoFaceNoAudio", 422, "no_face_no_sound"),
            ("NonCommercialModel", 403, "noncommercial_model"),
            ("ModelMissing", 503, "model_missing"),
            ("Overloaded", 503, "overloaded"),
        ],
    )
    def test_each_error_has_its_documented_code(self, fake: Server, name: str, status: int, code: str) -> None:
        assert_problem(fake.post(PATH, f"raise {name}".encode()), status, code)
        documented = fake.call("GET", "/openapi.json").json()["paths"][PATH]["post"]["responses"][str(status)]
        assert code in documented["content"]["application/problem+json"]["examples"]

    @pytest.mark.parametrize(
        ("options", "status", "code"),
        [
            ({}, 400, "bad_json"),
            ({"json": {"encoding": "base64", "content": "not base64!"}}, 422, "bad_base64"),
            ({"json": {"encoding": "base64"}}, 422, "invalid_request"),
            ({"files": {"clip": b"x"}}, 422, "invalid_request"),
            ({"data": b"x" * 3_000_000}, 413, "too_large"),
            ({"data": b"x", "headers": {"x-api-key": KEY, "content-type": "audio/wav"}}, 415, "unsupported_media"),
        ],
    )
    def test_the_body_rules_of_other_routes_apply(
        self, fake: Server, options: dict[str, Any], status: int, code: str
    ) -> None:
        assert_problem(fake.call("POST", PATH, **options), status, code)

    def test_audio_formats_are_accepted_as_hints(self, fake: Server) -> None:
        assert fake.post(PATH, b"x", format="WAV").status_code == 200


@pytest.mark.server
def test_mock_mode_is_logged_at_the_start_and_returns_mock_answers(tmp_path: Path, clip: bytes) -> None:
    with Server(tmp_path, REAL_APP, forked=True, EMO_MOCK=1, WEB_CONCURRENCY=1) as server:
        response = server.post(PATH, clip)
        assert response.json()["mock"] is True
        assert response.headers["X-Mock"] == "1"
        assert server.call("GET", "/health").json() == {"status": "ok", "mock": True}
        assert "EMO_MOCK=1" in server.output


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "message"),
    [("missing", "CHECKPOINT_PATH: missing is missing"), (STORE / "vit", "is not an audio-visual model")],
    ids=["missing", "model of another kind"],
)
def test_an_invalid_checkpoint_path_prevents_the_start(tmp_path: Path, path: str | Path, message: str) -> None:
    assert_start_fails(tmp_path, message, CHECKPOINT_PATH=path, WEB_CONCURRENCY=1)
