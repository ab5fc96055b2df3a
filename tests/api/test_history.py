"""The history of a signed-in user over a real Gunicorn."""

import base64
import importlib.util
import io
import itertools
import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from api.error_details import ERROR_DETAILS
from moodreel.storage.history import History, HistoryEntry
from tests.support import accounts, synthetic_frames, synthetic_video
from tests.support.server import DATE, HEADERS, REAL_APP, Server, assert_start_fails, video_body, wait_until

pytestmark = pytest.mark.server

TOKENS = {"SECURITY_SECRET": base64.b64encode(accounts.SECRET).decode(), "SECURITY_ISSUER": accounts.ISSUER}
HISTORY_ON: dict[str, Any] = {**TOKENS, "HISTORY": "on"}
_names = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database_settings: dict[str, str]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("history")
    with Server(folder, **HISTORY_ON, MEDIA_STORAGE=f"file://{folder}/media", **database_settings) as server:
        yield server


@pytest.fixture
def user() -> str:
    """Return a user without entries."""
    return f"user {next(_names)}"


def as_user(user: str) -> dict[str, str]:
    """Return the headers that authenticate a user."""
    return {"Authorization": f"Bearer {accounts.own_token(userId=user)}", "date": DATE}


def call(server: Server, user: str, method: str, path: str, **options: Any) -> requests.Response:
    return server.call(method, path, headers=as_user(user), **options)


def post(server: Server, user: str, path: str, data: bytes, **fields: Any) -> requests.Response:
    return call(server, user, "POST", path, json=video_body(data, **fields))


def get(server: Server, user: str, path: str = "", **params: Any) -> Any:
    response = call(server, user, "GET", f"/api/history{path}", params=params)
    assert response.status_code == 200, response.text
    return response.json()


def store(server: Server, user: str, data: bytes = b"clip", path: str = "/thumbnail", **fields: Any) -> str:
    """Have a file analyzed; return the id of its entry."""
    return post(server, user, path, data, **fields).headers["x-history-id"]


# --- what is stored ---


def test_an_analysis_is_stored_and_its_answer_contains_the_entry_id(server: Server, user: str) -> None:
    response = post(server, user, "/predict", b"clip")
    assert response.json()["emotion"] == "Happy"
    entry = get(server, user, f"/{response.headers['x-history-id']}")
    created = datetime.fromisoformat(entry.pop("created"))
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)
    assert entry == {
        "id": response.headers["x-history-id"],
        "kind": "video",
        "emotion": "Happy",
        "mood": "Happy",
        "confidence": 0.92,
        "probabilities": {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01},
        "model": "fake",
        "facts": {"duration": 4.98, "faces": 1, "certain": True},
        "media": [],
    }


def test_an_analysis_and_a_cover_of_one_clip_are_one_entry(server: Server, user: str) -> None:
    ids = {store(server, user, path=path) for path in ("/predict", "/thumbnail", "/predict")}
    [entry] = get(server, user)["entries"]
    assert ids == {entry["id"]}
    assert [media["name"] for media in entry["media"]] == ["thumbnail.mp4", "poster.jpg"]
    assert entry["facts"]["faces"] == 1
    store(server, user, b"another clip")
    assert get(server, user)["count"] == 2


def test_a_prediction_with_a_cover_is_one_entry_with_its_media(server: Server, user: str) -> None:
    entry = get(server, user, f"/{store(server, user, path='/predict', thumbnail={'output': 'gif'})}")
    assert (entry["emotion"], entry["facts"]["faces"]) == ("Happy", 1)
    assert [media["name"] for media in entry["media"]] == ["thumbnail.gif", "poster.jpg"]
    assert get(server, user)["count"] == 1


def test_a_cover_without_a_face_is_an_entry_without_an_emotion(server: Server, user: str) -> None:
    entry = get(server, user, f"/{store(server, user, b'no face')}")
    assert (entry["emotion"], entry["mood"], entry["probabilities"]) == (None, None, None)
    assert len(entry["media"]) == 2


def test_a_picture_is_stored_with_a_copy(server: Server, user: str) -> None:
    entry = get(server, user, f"/{store(server, user, b'a picture', '/api/detect')}")
    assert (entry["kind"], entry["emotion"], entry["mood"]) == ("picture", "happy", "Happy")
    assert entry["facts"] == {"faces": 1, "certain": True}
    assert [file["name"] for file in entry["media"]] == ["picture.jpg"]
    copy = call(server, user, "GET", f"/api/history/{entry['id']}/media/picture.jpg")
    assert (copy.content, copy.headers["Content-Type"]) == (b"a copy of a picture", "image/jpeg")


def test_a_text_is_stored_as_its_result_without_the_text(server: Server, user: str) -> None:
    response = call(server, user, "POST", "/api/text", json={"text": "bonjour zebrafinch"})
    entry = get(server, user, f"/{response.headers['x-history-id']}")
    assert (entry["kind"], entry["emotion"], entry["mood"], entry["confidence"]) == ("text", "joy", "Happy", 0.94)
    assert entry["facts"] == {"characters": 18, "language": "fr", "language_supported": False}
    assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert entry["media"] == []
    for path in (path for path in server.folder.rglob("*") if path.is_file()):
        assert b"zebrafinch" not in path.read_bytes()


def test_each_text_is_an_entry_even_if_repeated(server: Server, user: str) -> None:
    for _ in range(2):
        response = call(server, user, "POST", "/api/text", json={"text": ["one", "", "two"]})
        assert len(response.headers["x-history-id"].split(", ")) == 2
    assert get(server, user, kind="text")["count"] == 4


def test_a_picture_without_a_face_is_an_entry_without_an_emotion(server: Server, user: str) -> None:
    entry = get(server, user, f"/{store(server, user, b'no face', '/api/detect')}")
    assert (entry["emotion"], entry["facts"]) == (None, {"faces": 0, "certain": None})


def test_each_accepted_picture_of_a_batch_is_an_entry(server: Server, user: str) -> None:
    contents = [b"one", b"raise ImageCorrupt", b"two"]
    pictures = [{"content": base64.b64encode(content).decode()} for content in contents]
    response = call(server, user, "POST", "/api/detect/batch", json={"pictures": pictures})
    entries = get(server, user)["entries"]
    assert response.headers["x-history-id"].split(", ") == [entry["id"] for entry in reversed(entries)]
    copies = [call(server, user, "GET", f"/api/history/{entry['id']}/media/picture.jpg").content for entry in entries]
    assert copies == [b"a copy of two", b"a copy of one"]
    # The same picture sent alone is the same entry.
    assert store(server, user, b"one", "/api/detect") == entries[1]["id"]


def test_api_predict_stores_pictures_and_clips_by_their_kind(server: Server, user: str) -> None:
    picture, clip = (store(server, user, data, "/api/predict/") for data in (b"picture", b"clip"))
    entries = {entry["id"]: entry for entry in get(server, user)["entries"]}
    assert (entries[picture]["kind"], entries[picture]["facts"]) == ("picture", {"certain": True, "faces": 1})
    facts = {"certain": True, "duration": 4.98, "faces": 1}
    assert (entries[clip]["kind"], entries[clip]["facts"]) == ("video", facts)
    assert (len(entries[picture]["media"]), len(entries[clip]["media"])) == (1, 0)


@pytest.mark.parametrize("data", [b"raise NoFace", b"crash"])
def test_a_rejected_upload_is_not_stored(server: Server, user: str, data: bytes) -> None:
    assert "x-history-id" not in post(server, user, "/predict", data).headers
    assert get(server, user)["count"] == 0


def test_an_api_key_has_no_history(server: Server) -> None:
    response = server.post("/thumbnail", b"clip of an API key")
    assert response.status_code == 200
    assert "x-history-id" not in response.headers


ROUTES = [
    ("GET", ""),
    ("DELETE", ""),
    ("GET", "/summary"),
    ("GET", "/" + "0" * 32),
    ("DELETE", "/" + "0" * 32),
    ("GET", f"/{'0' * 32}/media/poster.jpg"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(("headers", "status", "code"), [({}, 401, "unauthorized"), (HEADERS, 403, "forbidden")])
def test_the_history_requires_a_signed_in_user(
    server: Server, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    response = server.call(method, f"/api/history{path}", headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_date_is_optional_but_must_be_well_formed(server: Server, user: str) -> None:
    headers = {name: value for name, value in as_user(user).items() if name != "date"}
    assert server.call("GET", "/api/history", headers=headers).status_code == 200
    response = server.call("GET", "/api/history", headers={**headers, "date": "yesterday"})
    assert (response.status_code, response.json()["code"]) == (400, "bad_date")


# --- access to own entries only ---


def test_another_users_entry_is_not_found(server: Server, user: str) -> None:
    entry = store(server, user)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/media/poster.jpg"), ("GET", "/media/thumbnail.mp4")):
        foreign = call(server, "other user", method, f"/api/history/{entry}{path}")
        unknown = call(server, "other user", method, f"/api/history/{'0' * 32}{path}")
        assert foreign.status_code == unknown.status_code == 404
        assert {**foreign.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}
    assert get(server, "other user")["entries"] == []
    assert call(server, "other user", "DELETE", "/api/history").json() == {"deleted": 0}
    assert call(server, user, "GET", f"/api/history/{entry}/media/poster.jpg").content == b"a poster"


def test_pagination_returns_every_entry_once_and_a_cursor_gives_no_access_to_other_users(
    server: Server, user: str
) -> None:
    entries = [store(server, user, f"clip {number}".encode(), "/predict") for number in range(7)]
    foreign = store(server, "second user", b"clip", "/predict")
    received, cursor = [], None
    while True:
        page = get(server, user, limit=3, **({"cursor": cursor} if cursor else {}))
        received += [entry["id"] for entry in page["entries"]]
        assert page["count"] == len(page["entries"])
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
        of_second = get(server, "second user", cursor=cursor)["entries"]
        assert {entry["id"] for entry in of_second} <= {foreign}
    assert received == entries[::-1]


def test_filters_are_query_parameters(server: Server, user: str) -> None:
    happy, faceless = store(server, user), store(server, user, b"no face")
    today = datetime.now(UTC).date()

    def ids(**filters: Any) -> list[str]:
        return [entry["id"] for entry in get(server, user, **filters)["entries"]]

    assert ids(kind="video") == [faceless, happy]
    assert ids(kind="picture") == []
    assert ids(emotion="Happy") == [happy]
    assert ids(start_date=today - timedelta(days=1), end_date=today + timedelta(days=1)) == [faceless, happy]
    assert ids(end_date=today - timedelta(days=2)) == []
    first = get(server, user, f"/{happy}")["created"]
    assert ids(end_date=first) == [happy]


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("", {"kind": "song"}, "kind"),
        ("", {"limit": 0}, "limit"),
        ("", {"limit": 1001}, "limit"),
        ("", {"limit": "many"}, "limit"),
        ("", {"cursor": "x"}, "cursor"),
        ("", {"start_date": "yesterday"}, "start_date"),
        ("", {"end_date": "2025-13-01"}, "end_date"),
        ("", {"user": "ann"}, "user"),
        ("/summary", {"by": "month"}, "by"),
        ("/summary", {"tz": "Europe/Atlantis"}, "tz"),
        ("/summary", {"tz": "America"}, "tz"),
        ("/summary", {"tz": "../../etc/passwd"}, "tz"),
        ("/summary", {"tz": "/etc/passwd"}, "tz"),
        ("/summary", {"tz": "\0"}, "tz"),
        ("/summary", {"tz": ""}, "tz"),
        ("/summary", {"start_date": "2025-08-16T12:00Z"}, "start_date"),
        ("/summary", {"start_date": "0001-01-01"}, "start_date"),
        ("/summary", {"end_date": "9999-12-31"}, "end_date"),
        ("/summary", {"start_date": "2025-08-02", "end_date": "2025-08-01"}, "end_date"),
        ("/summary", {"start_date": "2999-12-31"}, "end_date"),
    ],
)
def test_an_invalid_query_is_rejected_by_field(
    server: Server, user: str, path: str, query: dict[str, Any], field: str
) -> None:
    response = call(server, user, "GET", f"/api/history{path}", params=query)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"].keys() == {field}


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-origin", 200)])
def test_another_origin_cannot_delete_with_a_users_cookie(server: Server, user: str, site: str, status: int) -> None:
    entry = store(server, user)
    headers = {"Cookie": f"access_token={accounts.own_token(userId=user)}", "Sec-Fetch-Site": site}
    assert server.call("DELETE", "/api/history", headers=headers).status_code == status
    assert [each["id"] for each in get(server, user)["entries"]] == ([entry] if status == 403 else [])


def test_the_same_subject_of_another_issuer_is_another_user(tmp_path: Path) -> None:
    both = {**accounts.environment(tmp_path), "HISTORY": "on", "WEB_CONCURRENCY": 1}
    with Server(tmp_path, **both) as server:
        store(server, "42", path="/predict")
        provider = {"Authorization": f"Bearer {accounts.openid_token(sub='42')}"}
        assert server.call("GET", "/api/history", headers=provider).json()["entries"] == []
        assert get(server, "42")["count"] == 1


# --- media ---


def test_media_are_served_with_their_content_type_and_private_caching(server: Server, user: str) -> None:
    entry = store(server, user, output="webp")
    response = call(server, user, "GET", f"/api/history/{entry}/media/thumbnail.webp")
    assert response.content.startswith(b"{'duration': 3.0")
    assert response.headers["Content-Type"] == "image/webp"
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert get(server, user, f"/{entry}")["media"][0] == {
        "name": "thumbnail.webp",
        "type": "image/webp",
        "size": len(response.content),
    }


def test_media_support_range_and_conditional_requests(server: Server, user: str) -> None:
    url = f"/api/history/{store(server, user)}/media/poster.jpg"
    full = call(server, user, "GET", url)
    part = server.call("GET", url, headers={**as_user(user), "Range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"pos", "bytes 2-4/8")
    unchanged = server.call("GET", url, headers={**as_user(user), "If-None-Match": full.headers["ETag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    beyond = server.call("GET", url, headers={**as_user(user), "Range": "bytes=100-"})
    assert beyond.status_code == 416
    problem = beyond.json()
    assert problem["detail"] == ERROR_DETAILS[problem["code"]]
    responses = server.call("GET", "/openapi.json").json()["paths"]["/api/history/{entry_id}/media/{name}"]["get"][
        "responses"
    ]
    assert {"206", "304", "416"} <= responses.keys()


def files(server: Server) -> list[Path]:
    return [path for path in (server.folder / "media").rglob("*") if path.is_file()]


def test_deleting_an_entry_deletes_its_media(server: Server, user: str) -> None:
    before = len(files(server))
    entry, other = store(server, user), store(server, user, b"another")
    assert len(files(server)) == before + 4
    response = call(server, user, "DELETE", f"/api/history/{entry}")
    assert (response.status_code, response.content) == (204, b"")
    assert "Content-Type" not in response.headers
    for path in ("", "/media/poster.jpg"):
        assert call(server, user, "GET", f"/api/history/{entry}{path}").status_code == 404
    assert call(server, user, "DELETE", f"/api/history/{entry}").status_code == 404
    assert [each["id"] for each in get(server, user)["entries"]] == [other]
    assert len(files(server)) == before + 2
    assert call(server, user, "DELETE", "/api/history").json() == {"deleted": 1}
    assert (get(server, user)["entries"], len(files(server))) == ([], before)


def test_a_deletion_with_filters_does_not_delete_everything(server: Server, user: str) -> None:
    entry = store(server, user)
    response = call(server, user, "DELETE", "/api/history?kind=picture")
    assert (response.status_code, response.json()["errors"].keys()) == (422, {"kind"})
    assert get(server, user)["entries"][0]["id"] == entry


# --- the summary ---


@pytest.mark.parametrize(
    "zone", ["localtime", "posixrules", "Factory", "posix/Asia/Tokyo", "right/Asia/Tokyo", "Mars/Base"]
)
def test_the_zone_of_the_server_is_no_time_zone(server: Server, user: str, zone: str) -> None:
    response = call(server, user, "GET", f"/api/history/summary?tz={zone}")
    assert response.json()["errors"] == {"tz": ["Not a time zone, such as Europe/Berlin."]}


def test_the_summary_path_is_not_taken_for_an_entry_id(server: Server, user: str) -> None:
    assert get(server, user, "/summary").keys() > {"periods", "baseline"}
    assert call(server, user, "DELETE", "/api/history/summary").status_code == 404


def test_a_summary_counts_by_day_and_week_and_has_a_baseline(server: Server, user: str) -> None:
    for number in range(10):
        store(server, user, f"clip {number}".encode(), "/predict")
    store(server, user, b"no face")
    for by, days in (("day", 30), ("week", 84)):
        summary = get(server, user, "/summary", by=by, tz="Etc/GMT+1")
        first, last = (datetime.fromisoformat(summary[name]).date() for name in ("start_date", "end_date"))
        assert (last - first).days == days - 1
        # At midnight the last entries may be of the next day.
        assert sum(period["entries"] for period in summary["periods"]) == summary["entries"] == 11
        assert summary["emotions"] == {"Anger": 0, "Happy": 10, "Shock": 0, "Neutral": 0, "Sad": 0}
        assert {period["leading"] for period in summary["periods"]} <= {"Happy", None}
        assert (summary["by"], summary["tz"]) == (by, "Etc/GMT+1")
    assert summary["baseline"] == {
        "days": 90,
        "entries": 10,
        "entries_needed": 10,
        "probabilities": {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01},
        "difference": {"Anger": 0.0, "Happy": 0.0, "Shock": 0.0, "Neutral": 0.0, "Sad": 0.0},
    }
    old = get(server, user, "/summary", start_date="2025-01-01", end_date="2025-01-31")
    assert (old["periods"], old["baseline"]["difference"]) == ([], None)
    assert old["baseline"]["probabilities"]["Happy"] == 0.92


# --- failures ---


def test_an_unwritable_history_does_not_fail_the_call(tmp_path: Path) -> None:
    with Server(tmp_path, **HISTORY_ON, WEB_CONCURRENCY=1) as server:
        store(server, "ann", path="/predict")
        with sqlite3.connect(tmp_path / "data" / "history.db") as db:
            db.execute("drop table entries")
        response = post(server, "ann", "/predict", b"clip")
        assert response.json()["emotion"] == "Happy"
        assert "x-history-id" not in response.headers
        assert "The history data/history.db cannot be written" in server.output
        metrics = server.call("GET", "/metrics").text
        assert 'moodreel_history_failures_total{part="entry"} 1.0' in metrics.splitlines()
        assert 'moodreel_history_entries_total{kind="video"} 1.0' in metrics.splitlines()
        response = call(server, "ann", "GET", "/api/history")
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        assert "history.db" not in response.text


def test_a_failing_storage_loses_no_entry_and_no_object(tmp_path: Path) -> None:
    media, moved = tmp_path / "media", tmp_path / "away"
    with Server(tmp_path, **HISTORY_ON, MEDIA_STORAGE=f"file://{media}", WEB_CONCURRENCY=1) as server:
        before = store(server, "ann")
        media.rename(moved)
        entry = get(server, "ann", f"/{store(server, 'ann', b'another')}")
        assert (entry["emotion"], entry["media"]) == ("Happy", [])
        assert call(server, "ann", "DELETE", f"/api/history/{before}").status_code == 204
        assert "The media storage cannot be written" in server.output
        assert "Files that are to be deleted are still there: 2." in server.output
        metrics = server.call("GET", "/metrics").text.splitlines()
        assert 'moodreel_history_failures_total{part="media"} 1.0' in metrics
        assert 'moodreel_history_failures_total{part="deletion"} 1.0' in metrics
    moved.rename(media)
    assert len([path for path in media.rglob("*") if path.is_file()]) == 2
    with sqlite3.connect(tmp_path / "data" / "history.db") as db:
        db.execute("update doomed set due = ''")
    with Server(tmp_path, **HISTORY_ON, MEDIA_STORAGE=f"file://{media}", WEB_CONCURRENCY=1):
        assert list(media.iterdir()) == [], "the next start deletes the rest"


def test_the_media_of_a_long_history_are_all_deleted(tmp_path: Path) -> None:
    """A deletion takes some seconds at most; an object of a cloud takes 50 to 100 ms."""
    goes_on = tmp_path / "goes_on"
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from api import history_recorder\n"
        "from moodreel.storage.objects import ObjectStorage\n"
        "from tests.support.fake_service import app\n"
        "history_recorder.MEDIA_DELETION_SECONDS = 0.5\n"
        "delete, deleted = ObjectStorage.delete, []\n"
        "def delete_slowly(self, key):\n"
        "    time.sleep(0.2)\n"
        f"    while len(deleted) >= 3 and not Path({str(goes_on)!r}).exists():\n"
        "        time.sleep(0.01)\n"
        "    deleted.append(key)\n"
        "    delete(self, key)\n"
        "ObjectStorage.delete = delete_slowly\n"
    )
    with Server(tmp_path, "slow:app", forked=True, **HISTORY_ON, MEDIA_STORAGE=f"file://{tmp_path}/media") as server:
        for number in range(5):
            store(server, "ann", f"clip {number}".encode())
        assert len(files(server)) == 10
        assert call(server, "ann", "DELETE", "/api/history").json() == {"deleted": 5}
        assert files(server)
        goes_on.touch()
        wait_until(lambda: not files(server), lambda: files(server))


def test_a_batch_tries_a_failing_storage_only_once(tmp_path: Path) -> None:
    """Otherwise a storage that hangs would delay a call once for each of 32 pictures."""
    media, moved = tmp_path / "media", tmp_path / "away"
    pictures = {"pictures": [{"content": base64.b64encode(data).decode()} for data in (b"one", b"two", b"three")]}
    with Server(tmp_path, **HISTORY_ON, MEDIA_STORAGE=f"file://{media}", WEB_CONCURRENCY=1) as server:
        media.rename(moved)
        assert call(server, "ann", "POST", "/api/detect/batch", json=pictures).json()["count"] == 3
        assert [entry["media"] for entry in get(server, "ann")["entries"]] == [[], [], []]
        with sqlite3.connect(tmp_path / "data" / "history.db") as db:
            db.execute("drop table entries")
        assert call(server, "ann", "POST", "/api/detect/batch", json=pictures).json()["count"] == 3
        failures = server.call("GET", "/metrics").text.splitlines()
        assert 'moodreel_history_failures_total{part="media"} 2.0' in failures
        assert 'moodreel_history_failures_total{part="entry"} 1.0' in failures


def test_a_locked_history_is_waited_for_only_once(tmp_path: Path) -> None:
    with Server(tmp_path, **HISTORY_ON, MEDIA_STORAGE=f"file://{tmp_path}/media", WEB_CONCURRENCY=1) as server:
        store(server, "ann")
        with sqlite3.connect(tmp_path / "data" / "history.db") as db:
            db.execute("begin exclusive")
            response = post(server, "ann", "/thumbnail", b"another")
        assert response.status_code == 200 and "x-history-id" not in response.headers
        failures = server.call("GET", "/metrics").text.splitlines()
        assert 'moodreel_history_failures_total{part="entry"} 1.0' in failures
        assert not any('failures_total{part="media"}' in line for line in failures)


def test_unreadable_media_are_a_temporary_error(tmp_path: Path) -> None:
    media = tmp_path / "media"
    with Server(tmp_path, **HISTORY_ON, MEDIA_STORAGE=f"file://{media}", WEB_CONCURRENCY=1) as server:
        url = f"/api/history/{store(server, 'ann')}/media/poster.jpg"
        [poster] = media.rglob("*.jpg")
        poster.unlink()
        assert call(server, "ann", "GET", url).status_code == 404
        poster.mkdir()
        response = call(server, "ann", "GET", url)
        assert (response.status_code, response.json()["code"]) == (503, "storage_unavailable")
        assert response.headers["Retry-After"]
        assert str(media) not in response.text


def test_old_entries_are_deleted_at_the_start(tmp_path: Path) -> None:
    history = History(tmp_path / "data" / "history.db")
    for name, days in (("old", 8), ("new", 6)):
        entry = HistoryEntry("video", "Happy", 0.9, None, name)
        history.upsert("ann", entry, time=datetime.now(UTC) - timedelta(days=days))
    history.close()
    with (
        Server(tmp_path, **HISTORY_ON, HISTORY_RETENTION_DAYS=7),
        sqlite3.connect(tmp_path / "data" / "history.db") as db,
    ):
        assert db.execute("select model from entries").fetchall() == [("new",)]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"MEDIA_STORAGE": "file:///proc/nowhere"}, "MEDIA_STORAGE=file://… cannot be opened"),
        (
            {"MEDIA_STORAGE": "memory://"},
            "MEDIA_STORAGE=memory:// is not shared between workers: set WEB_CONCURRENCY=1",
        ),
        ({"MEDIA_STORAGE": "/a/folder"}, "MEDIA_STORAGE must be a URL that begins with file:///"),
        ({"HISTORY_PATH": "/proc/nowhere/history.db"}, "The history /proc/nowhere/history.db cannot be opened"),
        pytest.param(
            {"MEDIA_STORAGE": "gs://bucket"},
            "MEDIA_STORAGE=gs://… needs gcsfs: pip install 'moodreel[storage]' (in a clone: "
            "pip install -r requirements-extras.txt).",
            marks=pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed"),
        ),
    ],
)
def test_a_service_with_an_unusable_history_prints_the_reason(
    tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    assert_start_fails(tmp_path, line, **{"HISTORY": "on", **settings})


def test_memory_storage_works_with_one_worker(tmp_path: Path) -> None:
    with Server(tmp_path, **HISTORY_ON, MEDIA_STORAGE="memory://", WEB_CONCURRENCY=1) as server:
        entry = store(server, "ann")
        assert call(server, "ann", "GET", f"/api/history/{entry}/media/poster.jpg").content == b"a poster"
        call(server, "ann", "DELETE", "/api/history")
        assert call(server, "ann", "GET", f"/api/history/{entry}/media/poster.jpg").status_code == 404


def test_without_a_history_nothing_is_stored_and_the_error_says_so(tmp_path: Path) -> None:
    with Server(tmp_path, **TOKENS, WEB_CONCURRENCY=1) as server:
        response = post(server, "ann", "/thumbnail", b"clip")
        assert response.status_code == 200
        assert "x-history-id" not in response.headers
        response = call(server, "ann", "GET", "/api/history")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert "HISTORY=on" in response.json()["detail"]
        assert not (tmp_path / "data").exists()


# --- concurrency and privacy ---


def test_concurrent_users_find_only_their_own_entries(server: Server) -> None:
    users = [f"concurrent user {number}" for number in range(6)]
    pairs = list(itertools.product(users, range(5)))
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda pair: store(server, pair[0], f"clip {pair[1]}".encode()), pairs))
    for user in users:
        own = {id_ for (owner, _), id_ in zip(pairs, ids, strict=True) if owner == user}
        assert {entry["id"] for entry in get(server, user)["entries"]} == own


def test_no_clip_and_no_user_id_is_stored_in_plain_text(server: Server, user: str) -> None:
    secret = b"the secret of " + user.encode()
    entry = store(server, user, secret)
    get(server, user, f"/{entry}")
    for path in (path for path in server.folder.rglob("*") if path.is_file() and "media" not in path.parts):
        data = path.read_bytes()
        assert secret not in data and base64.b64encode(secret) not in data
        assert path.parent.name == "data" or entry.encode() not in data
    assert server.log_rows(endpoint="/api/history/<entry_id>")


@pytest.mark.parametrize("path", ["/api/history", "/logs"])
def test_every_caller_may_ask_for_the_methods_of_a_path(server: Server, user: str, path: str) -> None:
    for headers in ({}, HEADERS, as_user(user)):
        response = server.call("OPTIONS", path, headers=headers)
        assert (response.status_code, "GET" in response.headers["Allow"]) == (200, True)


def test_listed_origins_may_delete_and_read_the_id(tmp_path: Path) -> None:
    with Server(tmp_path, **HISTORY_ON, CORS_ORIGINS="https://app.example", WEB_CONCURRENCY=1) as server:
        headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "DELETE"}
        preflight = server.call("OPTIONS", "/api/history", headers=headers)
        assert preflight.status_code == 204
        assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
        assert "x-history-id" in preflight.headers["Access-Control-Expose-Headers"]


class TestOpenApi:
    @pytest.fixture
    def document(self, server: Server) -> dict[str, Any]:
        return server.call("GET", "/openapi.json").json()

    def test_it_has_the_routes(self, document: dict[str, Any]) -> None:
        routes = {
            (method.upper(), path.removeprefix("/api/history"))
            for path, item in document["paths"].items()
            for method in item
            if path.startswith("/api/history") and method != "parameters"
        }
        assert routes == {
            (method, re.sub("0{32}", "{entry_id}", path).replace("poster.jpg", "{name}")) for method, path in ROUTES
        }
        headers = {
            each["name"] for each in document["paths"]["/api/history"]["get"]["parameters"] if each["in"] == "header"
        }
        assert headers == {"x-client-id", "x-request-id"}

    def test_every_rejection_is_documented(self, document: dict[str, Any]) -> None:
        for path, item in document["paths"].items():
            if path.startswith("/api/history"):
                for method in item.keys() - {"parameters"}:
                    assert item[method]["responses"].keys() >= {"401", "403", "404"}
        for path in ("/predict", "/thumbnail"):
            assert "x-history-id" in document["paths"][path]["post"]["responses"]["200"]["headers"]

    def test_answers_match_the_document(self, server: Server, user: str, document: dict[str, Any]) -> None:
        store(server, user)
        listed, summary = get(server, user), get(server, user, "/summary")
        schemas = document["components"]["schemas"]
        for name, answer in (
            ("History", listed),
            ("Entry", listed["entries"][0]),
            ("StoredMedia", listed["entries"][0]["media"][0]),
            ("Summary", summary),
            ("Period", summary["periods"][0]),
            ("Baseline", summary["baseline"]),
            ("Deleted", call(server, user, "DELETE", "/api/history").json()),
        ):
            assert answer.keys() == schemas[name]["properties"].keys()


def test_two_workers_share_one_history(server: Server, user: str) -> None:
    entry = store(server, user)

    def read(_: int) -> str:
        response = requests.get(f"{server.url}/api/history/{entry}", headers=as_user(user), timeout=30)
        return response.json()["id"]

    def workers() -> set[int]:
        # At the same time: one worker may answer any number of calls that come one after the other.
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(read, range(32))) == {entry}
        return {row["worker"] for row in server.log_rows(endpoint="/api/history/<entry_id>")}

    wait_until(lambda: len(workers()) == 2)


def test_a_real_clips_cover_is_stored_until_it_is_deleted(tmp_path: Path) -> None:
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(50))
    settings = {**HISTORY_ON, "MEDIA_STORAGE": f"file://{tmp_path}/media", "WEB_CONCURRENCY": 1}
    with Server(tmp_path, REAL_APP, forked=True, **settings) as server:
        predicted = post(server, "ann", "/predict", clip)
        cover = post(server, "ann", "/thumbnail", clip, duration=1, size=160)
        id_ = cover.headers["x-history-id"]
        assert predicted.headers["x-history-id"] == id_
        entry = get(server, "ann", f"/{id_}")
        assert entry["emotion"] == entry["mood"] == predicted.json()["emotion"]
        assert entry["probabilities"] == pytest.approx(predicted.json()["probabilities"], abs=0.001)
        assert entry["facts"] == {"duration": pytest.approx(2, abs=0.05), "faces": 1, "certain": True}
        loop = call(server, "ann", "GET", f"/api/history/{id_}/media/thumbnail.mp4").content
        assert base64.b64encode(loop).decode() == cover.json()["thumbnail"]
        assert {frame.shape for frame in synthetic_video.decode_frames(loop)} == {(120, 160, 3)}
        assert get(server, "ann", "/summary")["emotions"][entry["mood"]] == 1
        assert post(
            server, "ann", "/thumbnail", synthetic_video.encode_video(synthetic_frames.noise_frames(20)), duration=1
        ).ok
        assert [each["mood"] for each in get(server, "ann")["entries"]] == [None, entry["mood"]]
        picture = post(server, "ann", "/api/detect", _encode_rotated(synthetic_frames.portrait()))
        assert picture.json()["emotion"] == "happy"
        copy = call(server, "ann", "GET", f"/api/history/{picture.headers['x-history-id']}/media/picture.jpg").content
        with Image.open(io.BytesIO(copy)) as opened:
            assert (opened.format, opened.size, dict(opened.getexif())) == ("JPEG", (1280, 1280), {})
            assert np.abs(np.asarray(opened.resize((512, 512)), float) - synthetic_frames.portrait()).mean() < 5
        assert call(server, "ann", "DELETE", "/api/history").json() == {"deleted": 3}
        assert list((tmp_path / "media").iterdir()) == []


def _encode_rotated(rgb: np.ndarray) -> bytes:
    """Encode a JPEG three times as large and rotated, with the EXIF orientation that undoes the rotation."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    large = np.repeat(np.repeat(np.rot90(rgb), 3, axis=0), 3, axis=1)
    Image.fromarray(large).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()
