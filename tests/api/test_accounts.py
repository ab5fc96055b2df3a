"""What signing in changes: who may do what, by header or cookie, and what they see of themselves."""

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests
from flask.testing import FlaskClient

from api.app import create_app
from api.auth.token_verifiers import Token, TokenVerifier
from api.errors import ApiError
from api.settings import Settings
from moodreel.storage import call_log
from moodreel.storage.call_log import CallLog, CallOutcome
from moodreel.storage.timestamps import format_timestamp
from tests.support import accounts
from tests.support.accounts import ISSUER, PROVIDER, UNKNOWN_KEY, openid_token, own_token
from tests.support.server import DATE, KEY, Server, video_body

DAY = 86_400
ORIGIN = "https://app.example"


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    return client_without_models(accounts.settings(tmp_path))


def client_without_models(settings: Settings) -> FlaskClient:
    """Make a client of an app that loads no model: no call in this file reaches one, and loading takes 120 MB."""
    app = create_app(settings, engine=object(), text_pipeline=object(), audiovisual_pipeline=object())
    return app.test_client(use_cookies=False)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def cookie(text: str, name: str = "access_token") -> dict[str, str]:
    return {"Cookie": f"{name}={text}"}


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.get_json()["code"]


# --- who calls ---

ADA, BOB = own_token(userId="ada"), own_token(userId="bob")
BAD = own_token(userId="ada")[:-6]
WHO: dict[str, tuple[dict[str, str], str]] = {
    "a token": (bearer(ADA), "ada"),
    "a provider's token": (bearer(openid_token(sub="eve")), "eve"),
    "a token, written otherwise": ({"Authorization": f"bEARER   {ADA} "}, "ada"),
    "a key": ({"x-api-key": KEY}, "key"),
    "a cookie": (cookie(ADA), "ada"),
    "the other cookie": (cookie(ADA, "token"), "ada"),
    "both cookies": ({"Cookie": f"token={BOB}; access_token={ADA}"}, "ada"),
    "an empty cookie and the other": ({"Cookie": f"access_token=; token={BOB}"}, "bob"),
    "a token and a key": (bearer(ADA) | {"x-api-key": KEY}, "ada"),
    "a token and a wrong key": (bearer(ADA) | {"x-api-key": "wrong"}, "ada"),
    "a token and a cookie": (bearer(ADA) | cookie(BOB), "ada"),
    "a token and a bad cookie": (bearer(ADA) | cookie(BAD), "ada"),
    "a key and a cookie": ({"x-api-key": KEY} | cookie(ADA), "key"),
    "a key and a bad cookie": ({"x-api-key": KEY} | cookie(BAD), "key"),
    "a key beside a proxy's own sign-in": ({"x-api-key": KEY, "Authorization": "Basic YTpi"}, "key"),
    "a bad token and a key": (bearer(BAD) | {"x-api-key": KEY}, "invalid_token"),
    "a bad token and a cookie": (bearer(BAD) | cookie(ADA), "invalid_token"),
    "an empty token and a key": ({"Authorization": "Bearer", "x-api-key": KEY}, "invalid_token"),
    "two tokens": (bearer(f"{ADA}, Bearer {ADA}"), "invalid_token"),
    "a key as token": (bearer(KEY), "invalid_token"),
    "a wrong key and a cookie": ({"x-api-key": "wrong"} | cookie(ADA), "unauthorized"),
    "a bad cookie": (cookie(BAD), "invalid_token"),
    "a bad cookie and the other": ({"Cookie": f"access_token={BAD}; token={ADA}"}, "invalid_token"),
    "another cookie": (cookie(ADA, "session"), "unauthorized"),
    "another scheme": ({"Authorization": f"Token {ADA}"}, "unauthorized"),
    "a token without its scheme": ({"Authorization": ADA}, "unauthorized"),
    "nothing": ({}, "unauthorized"),
}


@pytest.mark.parametrize("name", WHO)
def test_the_first_credential_sent_takes_precedence(client: FlaskClient, name: str) -> None:
    headers, expected = WHO[name]
    response = client.get("/auth/profile", headers=headers)
    if expected in ("invalid_token", "unauthorized"):
        assert code(response) == (401, expected)
        assert "Bearer" in response.headers["WWW-Authenticate"]
    else:
        profile = response.get_json()
        assert (profile["user_id"] or profile["id"][:3]) == expected


def test_a_token_in_the_url_is_ignored(client: FlaskClient) -> None:
    assert code(client.get(f"/auth/profile?access_token={ADA}"))[0] == 401


@pytest.mark.parametrize("headers", [bearer(BAD), cookie(BAD), bearer("")])
def test_public_routes_ignore_a_bad_token(client: FlaskClient, headers: dict[str, str]) -> None:
    for path in ("/health", "/ready", "/metrics", "/openapi.json"):
        assert client.get(path, headers=headers).status_code == 200


def test_an_expired_token_has_its_own_error_code(client: FlaskClient) -> None:
    expired = own_token(iat=time.time() - 7200, exp=time.time() - 3600)
    for headers in (bearer(expired), cookie(expired)):
        assert code(client.get("/auth/profile", headers=headers)) == (401, "token_expired")


@pytest.mark.parametrize(("method", "path"), [("POST", "/predict"), ("POST", "/thumbnail"), ("GET", "/logs")])
def test_the_older_routes_accept_tokens_and_require_a_date(client: FlaskClient, method: str, path: str) -> None:
    admin = bearer(own_token(roles=["ADMIN"]))
    assert code(client.open(path, method=method, headers=admin)) == (400, "bad_date")
    assert code(client.open(path, method=method, headers={**admin, "date": DATE}, data=b"{")) == (400, "bad_json")


def test_a_date_is_optional_on_new_routes_but_must_be_well_formed(client: FlaskClient) -> None:
    assert client.get("/auth/profile", headers=bearer(ADA) | {"x-date": DATE}).status_code == 200
    assert code(client.get("/auth/profile", headers=bearer(ADA) | {"date": "yesterday"})) == (400, "bad_date")


def test_without_token_settings_the_error_names_the_accepted_credentials(tmp_path: Path) -> None:
    none = {"security_secret": None, "oidc_issuer": None}
    client = client_without_models(accounts.settings(tmp_path, **none))
    refused = client.get("/auth/profile", headers=bearer(ADA))
    assert code(refused) == (401, "invalid_token")
    assert "accepts no tokens" in refused.get_json()["detail"]
    stranger = client.get("/auth/profile")
    assert code(stranger) == (401, "unauthorized")
    assert "Bearer" not in stranger.get_json()["detail"] + stranger.headers["WWW-Authenticate"]


def test_unavailable_provider_keys_are_a_temporary_error(tmp_path: Path) -> None:
    settings = accounts.settings(tmp_path, oidc_jwks="http://127.0.0.1:9/nobody-listens-here")
    client = client_without_models(settings)
    response = client.get("/auth/profile", headers=bearer(openid_token()))
    assert code(response) == (503, "keys_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert client.get("/auth/profile", headers=bearer(ADA)).status_code == 200
    assert client.get("/health", headers=bearer(openid_token())).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": KEY}, 200),
        (bearer(own_token(roles=["USER", "ADMIN"])), 200),
        (bearer(openid_token(roles=["ADMIN"])), 200),
        (cookie(own_token(roles=["ADMIN"])), 200),
        (bearer(own_token(roles=["USER"])), 403),
        (bearer(own_token(roles=[])), 403),
        (bearer(own_token(roles=["admin", "ROLE_ADMIN", "ADMIN "])), 403),
        (bearer(openid_token()), 403),
        (bearer(openid_token(roles="ADMIN")), 403),
        (bearer(own_token(roles=["ADMIN"])[:-6]), 401),
        ({}, 401),
    ],
)
def test_the_log_is_readable_by_api_keys_and_administrators(
    client: FlaskClient, headers: dict[str, str], status: int
) -> None:
    response = client.get("/logs", headers={**headers, "date": DATE})
    assert response.status_code == status
    if status == 403:
        assert code(response) == (403, "forbidden")
        assert "ADMIN" in response.get_json()["detail"]


def test_the_rate_limit_applies_to_each_user(tmp_path: Path) -> None:
    client = client_without_models(accounts.settings(tmp_path, rate_limit=3))
    renewed = own_token(userId="ada", exp=time.time() + 99)
    answers = [client.get("/auth/profile", headers=bearer(text)).status_code for text in (ADA, renewed, ADA, ADA)]
    assert answers == [200, 200, 200, 429]
    assert client.get("/auth/profile", headers=bearer(BOB)).status_code == 200
    refused = client.get("/auth/profile", headers=cookie(ADA))
    assert code(refused) == (429, "rate_limited")
    assert "key" not in refused.get_json()["detail"]


# --- cookies and pages ---

OWN_PAGE: dict[str, tuple[dict[str, str], bool]] = {
    "our page, a new browser": ({"Sec-Fetch-Site": "same-origin"}, True),
    "the address bar": ({"Sec-Fetch-Site": "none"}, True),
    "our page, an old browser": ({"Origin": "http://moodreel.example"}, True),
    "our page behind TLS": ({"Origin": "https://moodreel.example"}, True),
    "our page, its port named": ({"Origin": "https://moodreel.example:443"}, True),
    "our page in capitals": ({"Origin": "https://MoodReel.example"}, True),
    "a listed page": ({"Origin": ORIGIN}, True),
    "a listed page, a new browser": ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, True),
    "a page of the same site": ({"Sec-Fetch-Site": "same-site", "Origin": "https://blog.moodreel.example"}, False),
    "a stranger's page": ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
    "a stranger's page, no origin": ({"Sec-Fetch-Site": "cross-site"}, False),
    "a stranger's page, an old browser": ({"Origin": "https://evil.example"}, False),
    "a stranger's that says it is ours": (
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://moodreel.example"},
        False,
    ),
    "a word that no browser says": ({"Sec-Fetch-Site": "same-origin, none"}, False),
    "an empty word": ({"Sec-Fetch-Site": "", "Origin": "https://moodreel.example"}, False),
    "another port": ({"Origin": "https://moodreel.example:8443"}, False),
    "a name that begins alike": ({"Origin": "https://moodreel.example.evil.example"}, False),
    "a name that ends alike": ({"Origin": "https://evilmoodreel.example"}, False),
    "a name before an @": ({"Origin": "https://moodreel.example@evil.example"}, False),
    "a path": ({"Origin": "https://moodreel.example/"}, False),
    "another scheme": ({"Origin": "ftp://moodreel.example"}, False),
    "no scheme": ({"Origin": "moodreel.example"}, False),
    "a page in a sandbox": ({"Origin": "null"}, False),
    "a star": ({"Origin": "*"}, False),
    "an empty origin": ({"Origin": ""}, False),
    "only a referrer": ({"Referer": "https://moodreel.example/"}, False),
    "nothing": ({}, False),
}


@pytest.mark.parametrize("path", ["/auth/refresh-token", "/auth/verify-token"])
@pytest.mark.parametrize("name", OWN_PAGE)
def test_a_cookie_may_change_state_only_from_same_origin_pages(tmp_path: Path, path: str, name: str) -> None:
    settings = accounts.settings(tmp_path, cors_origins=("*", ORIGIN))
    client = client_without_models(settings)
    headers, good = OWN_PAGE[name]
    response = client.post(path, headers={**headers, **cookie(ADA), "Host": "moodreel.example"})
    assert response.status_code == (200 if good else 403)
    if not good:
        assert code(response) == (403, "forbidden")
    for sent in ({**bearer(ADA), **cookie(ADA)}, bearer(ADA)):
        assert client.post(path, headers={**headers, **sent}).status_code == 200, "a token that was sent on purpose"
    read = client.get("/auth/profile", headers={**headers, **cookie(ADA)})
    assert read.status_code == 200, "reading changes nothing, and another page cannot see the answer"


def test_a_cookie_may_not_post_a_clip_from_another_origin(client: FlaskClient) -> None:
    headers = {**cookie(ADA), "date": DATE, "Origin": "https://evil.example"}
    for path in ("/predict", "/thumbnail"):
        assert code(client.post(path, headers=headers, data=b"{")) == (403, "forbidden")


def test_an_http_page_is_not_same_origin_with_an_https_service(client: FlaskClient) -> None:
    headers = {**cookie(ADA), "Host": "moodreel.example", "Origin": "http://moodreel.example"}
    environ = {"wsgi.url_scheme": "https"}
    assert code(client.post("/auth/refresh-token", headers=headers, environ_overrides=environ))[0] == 403


def test_listed_origins_may_send_cookies_and_any_origin_may_call_without(tmp_path: Path) -> None:
    client = client_without_models(accounts.settings(tmp_path, cors_origins=("*", ORIGIN)))
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    listed = client.options("/predict", headers={**ask, "Origin": ORIGIN}).headers
    assert (listed["Access-Control-Allow-Origin"], listed["Access-Control-Allow-Credentials"]) == (ORIGIN, "true")
    assert "authorization" in listed["Access-Control-Allow-Headers"].split(", ")
    stranger = client.options("/predict", headers={**ask, "Origin": "https://evil.example"}).headers
    assert stranger["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in stranger


# --- /auth/verify-token and /auth/profile ---


@pytest.mark.parametrize(
    "options",
    [
        {"headers": bearer(ADA)},
        {"headers": cookie(ADA) | {"Sec-Fetch-Site": "same-origin"}},
        {"json": {"token": ADA}},
        {"data": json.dumps({"token": ADA}), "headers": {"content-type": "text/plain"}},
        {"json": {"token": ADA}, "headers": {"x-api-key": KEY}},
        {"json": {"token": ADA}, "headers": cookie(BAD)},
        {"json": {"token": BAD}, "headers": bearer(ADA)},
    ],
)
def test_a_valid_token_is_introspected(client: FlaskClient, options: dict[str, Any]) -> None:
    answer = client.post("/auth/verify-token", **options)
    assert answer.status_code == 200
    said = answer.get_json()
    assert list(said) == ["valid", "user_id", "subject", "roles", "issuer", "issued_at", "expires_at"]
    assert (said["valid"], said["user_id"], said["subject"]) == (True, "ada", "ada@app.example")
    assert (said["roles"], said["issuer"]) == (["USER"], ISSUER)
    length = datetime.fromisoformat(said["expires_at"]) - datetime.fromisoformat(said["issued_at"])
    assert length == timedelta(days=1) and said["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        ({"headers": bearer(BAD)}, 401, "invalid_token"),
        ({"headers": bearer(BAD), "json": {"token": ADA}}, 401, "invalid_token"),
        ({"json": {"token": BAD}}, 401, "invalid_token"),
        ({"json": {"token": BAD}, "headers": cookie(ADA)}, 401, "invalid_token"),
        ({"json": {"token": ""}}, 401, "invalid_token"),
        ({"json": {"token": own_token(iat=1, exp=2)}}, 401, "token_expired"),
        ({"headers": cookie(BAD)}, 401, "invalid_token"),
        ({"headers": {"x-api-key": KEY}}, 401, "unauthorized"),
        ({}, 401, "unauthorized"),
        ({"data": b"{"}, 400, "bad_json"),
        ({"data": b"[" * 9000}, 400, "bad_json"),
        ({"json": {}}, 422, "invalid_request"),
        ({"json": {"token": 7}}, 422, "invalid_request"),
        ({"json": {"token": None}}, 422, "invalid_request"),
        ({"json": {"token": ADA, "key": "x"}}, 422, "invalid_request"),
        ({"json": [ADA]}, 422, "invalid_request"),
        ({"json": {"token": "x" * 20_000}}, 413, "too_large"),
        ({"data": b"x", "headers": {"content-encoding": "gzip"}}, 415, "unsupported_media"),
    ],
)
def test_an_invalid_token_is_a_problem(client: FlaskClient, options: dict[str, Any], status: int, word: str) -> None:
    assert code(client.post("/auth/verify-token", **options)) == (status, word)


def test_a_profile_shows_the_tokens_claims(client: FlaskClient) -> None:
    mine = client.get("/auth/profile", headers=bearer(openid_token(roles=["b", "a"]))).get_json()
    assert re.fullmatch(r"user-[0-9a-f]{16}", mine["id"])
    assert (mine["kind"], mine["user_id"], mine["roles"], mine["issuer"]) == ("token", "q8Xn0u", ["a", "b"], PROVIDER)
    assert "email" not in mine
    key = client.get("/auth/profile", headers={"x-api-key": KEY}).get_json()
    assert (key["kind"], key["id"][:4], key["user_id"], key["roles"]) == ("api_key", "key-", None, ["ADMIN"])
    assert mine.keys() == key.keys()


# --- /auth/refresh-token ---

NOON = datetime(2026, 8, 16, 12, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> TokenVerifier:
    """Tokens may be refreshed for a week."""
    return TokenVerifier.from_settings(
        accounts.settings(tmp_path_factory.mktemp("week"), security_max_age_seconds=7 * DAY)
    )


def good_at(now: float, monkeypatch: pytest.MonkeyPatch, week: TokenVerifier, text: str) -> Token:
    """Read a token as if it were now."""

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(now, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Frozen)
    return week.verify(text)


@pytest.mark.parametrize(
    ("signed_in", "issued", "length", "now", "ends"),
    [
        (None, NOON, 3600, NOON + 1, NOON + 3601),
        (None, NOON, 3600, NOON + 3599, NOON + 3599 + 3600),
        (None, NOON, 600.5, NOON + 100, NOON + 700),
        (NOON - 6 * DAY, NOON, 3600, NOON + 60, NOON + 3660),
        (NOON - 7 * DAY + 1000, NOON, 3600, NOON + 60, NOON + 1000),
        (NOON - 7 * DAY + 61, NOON, 3600, NOON + 60, NOON + 61),
        (None, NOON, 30 * DAY, NOON + DAY, NOON + 7 * DAY),
        (NOON + DAY, NOON, 3600, NOON + 60, NOON + 3660),
        (NOON - 7 * DAY + 60, NOON, 3600, NOON + 60, None),
        (NOON - 30 * DAY, NOON, 3600, NOON + 60, None),
        (None, NOON, 30 * DAY, NOON + 8 * DAY, None),
        (None, NOON, 3600, NOON + 3600, None),
        (None, NOON, 3600, NOON + 3615, None),
    ],
)
def test_a_token_is_refreshed_for_its_own_lifetime_within_the_session_limit(
    monkeypatch: pytest.MonkeyPatch,
    week: TokenVerifier,
    signed_in: float | None,
    issued: float,
    length: float,
    now: float,
    ends: float | None,
) -> None:
    times = {"iat": issued, "exp": issued + length} | ({} if signed_in is None else {"auth_time": signed_in})
    token = good_at(now, monkeypatch, week, own_token(**times, nbf=issued, jti="1", roles=["A", "B"], plan="free"))
    if ends is None:
        with pytest.raises(ApiError) as caught:
            week.renew(token, now)
        return assert_too_late(caught.value)
    renewed = week.renew(token, now)
    assert renewed.expires_at.timestamp() == ends
    again = good_at(now, monkeypatch, week, renewed.text)
    assert (again.user, again.roles, again.subject) == (token.user, token.roles, token.subject)
    assert (again.issued_at.timestamp(), again.expires_at.timestamp()) == (now, ends)
    assert again.claims["plan"] == "free" and again.claims["jti"] != "1" and "nbf" not in again.claims
    assert again.claims["auth_time"] == min(issued if signed_in is None else signed_in, issued)


def assert_too_late(error: ApiError) -> None:
    assert error.code == "token_expired"
    assert "Sign in again" in error.detail


def test_repeated_refreshes_do_not_exceed_the_session_limit(
    monkeypatch: pytest.MonkeyPatch, week: TokenVerifier
) -> None:
    now, text, renewals = NOON, own_token(iat=NOON, exp=NOON + DAY), 0
    while True:
        token = good_at(now, monkeypatch, week, text)
        assert token.expires_at.timestamp() <= NOON + 7 * DAY
        now += DAY / 2
        try:
            text = week.renew(token, now).text
        except ApiError as error:
            assert_too_late(error)
            break
        renewals += 1
    assert renewals == 13
    assert now == NOON + 7 * DAY


def test_refreshing_over_http_gives_a_token_that_works(client: FlaskClient) -> None:
    answer = client.post("/auth/refresh-token", headers=bearer(ADA))
    assert answer.status_code == 200 and "Set-Cookie" not in answer.headers
    renewed = answer.get_json()
    assert renewed.keys() == {"token", "expires_at"} and renewed["token"] != ADA
    profile = client.get("/auth/profile", headers=bearer(renewed["token"])).get_json()
    assert (profile["user_id"], profile["expires_at"]) == ("ada", renewed["expires_at"])
    assert client.get("/auth/profile", headers=bearer(ADA)).get_json()["id"] == profile["id"]


@pytest.mark.parametrize("name", ["access_token", "token"])
def test_a_refreshed_cookie_is_returned_as_a_cookie_and_not_in_the_body(client: FlaskClient, name: str) -> None:
    answer = client.post("/auth/refresh-token", headers=cookie(ADA, name) | {"Sec-Fetch-Site": "same-origin"})
    assert answer.get_json()["token"] is None
    pair, *attributes = answer.headers["Set-Cookie"].split("; ")
    set_name, _, text = pair.partition("=")
    assert set_name == name
    expires = [attribute for attribute in attributes if attribute.startswith("Expires=")]
    assert {*attributes} - {*expires} == {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} and len(expires) == 1
    assert client.get("/auth/profile", headers=cookie(text, name)).get_json()["user_id"] == "ada"


@pytest.mark.parametrize(
    ("headers", "expected", "word"),
    [
        (bearer(openid_token()), (403, "forbidden"), "identity provider"),
        ({"x-api-key": KEY}, (403, "forbidden"), "API key"),
        (bearer(own_token(iat=time.time() - 3600, exp=time.time() - 5)), (401, "token_expired"), "Sign in again"),
        (bearer(own_token(iat=time.time() - 9000, exp=time.time() - 60)), (401, "token_expired"), "Sign in again"),
        (bearer(own_token(auth_time=1)), (401, "token_expired"), "Sign in again"),
        (bearer(BAD), (401, "invalid_token"), "Sign in again"),
        ({}, (401, "unauthorized"), "Bearer"),
    ],
)
def test_other_credentials_are_not_refreshed(
    client: FlaskClient, headers: dict[str, str], expected: tuple[int, str], word: str
) -> None:
    response = client.post("/auth/refresh-token", headers=headers)
    assert code(response) == expected
    assert word in response.get_json()["detail"]


# --- /auth/usage ---


def wrote(log: CallLog, caller: str | None, at: str, seconds: float | None = None, status: int | None = 200) -> None:
    """Log a call as if it had come at that time, in UTC."""
    row = log.begin(request_id="r", method="POST", endpoint="/predict", caller=caller)
    if status is not None:
        log.finish(row, CallOutcome(status, 1.0, video_seconds=seconds))
    with sqlite3.connect(log.path) as db:
        db.execute(
            "update calls set timestamp = ? where id = ?", [format_timestamp(datetime.fromisoformat(at + "Z")), row]
        )


@pytest.fixture
def log(tmp_path: Path) -> CallLog:
    return CallLog(tmp_path / "logs" / "calls.db")


BERLIN, DAYS = ZoneInfo("Europe/Berlin"), (date(2026, 3, 28), date(2026, 3, 30))


@pytest.mark.parametrize(
    ("zone", "calls"),
    [
        ("UTC", [1, 3, 2]),
        ("Europe/Berlin", [1, 1, 3]),  # 29 March has 23 hours there
        ("Asia/Kolkata", [1, 1, 3]),
        ("America/St_Johns", [2, 3, 1]),
        ("Pacific/Kiritimati", [0, 2, 3]),
    ],
)
def test_days_follow_the_time_zone(log: CallLog, zone: str, calls: list[int]) -> None:
    for at in (
        "2026-03-28T18:29:59.999999",
        "2026-03-29T02:00:00",
        "2026-03-29T22:00:00",
        "2026-03-29T23:59:59.999999",
        "2026-03-30T00:00:00",
        "2026-03-30T22:00:00",
    ):
        wrote(log, "ada", at)
    expected = _by_hand(log, ZoneInfo(zone))
    assert [day.calls for day in log.usage("ada", *DAYS, ZoneInfo(zone))] == expected == calls


def _by_hand(log: CallLog, zone: ZoneInfo) -> list[int]:
    found = [datetime.fromisoformat(row["timestamp"]).astimezone(zone).date() for row in log.iterate()]
    return [found.count(DAYS[0] + timedelta(days=number)) for number in range(3)]


def test_day_boundaries_are_exact_at_a_daylight_saving_change(log: CallLog) -> None:
    for at in (
        "2026-10-24T21:59:59.999999",
        "2026-10-24T22:00:00",
        "2026-10-25T22:59:59.999999",
        "2026-10-25T23:00:00",
    ):
        wrote(log, "ada", at)
    days = log.usage("ada", date(2026, 10, 24), date(2026, 10, 26), BERLIN)
    assert [day.calls for day in days] == [1, 2, 1]


def test_the_usage_query_uses_an_index(log: CallLog) -> None:
    with sqlite3.connect(log.path) as db:
        arguments = {"caller": "ada", "spans": "[]", "exclude_id": None}
        plan = " / ".join(row[3] for row in db.execute(f"explain query plan {call_log._USAGE}", arguments))
    assert "idx_calls_caller_timestamp (caller=? AND timestamp>? AND timestamp<?)" in plan


def test_each_caller_sees_only_their_own_usage(client: FlaskClient, log: CallLog) -> None:
    ids = {
        name: client.get("/auth/profile", headers=headers).get_json()["id"]
        for name, headers in {"ada": bearer(ADA), "bob": bearer(BOB), "key": {"x-api-key": KEY}}.items()
    }
    wrote(log, ids["ada"], "2026-03-28T12:00", 30)
    wrote(log, ids["ada"], "2026-03-28T13:00", 6)
    wrote(log, ids["ada"], "2026-03-29T12:00", None, 422)
    wrote(log, ids["ada"], "2026-03-29T13:00", None, None)
    wrote(log, ids["ada"], "2026-03-31T00:00", 60)
    wrote(log, ids["bob"], "2026-03-28T12:00", 600)
    wrote(log, ids["key"], "2026-03-30T12:00", 90)
    wrote(log, None, "2026-03-28T12:00", 1200)
    span = {"start_date": "2026-03-28", "end_date": "2026-03-30"}

    def usage(headers: dict[str, str]) -> dict[str, Any]:
        return client.get("/auth/usage", headers=headers, query_string=span).get_json()

    assert usage(bearer(ADA)) == {
        **span,
        "tz": "UTC",
        "calls": 4,
        "minutes": 0.6,
        "days": [
            {"date": "2026-03-28", "calls": 2, "minutes": 0.6},
            {"date": "2026-03-29", "calls": 2, "minutes": 0.0},
            {"date": "2026-03-30", "calls": 0, "minutes": 0.0},
        ],
    }
    assert [day["minutes"] for day in usage(bearer(BOB))["days"]] == [10.0, 0.0, 0.0]
    assert [day["minutes"] for day in usage({"x-api-key": KEY})["days"]] == [0.0, 0.0, 1.5]


def test_usage_defaults_to_thirty_days_without_the_current_call(client: FlaskClient) -> None:
    before = datetime.now(UTC).date()
    for _ in range(3):
        client.get("/auth/profile", headers=bearer(ADA))
    answer = client.get("/auth/usage", headers=bearer(ADA)).get_json()
    assert (len(answer["days"]), answer["calls"]) == (30, 3)
    assert date.fromisoformat(answer["end_date"]) in (before, datetime.now(UTC).date())
    assert client.get("/auth/usage", headers=bearer(ADA)).get_json()["calls"] == 4


@pytest.mark.parametrize(
    ("query", "days", "zone"),
    [
        ({"end_date": "2026-03-30"}, 30, "UTC"),
        ({"start_date": "2024-01-01", "end_date": "2024-12-31"}, 366, "UTC"),
        ({"start_date": "2026-03-30", "end_date": "2026-03-30", "tz": "America/Argentina/Buenos_Aires"}, 1, None),
        ({"tz": "Etc/GMT+12"}, 30, None),
        ({"start_date": "0001-02-01", "end_date": "0001-02-02", "tz": "Pacific/Kiritimati"}, 2, None),
    ],
)
def test_a_range_of_days_can_be_requested(
    client: FlaskClient, query: dict[str, str], days: int, zone: str | None
) -> None:
    answer = client.get("/auth/usage", headers=bearer(ADA), query_string=query).get_json()
    assert (len(answer["days"]), answer["tz"]) == (days, zone or query["tz"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start_date": "yesterday"}, "start_date"),
        ({"start_date": "2026-03-28T12:00:00Z"}, "start_date"),
        ({"end_date": "2026-02-30"}, "end_date"),
        ({"end_date": "0001-01-01"}, "end_date"),
        ({"end_date": "9999-12-31"}, "end_date"),
        ({"start_date": "2026-03-30", "end_date": "2026-03-29"}, "start_date"),
        ({"start_date": "2999-01-01"}, "start_date"),
        ({"start_date": "2024-01-01", "end_date": "2025-01-01"}, "start_date"),
        ({"start_date": "0001-01-05"}, "start_date"),
        ({"tz": "Mars/Olympus"}, "tz"),
        ({"tz": ""}, "tz"),
        ({"tz": "Europe"}, "tz"),
        ({"tz": "/etc/localtime"}, "tz"),
        ({"tz": "../../etc/passwd"}, "tz"),
        ({"tz": "zone.tab"}, "tz"),
        ({"tz": "Europe/Berlin\x00"}, "tz"),
        ({"tz": "x" * 5000}, "tz"),
        ({"tz": "\udcff"}, "tz"),
        ({"caller": "key-1"}, "caller"),
    ],
)
def test_an_invalid_range_is_rejected_by_field(client: FlaskClient, query: dict[str, str], field: str) -> None:
    encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in query.items()}
    response = client.get("/auth/usage", headers=bearer(ADA), query_string=encoded)
    assert code(response) == (422, "invalid_request")
    assert list(response.get_json()["errors"]) == [field]


# --- the document ---


def test_protected_routes_document_every_security_scheme(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    schemes = document["components"]["securitySchemes"]
    assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
    assert {scheme["name"] for scheme in schemes.values() if scheme.get("in") == "cookie"} == {"access_token", "token"}
    for path, method in (
        ("/predict", "post"),
        ("/logs", "get"),
        ("/auth/usage", "get"),
        ("/auth/refresh-token", "post"),
    ):
        operation = document["paths"][path][method]
        assert [list(way) for way in operation["security"]] == [[name] for name in schemes]
        named = {name for status in ("401", "403", "503") for name in _codes(operation, status)}
        assert named >= {"unauthorized", "invalid_token", "token_expired", "forbidden", "keys_unavailable"}
        headers = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "header"}
        assert ("date" in headers) == (not path.startswith("/auth"))
    assert {} in document["paths"]["/auth/verify-token"]["post"]["security"]


def _codes(operation: dict[str, Any], status: str) -> list[str]:
    return list(operation["responses"][status]["content"]["application/problem+json"]["examples"])


def test_answers_match_the_openapi_document(client: FlaskClient) -> None:
    schemas = client.get("/openapi.json").get_json()["components"]["schemas"]
    usage = client.get("/auth/usage", headers=bearer(ADA)).get_json()
    for name, answer in (
        ("VerifiedToken", client.post("/auth/verify-token", headers=bearer(ADA)).get_json()),
        ("Profile", client.get("/auth/profile", headers=bearer(ADA)).get_json()),
        ("RenewedToken", client.post("/auth/refresh-token", headers=bearer(ADA)).get_json()),
        ("Usage", usage),
        ("Day", usage["days"][0]),
    ):
        assert answer.keys() == schemas[name]["properties"].keys()


# --- over a real server ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("accounts")
    with Server(folder, LOG_LEVEL="DEBUG", **accounts.environment(folder)) as server:
        yield server


@pytest.mark.server
def test_calls_and_minutes_are_summed(server: Server) -> None:
    ada = bearer(own_token(userId="of calls and minutes"))
    for data in (b"a", b"b", b"raise NoFace"):
        requests.post(f"{server.url}/predict", headers={**ada, "date": DATE}, json=video_body(data), timeout=30)
    today = requests.get(f"{server.url}/auth/usage", headers=ada, timeout=30).json()["days"][-1]
    assert (today["calls"], today["minutes"]) == (3, round(2 * 4.98 / 60, 3))


@pytest.mark.server
def test_concurrent_users_are_not_mixed_up(server: Server) -> None:
    def whoami(number: int) -> bool:
        name = f"user {number}"
        texts = [openid_token(sub=name) if number % 2 else own_token(userId=name) for _ in range(3)]
        answers = [requests.get(f"{server.url}/auth/profile", headers=bearer(text), timeout=30) for text in texts]
        return {answer.json()["user_id"] for answer in answers} == {name}

    with ThreadPoolExecutor(16) as users:
        assert all(users.map(whoami, range(64)))


@pytest.mark.server
def test_the_log_and_the_output_contain_no_part_of_a_token(server: Server) -> None:
    secret = {"sub": "sub-ywqz", "userId": "id-ywqz", "plan": "plan-ywqz"}
    good, provider = own_token(**secret, roles=["ADMIN"]), openid_token(sub="id-ywqz", email="mail-ywqz")
    texts = [
        good,
        provider,
        good[:-6],
        own_token(**secret, iat=1, exp=2),
        openid_token(UNKNOWN_KEY),
        openid_token(kid="kid-ywqz"),
    ]
    for text in texts:
        for headers in (bearer(text), cookie(text), cookie(text, "token"), {**bearer(text), "date": DATE}):
            for path in ("/auth/profile", "/auth/usage", "/logs", "/health", "/nowhere"):
                requests.get(server.url + path, headers=headers, timeout=30)
            for path in ("/auth/verify-token", "/auth/refresh-token", "/predict"):
                answer = requests.post(server.url + path, headers=headers, timeout=30)
        requests.post(f"{server.url}/auth/verify-token", json={"token": text}, timeout=30)
        requests.post(
            f"{server.url}/predict", headers={**bearer(text), "date": DATE}, json=video_body(b"crash"), timeout=30
        )
    assert answer.status_code == 401
    assert "RuntimeError" in server.output, "the output is written to"
    rows = server.log_rows()
    callers = {row["caller"] for row in rows if row["endpoint"] == "/auth/usage"} - {None}
    assert len(callers) >= 2 and all(re.fullmatch(r"user-[0-9a-f]{16}", caller) for caller in callers)
    kept = server.output + json.dumps(rows) + server.log_path.read_bytes().decode("latin-1")
    kept += server.log_path.with_name("calls.db-wal").read_bytes().decode("latin-1")
    for text in texts:
        for part in text.split("."):
            assert part[:40] not in kept and part[-40:] not in kept
    assert "ywqz" not in kept


@pytest.mark.server
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"OIDC_JWKS": "nowhere.json"}, "OIDC_JWKS: the file nowhere.json cannot be used"),
        ({"SECURITY_SECRET": "c2hvcnQ="}, "SECURITY_SECRET must be base64 of at least 64 random bytes."),
        ({"SECURITY_ISSUER": ""}, "SECURITY_ISSUER is empty"),
    ],
)
def test_a_service_with_incomplete_token_settings_does_not_start(
    tmp_path: Path, settings: dict[str, str], line: str
) -> None:
    server = Server(tmp_path, app="api.wsgi:app", **{**accounts.environment(tmp_path), **settings})
    server.start()
    assert server.process is not None
    assert server.process.wait(60) != 0
    assert f"moodreel cannot start: {line}" in server.output
    assert "Traceback" not in server.output and "c2hvcnQ" not in server.output
