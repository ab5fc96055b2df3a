"""A loop beside the emotion in one call, and the bytes of a loop alone."""

import base64
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from api.middleware import cors
from tests.support import synthetic_frames, synthetic_video
from tests.support.server import HEADERS, REAL_APP, Server, video_body

pytestmark = pytest.mark.server

CLIP = b"clip"
OPTIONS = {"duration": 1.5, "size": 96, "output": "gif", "moment": "whole", "aspect": "portrait"}
MADE_WITH = repr({**OPTIONS, "fps": None})
"""The data of a loop of the fake pipeline are its options."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("loop"), WEB_CONCURRENCY=1, CORS_ORIGINS="https://app.example") as server:
        yield server


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("real"), REAL_APP, forked=True, WEB_CONCURRENCY=1) as server:
        yield server


@pytest.fixture(scope="module")
def face() -> bytes:
    return synthetic_video.encode_video(synthetic_frames.face_frames(50))


def loop_of(response: requests.Response) -> str:
    assert response.status_code == 200, response.text
    return base64.b64decode(response.json()["thumbnail"]).decode()


# --- /predict with a loop ---


def test_a_prediction_has_no_loop_unless_it_is_requested(server: Server) -> None:
    plain = server.post("/predict", CLIP)
    for value in (False, None, "false"):
        assert server.post("/predict", CLIP, thumbnail=value).json() == plain.json()
    with_loop = server.post("/predict", CLIP, thumbnail=True).json()
    assert with_loop.keys() - plain.json().keys() == {"thumbnail", "poster", "loop"}
    assert with_loop["loop"] == {"output": "mp4", "width": 480, "height": 270, "duration": 3.0, "start": 1.0}
    assert base64.b64decode(with_loop["poster"]) == b"a poster"


WAYS: dict[str, dict[str, Any]] = {
    "JSON": {"json": video_body(CLIP, thumbnail=OPTIONS)},
    "form, as JSON": {"files": {"file": CLIP}, "data": {"thumbnail": json.dumps(OPTIONS)}},
    "form, with dots": {"files": {"file": CLIP}, "data": {f"thumbnail.{name}": v for name, v in OPTIONS.items()}},
    "form, with brackets": {"files": {"file": CLIP}, "data": {f"thumbnail[{name}]": v for name, v in OPTIONS.items()}},
    "query, as JSON": {"json": video_body(CLIP), "params": {"thumbnail": json.dumps(OPTIONS)}},
    "query, with dots": {"json": video_body(CLIP), "params": {f"thumbnail.{name}": v for name, v in OPTIONS.items()}},
    "query, with brackets": {
        "files": {"file": CLIP},
        "params": {"thumbnail": "true"} | {f"thumbnail[{name}]": value for name, value in OPTIONS.items()},
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_the_options_of_the_loop_are_the_same_in_every_place(server: Server, way: str) -> None:
    assert loop_of(server.call("POST", "/predict", **WAYS[way])) == MADE_WITH


@pytest.mark.parametrize("value", ["true", "True", "{}"])
def test_a_form_and_a_query_take_true(server: Server, value: str) -> None:
    form = server.call("POST", "/predict", files={"file": CLIP}, data={"thumbnail": value})
    query = server.call("POST", "/predict", json=video_body(CLIP), params={"thumbnail": value})
    assert form.json() == query.json() == server.post("/predict", CLIP, thumbnail=True).json()


@pytest.mark.parametrize(
    ("value", "errors"),
    [
        ({"siz": 96}, {"siz": ["Unknown field. Did you mean size?"]}),
        ({"size": 5}, {"size": ["Must be greater than or equal to 64 and less than or equal to 1080."]}),
        ("yes", ['Neither true nor an object, such as {"size": 240}.']),
        ("[" * 100_000, ['Neither true nor an object, such as {"size": 240}.']),
        (5, ['Neither true nor an object, such as {"size": 240}.']),
    ],
)
def test_wrong_options_of_a_loop_are_refused(server: Server, value: object, errors: object) -> None:
    response = server.post("/predict", CLIP, thumbnail=value)
    assert (response.status_code, response.json()["errors"]) == (422, {"thumbnail": errors})


def test_an_option_of_the_loop_in_the_wrong_place_is_pointed_to_its_place(server: Server) -> None:
    response = server.post("/predict", CLIP, thumbnail=True, size=240)
    assert response.json()["errors"] == {"size": ["Unknown field. Did you mean thumbnail.size?"]}


@pytest.mark.parametrize("value", ["false", '{"size": 240}', "maybe"])
@pytest.mark.parametrize("place", ["params", "data"])
def test_a_loop_and_its_options_do_not_contradict_each_other(server: Server, value: str, place: str) -> None:
    options = {"thumbnail": value, "thumbnail.output": "gif"}
    response = server.call("POST", "/predict", files={"file": CLIP}, **{place: options})
    assert response.status_code == 422
    assert response.json()["errors"] == {"thumbnail": ["Send it once: as one object, or one option each."]}


@pytest.mark.parametrize("place", ["params", "data"])
def test_an_option_of_the_loop_in_both_ways_to_write_it_is_refused(server: Server, place: str) -> None:
    options = {"thumbnail.size": "100", "thumbnail[size]": "200"}
    response = server.call("POST", "/predict", files={"file": CLIP}, **{place: options})
    assert (response.status_code, response.json()["errors"]) == (
        422,
        {"thumbnail.size": ["It was sent 2 times. Send it once."]},
    )


def test_one_call_is_one_row_of_the_log(server: Server) -> None:
    response = server.post("/predict", CLIP, thumbnail=True)
    [row] = server.log_rows(request_id=response.headers["x-request-id"])
    assert (row["endpoint"], row["prediction"], row["frames"]) == ("/predict", "Happy", 24)


# --- the bytes alone ---

BYTES = {"video/mp4": "mp4", "image/webp": "webp", "image/gif": "gif", "image/*": "webp", "video/*": "mp4"}


@pytest.mark.parametrize("accept", BYTES)
@pytest.mark.parametrize("path", ["/thumbnail", "/predict?thumbnail=true"])
def test_accept_selects_the_bytes_of_the_loop(server: Server, path: str, accept: str) -> None:
    response = server.call("POST", path, headers={**HEADERS, "Accept": accept}, json=video_body(CLIP))
    assert response.status_code == 200
    assert f"'output': '{BYTES[accept]}'" in response.text
    assert response.headers["Content-Type"] == {"mp4": "video/mp4"}.get(BYTES[accept], f"image/{BYTES[accept]}")
    told = {name: response.headers[f"X-{name}"] for name in ("Emotion", "Confidence", "Certain", "Peak")}
    assert told == {"Emotion": "Happy", "Confidence": "0.9200", "Certain": "true", "Peak": "2.500"}


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, video/mp4;q=0.9", "text/html", ""])
def test_json_is_answered_to_everyone_else(server: Server, accept: str) -> None:
    response = server.call("POST", "/thumbnail", headers={**HEADERS, "Accept": accept}, json=video_body(CLIP))
    assert response.json()["output"] == "mp4"
    assert "X-Emotion" not in response.headers


def test_a_prediction_without_a_loop_is_json_whatever_is_accepted(server: Server) -> None:
    headers = {**HEADERS, "Accept": "video/mp4"}
    assert server.call("POST", "/predict", headers=headers, json=video_body(CLIP)).json()["emotion"] == "Happy"


def test_an_output_that_accept_excludes_is_refused(server: Server) -> None:
    headers = {**HEADERS, "Accept": "video/mp4"}
    for body in ({"output": "mp4"}, {"output": "gif"}):
        response = server.call("POST", "/thumbnail", headers=headers, json=video_body(CLIP, **body))
        assert response.status_code == (200 if body["output"] == "mp4" else 422)
    assert response.json()["errors"].keys() == {"output"}


def test_bytes_without_a_face_name_no_emotion(server: Server) -> None:
    headers = {**HEADERS, "Accept": "video/mp4"}
    response = server.call("POST", "/thumbnail", headers=headers, json=video_body(b"no face"))
    assert (response.status_code, response.headers["X-Peak"]) == (200, "2.500")
    assert not {"X-Emotion", "X-Confidence", "X-Certain"} & response.headers.keys()


def test_pages_may_read_the_headers_and_errors_stay_problems(server: Server) -> None:
    headers = {**HEADERS, "Accept": "video/mp4", "Origin": "https://app.example"}
    response = server.call("POST", "/thumbnail", headers=headers, json=video_body(CLIP))
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert (
        {"x-emotion", "x-confidence", "x-certain", "x-peak"} <= set(exposed) == set(cors._EXPOSED_HEADERS.split(", "))
    )
    refused = server.call("POST", "/thumbnail", headers=headers, json=video_body(b"raise VideoCorrupt"))
    assert refused.headers["Content-Type"] == "application/problem+json"


def test_the_document_describes_the_bytes_and_their_headers(server: Server) -> None:
    document = server.call("GET", "/openapi.json").json()
    for path in ("/thumbnail", "/predict"):
        described = document["paths"][path]["post"]["responses"]["200"]
        assert described["content"].keys() == {"application/json", "video/mp4", "image/webp", "image/gif"}
        assert {"X-Emotion", "X-Confidence", "X-Certain", "X-Peak", "Server-Timing"} <= described["headers"].keys()
    query = {
        item["name"]: item for item in document["paths"]["/predict"]["post"]["parameters"] if item["in"] == "query"
    }
    assert query["thumbnail"]["content"]["application/json"]["schema"]["oneOf"][0] == {"type": "boolean"}


# --- real clips and models ---


def test_one_call_gives_what_two_calls_gave(real: Server, face: bytes) -> None:
    options = {"duration": 1, "size": 160}
    both = real.call("POST", "/predict", json=video_body(face, thumbnail=options))
    prediction, thumbnail = real.post("/predict", face).json(), real.post("/thumbnail", face, **options).json()
    answer = both.json()
    for name in prediction.keys() - {"peak"}:
        assert answer[name] == prediction[name], name
    for name in ("peak", "emotion", "confidence", "probabilities", "certain", "quality", "track"):
        assert answer[name] == thumbnail[name], name
    for name in ("output", "width", "height"):
        assert answer["loop"][name] == thumbnail[name], name
    assert {frame.shape for frame in synthetic_video.decode_frames(base64.b64decode(answer["thumbnail"]))} == {
        (120, 160, 3)
    }
    assert base64.b64decode(answer["poster"]).startswith(b"\xff\xd8\xff")
    assert answer["peak"] == pytest.approx(prediction["peak"], abs=0.07)
    timings = dict(part.split(";dur=") for part in both.headers["Server-Timing"].split(", "))
    assert timings.keys() == {"decode", "faces", "model", "encode"}


def test_real_bytes_can_be_decoded(real: Server, face: bytes) -> None:
    headers = {**HEADERS, "Accept": "video/mp4"}
    response = real.call("POST", "/thumbnail?size=160&duration=1", headers=headers, files={"file": face})
    assert {frame.shape for frame in synthetic_video.decode_frames(response.content)} == {(120, 160, 3)}
    assert response.headers["X-Emotion"] == real.post("/predict", face).json()["emotion"]


def test_a_prediction_with_a_loop_still_needs_a_face(real: Server) -> None:
    clip = synthetic_video.encode_video(synthetic_frames.noise_frames(20))
    response = real.post("/predict", clip, thumbnail=True)
    assert (response.status_code, response.json()["code"]) == (422, "no_face")


# --- the cache of analyses ---


def stages(response: requests.Response) -> dict[str, float]:
    assert response.status_code == 200, response.text
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"])}


def cached(server: Server, outcome: str) -> float:
    line = re.search(rf'^moodreel_analysis_cache_total{{outcome="{outcome}"}} (.+)$', metrics(server), re.MULTILINE)
    return float(line[1]) if line else 0.0


def metrics(server: Server) -> str:
    return server.call("GET", "/metrics").text


def test_workers_share_the_analyses_and_leave_nothing_on_a_disk(tmp_path: Path, face: bytes) -> None:
    (tmp_path / "tmp").mkdir()
    with Server(tmp_path, REAL_APP, forked=True, TMPDIR=tmp_path / "tmp") as server:
        first = server.post("/predict", face)
        assert stages(first)["decode"] > 0
        rows, answers = [], []
        with ThreadPoolExecutor(4) as clients:  # busy workers share the calls
            while len({row["worker"] for row in rows}) < 2 and len(rows) < 200:
                answers += list(clients.map(lambda _: server.post("/predict", face), range(8)))
                rows = server.log_rows(endpoint="/predict")
        for answer in answers:
            assert answer.json() == first.json()
            assert {name for name, value in stages(answer).items() if value == 0} == {"decode", "faces", "model"}
        assert {row["worker"] for row in rows} == {worker.pid for worker in server.workers}
        thumbnail = server.post("/thumbnail", face, duration=1)
        assert (stages(thumbnail)["decode"], thumbnail.json()["emotion"]) == (0, first.json()["emotion"])
        assert (cached(server, "miss"), cached(server, "hit")) == (1, len(answers) + 1)
        assert 'moodreel_stage_seconds_count{stage="faces"} 1.0' in metrics(server)
        [folder] = [path for path in Path("/dev/shm").glob("moodreel-analyses-*") if opened(server, path)]
        assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"analyses.db", "answers.db"}
        on_disk = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert not [name for name in on_disk if "analyses" in name or "answers" in name]
        # A service that was killed leaves its folder; the next one deletes it, but not that of a running one.
        abandoned = Path(tempfile.mkdtemp(prefix="moodreel-analyses-", dir="/dev/shm"))
        (tmp_path / "second").mkdir()
        with Server(tmp_path / "second", REAL_APP, forked=True, WEB_CONCURRENCY=1):
            assert (abandoned.exists(), folder.exists()) == (False, True)
    assert not folder.exists()


def opened(server: Server, folder: Path) -> bool:
    return any(file.path.startswith(str(folder)) for worker in server.workers for file in worker.open_files())


@pytest.mark.parametrize(
    ("setting", "outcomes"),
    [({"ANALYSIS_CACHE_SECONDS": 0}, (0, 0)), ({"ANALYSIS_CACHE_PATH": "data/analyses.db"}, (1, 1))],
)
def test_the_cache_can_be_turned_off_and_moved(
    tmp_path: Path, face: bytes, setting: dict[str, object], outcomes: tuple[int, int]
) -> None:
    with Server(tmp_path, REAL_APP, forked=True, WEB_CONCURRENCY=1, **setting) as server:
        assert server.post("/predict", face).json() == server.post("/predict", face).json()
        assert (cached(server, "miss"), cached(server, "hit")) == outcomes
        assert (tmp_path / "data" / "analyses.db").exists() == (outcomes != (0, 0))


def test_a_cache_that_fails_does_not_fail_the_call(tmp_path: Path, face: bytes) -> None:
    settings = {"WEB_CONCURRENCY": 1, "ANALYSIS_CACHE_PATH": "data/analyses.db"}
    with Server(tmp_path, REAL_APP, forked=True, **settings) as server:
        with sqlite3.connect(tmp_path / "data" / "analyses.db") as db:
            db.execute("drop table analyses")
        assert server.post("/predict", face).json()["emotion"] == "Happy"
        assert (cached(server, "failed"), "The cache of analyses" in server.output) == (2, True)
