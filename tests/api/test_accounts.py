"""Authentication by header or cookie, roles, CSRF protection, token refresh, profile and usage."""

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
from moodreel.storage.call_log import Call, CallLog
from moodreel.storage.timestamps import format_timestamp
from tests.support import accounts
from tests.support.accounts import ISSUER, PROVIDER, UNKNOWN_KEY, openid_token, own_token
from tests.support.server import DATE, KEY, Server, assert_start_fails, video_body

DAY = 86_400
ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    return client_without_models(accounts.settings(tmp_path_factory.mktemp("accounts-app")))


@pytest.fixture(scope="module")
def cors_client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    folder = tmp_path_factory.mktemp("accounts-cors")
    return client_without_models(accounts.settings(folder, cors_origins=("*", ORIGIN)))


def client_without_models(settings: Settings) -> FlaskClient:
    """Make a client of an app that loads no model: no request of these tests needs one."""
    app = create_app(settings, engine=object(), text_pipeline=object(), audiovisual_pipeline=object())
    return app.test_client(use_cookies=False)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def cookie(text: str, name: str = "access_token") -> dict[str, str]:
    return {"Cookie": f"{name}={text}"}


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.get_json()["code"]


# --- credentials ---

ADA, BOB = own_token(userId="ada"), own_token(userId="bob")
INVALID = own_token(userId="ada")[:-6]
CREDENTIALS: dict[str, tuple[dict[str, str], str]] = {
    "bearer token": (bearer(ADA), "ada"),
    "provider's token": (bearer(openid_token(sub="eve")), "eve"),
    "other case and spaces": ({"Authorization": f"bEARER   {ADA} "}, "ada"),
    "API key": ({"x-api-key": KEY}, "key"),
    "access_token cookie": (cookie(ADA), "ada"),
    "token cookie": (cookie(ADA, "token"), "ada"),
    "both cookies": ({"Cookie": f"token={BOB}; access_token={ADA}"}, "ada"),
    "empty access_token cookie and token cookie": ({"Cookie": f"access_token=; token={BOB}"}, "bob"),
    "token and API key": (bearer(ADA) | {"x-api-key": KEY}, "ada"),
    "token and wrong API key": (bearer(ADA) | {"x-api-key": "wrong"}, "ada"),
    "token and cookie": (bearer(ADA) | cookie(BOB), "ada"),
    "token and invalid cookie": (bearer(ADA) | cookie(INVALID), "ada"),
    "API key and cookie": ({"x-api-key": KEY} | cookie(ADA), "key"),
    "API key and invalid cookie": ({"x-api-key": KEY} | cookie(INVALID), "key"),
    "API key and Basic authentication of a proxy": ({"x-api-key": KEY, "Authorization": "Basic YTpi"}, "key"),
    "invalid token and API key": (bearer(INVALID) | {"x-api-key": KEY}, "invalid_token"),
    "invalid token and cookie": (bearer(INVALID) | cookie(ADA), "invalid_token"),
    "empty token and API key": ({"Authorization": "Bearer", "x-api-key": KEY}, "invalid_token"),
    "two tokens": (bearer(f"{ADA}, Bearer {ADA}"), "invalid_token"),
    "API key as token": (bearer(KEY), "invalid_token"),
    "wrong API key and cookie": ({"x-api-key": "wrong"} | cookie(ADA), "unauthorized"),
    "invalid cookie": (cookie(INVALID), "invalid_token"),
    "invalid access_token cookie and token cookie": (
        {"Cookie": f"access_token={INVALID}; token={ADA}"},
        "invalid_token",
    ),
    "cookie of another name": (cookie(ADA, "session"), "unauthorized"),
    "other authorization scheme": ({"Authorization": f"Token {ADA}"}, "unauthorized"),
    "token without scheme": ({"Authorization": ADA}, "unauthorized"),
    "no credentials": ({}, "unauthorized"),
}


@pytest.mark.parametrize("name", CREDENTIALS)
def test_the_first_credential_sent_takes_precedence(client: FlaskClient, name: str) -> None:
    headers, expected = CREDENTIALS[name]
    response = client.get("/auth/profile", headers=headers)
    if expected in ("invalid_token", "unauthorized"):
        assert code(response) == (401, expected)
        assert "Bearer" in response.headers["WWW-Authenticate"]
    else:
        profile = response.get_json()
        assert (profile["user_id"] or profile["id"][:3]) == expected


def test_a_token_in_the_url_is_ignored(client: FlaskClient) -> None:
    assert code(client.get(f"/auth/profile?access_token={ADA}"))[0] == 401


@pytest.mark.parametrize("headers", [bearer(INVALID), cookie(INVALID), bearer("")])
def test_public_routes_ignore_an_invalid_token(client: FlaskClient, headers: dict[str, str]) -> None:
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
    client = client_without_models(accounts.settings(tmp_path, security_secret=None, oidc_issuer=None))
    with_token = client.get("/auth/profile", headers=bearer(ADA))
    assert code(with_token) == (401, "invalid_token")
    assert "accepts no tokens" in with_token.get_json()["detail"]
    without = client.get("/auth/profile")
    assert code(without) == (401, "unauthorized")
    assert "Bearer" not in without.get_json()["detail"] + without.headers["WWW-Authenticate"]


def test_unavailable_provider_keys_are_a_temporary_error(tmp_path: Path) -> None:
    settings = accounts.settings(tmp_path, oidc_jwks="http://127.0.0.1:9/jwks")
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
    statuses = [client.get("/auth/profile", headers=bearer(text)).status_code for text in (ADA, renewed, ADA, ADA)]
    assert statuses == [200, 200, 200, 429]
    assert client.get("/auth/profile", headers=bearer(BOB)).status_code == 200
    rejected = client.get("/auth/profile", headers=cookie(ADA))
    assert code(rejected) == (429, "rate_limited")
    assert "key" not in rejected.get_json()["detail"]


# --- cookies and origins ---

SAME_ORIGIN_CASES: dict[str, tuple[dict[str, str], bool]] = {
    "same origin by Sec-Fetch-Site": ({"Sec-Fetch-Site": "same-origin"}, True),
    "address bar": ({"Sec-Fetch-Site": "none"}, True),
    "same origin by Origin": ({"Origin": "http://moodreel.example"}, True),
    "same host over HTTPS": ({"Origin": "https://moodreel.example"}, True),
    "default port written out": ({"Origin": "https://moodreel.example:443"}, True),
    "host in other case": ({"Origin": "https://MoodReel.example"}, True),
    "listed origin": ({"Origin": ORIGIN}, True),
    "listed origin with Sec-Fetch-Site": ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, True),
    "other origin of the same site": (
        {"Sec-Fetch-Site": "same-site", "Origin": "https://blog.moodreel.example"},
        False,
    ),
    "cross-site by Sec-Fetch-Site": ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, False),
    "cross-site without Origin": ({"Sec-Fetch-Site": "cross-site"}, False),
    "other origin by Origin": ({"Origin": "https://evil.example"}, False),
    "cross-site with our Origin": ({"Sec-Fetch-Site": "cross-site", "Origin": "https://moodreel.example"}, False),
    "invalid Sec-Fetch-Site": ({"Sec-Fetch-Site": "same-origin, none"}, False),
    "empty Sec-Fetch-Site": ({"Sec-Fetch-Site": "", "Origin": "https://moodreel.example"}, False),
    "other port": ({"Origin": "https://moodreel.example:8443"}, False),
    "our host as a prefix": ({"Origin": "https://moodreel.example.evil.example"}, False),
    "our host as a suffix": ({"Origin": "https://evilmoodreel.example"}, False),
    "our host as user info": ({"Origin": "https://moodreel.example@evil.example"}, False),
    "Origin with a path": ({"Origin": "https://moodreel.example/"}, False),
    "other URL scheme": ({"Origin": "ftp://moodreel.example"}, False),
    "Origin without a scheme": ({"Origin": "moodreel.example"}, False),
    "null Origin of a sandbox": ({"Origin": "null"}, False),
    "Origin *": ({"Origin": "*"}, False),
    "empty Origin": ({"Origin": ""}, False),
    "Referer only": ({"Referer": "https://moodreel.example/"}, False),
    "no header": ({}, False),
}


@pytest.mark.parametrize("path", ["/auth/refresh-token", "/auth/verify-token"])
@pytest.mark.parametrize("name", SAME_ORIGIN_CASES)
def test_a_cookie_may_change_state_only_from_same_origin_pages(cors_client: FlaskClient, path: str, name: str) -> None:
    headers, allowed = SAME_ORIGIN_CASES[name]
    response = cors_client.post(path, headers={**headers, **cookie(ADA), "Host": "moodreel.example"})
    assert response.status_code == (200 if allowed else 403)
    if not allowed:
        assert code(response) == (403, "forbidden")
    for credentials in ({**bearer(ADA), **cookie(ADA)}, bearer(ADA)):
        response = cors_client.post(path, headers={**headers, **credentials})
        assert response.status_code == 200, "browsers do not send this header by themselves"
    response = cors_client.get("/auth/profile", headers={**headers, **cookie(ADA)})
    assert response.status_code == 200, "GET changes no state, and CORS hides the response from other origins"


def test_a_cookie_may_not_post_a_clip_from_another_origin(client: FlaskClient) -> None:
    headers = {**cookie(ADA), "date": DATE, "Origin": "https://evil.example"}
    for path in ("/predict", "/thumbnail"):
        assert code(client.post(path, headers=headers, data=b"{")) == (403, "forbidden")


def test_an_http_page_is_not_same_origin_with_an_https_service(client: FlaskClient) -> None:
    headers = {**cookie(ADA), "Host": "moodreel.example", "Origin": "http://moodreel.example"}
    environ = {"wsgi.url_scheme": "https"}
    assert code(client.post("/auth/refresh-token", headers=headers, environ_overrides=environ))[0] == 403


def test_listed_origins_may_send_cookies_and_any_origin_may_call_without(cors_client: FlaskClient) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    listed = cors_client.options("/predict", headers={**preflight, "Origin": ORIGIN}).headers
    assert (listed["Access-Control-Allow-Origin"], listed["Access-Control-Allow-Credentials"]) == (ORIGIN, "true")
    assert "authorization" in listed["Access-Control-Allow-Headers"].split(", ")
    other = cors_client.options("/predict", headers={**preflight, "Origin": "https://evil.example"}).headers
    assert other["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in other


# --- /auth/verify-token and /auth/profile ---


@pytest.mark.parametrize(
    "options",
    [
        {"headers": bearer(ADA)},
        {"headers": cookie(ADA) | {"Sec-Fetch-Site": "same-origin"}},
        {"json": {"token": ADA}},
        {"data": json.dumps({"token": ADA}), "headers": {"content-type": "text/plain"}},
        {"json": {"token": ADA}, "headers": {"x-api-key": KEY}},
        {"json": {"token": ADA}, "headers": cookie(INVALID)},
        {"json": {"token": INVALID}, "headers": bearer(ADA)},
    ],
)
def test_a_valid_token_is_introspected(client: FlaskClient, options: dict[str, Any]) -> None:
    response = client.post("/auth/verify-token", **options)
    assert response.status_code == 200
    answer = response.get_json()
    assert list(answer) == ["valid", "user_id", "subject", "roles", "issuer", "issued_at", "expires_at"]
    assert (answer["valid"], answer["user_id"], answer["subject"]) == (True, "ada", "ada@app.example")
    assert (answer["roles"], answer["issuer"]) == (["USER"], ISSUER)
    lifetime = datetime.fromisoformat(answer["expires_at"]) - datetime.fromisoformat(answer["issued_at"])
    assert lifetime == timedelta(days=1) and answer["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        ({"headers": bearer(INVALID)}, 401, "invalid_token"),
        ({"headers": bearer(INVALID), "json": {"token": ADA}}, 401, "invalid_token"),
        ({"json": {"token": INVALID}}, 401, "invalid_token"),
        ({"json": {"token": INVALID}, "headers": cookie(ADA)}, 401, "invalid_token"),
        ({"json": {"token": ""}}, 401, "invalid_token"),
        ({"json": {"token": own_token(iat=1, exp=2)}}, 401, "token_expired"),
        ({"headers": cookie(INVALID)}, 401, "invalid_token"),
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
def test_an_invalid_token_is_a_problem(client: FlaskClient, options: dict[str, Any], status: int, error: str) -> None:
    assert code(client.post("/auth/verify-token", **options)) == (status, error)


def test_a_profile_shows_the_tokens_claims(client: FlaskClient) -> None:
    token = client.get("/auth/profile", headers=bearer(openid_token(roles=["b", "a"]))).get_json()
    assert re.fullmatch(r"user-[0-9a-f]{16}", token["id"])
    assert (token["kind"], token["user_id"], token["roles"], token["issuer"]) == (
        "token",
        "q8Xn0u",
        ["a", "b"],
        PROVIDER,
    )
    assert "email" not in token
    key = client.get("/auth/profile", headers={"x-api-key": KEY}).get_json()
    assert (key["kind"], key["id"][:4], key["user_id"], key["roles"]) == ("api_key", "key-", None, ["ADMIN"])
    assert token.keys() == key.keys()


# --- /auth/refresh-token ---

NOON = datetime(2026, 8, 16, 12, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def week_verifier(tmp_path_factory: pytest.TempPathFactory) -> TokenVerifier:
    """Make a verifier that refreshes tokens for a week after the sign-in."""
    return TokenVerifier.from_settings(
        accounts.settings(tmp_path_factory.mktemp("week"), security_max_age_seconds=7 * DAY)
    )


def verify_at(now: float, monkeypatch: pytest.MonkeyPatch, verifier: TokenVerifier, text: str) -> Token:
    """Verify a token as if it were that time."""

    class Frozen(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(now, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Frozen)
    return verifier.verify(text)


@pytest.mark.parametrize(
    ("auth_time", "issued", "lifetime", "now", "expires"),
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
    week_verifier: TokenVerifier,
    auth_time: float | None,
    issued: float,
    lifetime: float,
    now: float,
    expires: float | None,
) -> None:
    times = {"iat": issued, "exp": issued + lifetime} | ({} if auth_time is None else {"auth_time": auth_time})
    text = own_token(**times, nbf=issued, jti="1", roles=["A", "B"], plan="free")
    token = verify_at(now, monkeypatch, week_verifier, text)
    if expires is None:
        with pytest.raises(ApiError) as caught:
            week_verifier.renew(token, now)
        return assert_session_expired(caught.value)
    renewed = week_verifier.renew(token, now)
    assert renewed.expires_at.timestamp() == expires
    again = verify_at(now, monkeypatch, week_verifier, renewed.text)
    assert (again.user, again.roles, again.subject) == (token.user, token.roles, token.subject)
    assert (again.issued_at.timestamp(), again.expires_at.timestamp()) == (now, expires)
    assert again.claims["plan"] == "free" and again.claims["jti"] != "1" and "nbf" not in again.claims
    assert again.claims["auth_time"] == min(issued if auth_time is None else auth_time, issued)


def assert_session_expired(error: ApiError) -> None:
    assert error.code == "token_expired"
    assert "Sign in again" in error.detail


def test_repeated_refreshes_do_not_exceed_the_session_limit(
    monkeypatch: pytest.MonkeyPatch, week_verifier: TokenVerifier
) -> None:
    now, text, refreshes = NOON, own_token(iat=NOON, exp=NOON + DAY), 0
    while True:
        token = verify_at(now, monkeypatch, week_verifier, text)
        assert token.expires_at.timestamp() <= NOON + 7 * DAY
        now += DAY / 2
        try:
            text = week_verifier.renew(token, now).text
        except ApiError as error:
            assert_session_expired(error)
            break
        refreshes += 1
    assert refreshes == 13
    assert now == NOON + 7 * DAY


def test_a_token_refreshed_over_http_is_accepted(client: FlaskClient) -> None:
    response = client.post("/auth/refresh-token", headers=bearer(ADA))
    assert response.status_code == 200 and "Set-Cookie" not in response.headers
    renewed = response.get_json()
    assert renewed.keys() == {"token", "expires_at"} and renewed["token"] != ADA
    profile = client.get("/auth/profile", headers=bearer(renewed["token"])).get_json()
    assert (profile["user_id"], profile["expires_at"]) == ("ada", renewed["expires_at"])
    assert client.get("/auth/profile", headers=bearer(ADA)).get_json()["id"] == profile["id"]


@pytest.mark.parametrize("name", ["access_token", "token"])
def test_a_refreshed_cookie_is_returned_as_a_cookie_and_not_in_the_body(client: FlaskClient, name: str) -> None:
    response = client.post("/auth/refresh-token", headers=cookie(ADA, name) | {"Sec-Fetch-Site": "same-origin"})
    assert response.get_json()["token"] is None
    pair, *attributes = response.headers["Set-Cookie"].split("; ")
    set_name, _, text = pair.partition("=")
    assert set_name == name
    expires = [attribute for attribute in attributes if attribute.startswith("Expires=")]
    assert {*attributes} - {*expires} == {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"} and len(expires) == 1
    assert client.get("/auth/profile", headers=cookie(text, name)).get_json()["user_id"] == "ada"


@pytest.mark.parametrize(
    ("headers", "expected", "remedy"),
    [
        (bearer(openid_token()), (403, "forbidden"), "identity provider"),
        ({"x-api-key": KEY}, (403, "forbidden"), "API key"),
        (bearer(own_token(iat=time.time() - 3600, exp=time.time() - 5)), (401, "token_expired"), "Sign in again"),
        (bearer(own_token(iat=time.time() - 9000, exp=time.time() - 60)), (401, "token_expired"), "Sign in again"),
        (bearer(own_token(auth_time=1)), (401, "token_expired"), "Sign in again"),
        (bearer(INVALID), (401, "invalid_token"), "Sign in again"),
        ({}, (401, "unauthorized"), "Bearer"),
    ],
)
def test_other_credentials_are_not_refreshed(
    client: FlaskClient, headers: dict[str, str], expected: tuple[int, str], remedy: str
) -> None:
    response = client.post("/auth/refresh-token", headers=headers)
    assert code(response) == expected
    assert remedy in response.get_json()["detail"]


# --- /auth/usage ---


def log_call(log: CallLog, caller: str | None, at: str, seconds: float | None = None, status: int | None = 200) -> None:
    """Log a call as of that time, in UTC."""
    call = Call.begin(request_id="r", method="POST", endpoint="/predict")
    call.identify(caller)
    call.row["timestamp"] = format_timestamp(datetime.fromisoformat(at + "Z"))
    if status is not None:
        call.finish(status, video_seconds=seconds)
    log.write(call)


@pytest.fixture
def log(tmp_path: Path) -> CallLog:
    return CallLog(tmp_path / "logs" / "calls.db")


@pytest.fixture
def new_client(tmp_path: Path) -> FlaskClient:
    """Make a client of an app whose call log is empty: the file of `log`."""
    return client_without_models(accounts.settings(tmp_path))


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
        log_call(log, "ada", at)
    expected = _count_by_day(log, ZoneInfo(zone))
    assert [day.calls for day in log.usage("ada", *DAYS, ZoneInfo(zone))] == expected == calls


def _count_by_day(log: CallLog, zone: ZoneInfo) -> list[int]:
    dates = [datetime.fromisoformat(row["timestamp"]).astimezone(zone).date() for row in log.iterate()]
    return [dates.count(DAYS[0] + timedelta(days=number)) for number in range(3)]


def test_day_boundaries_are_exact_at_a_daylight_saving_change(log: CallLog) -> None:
    for at in (
        "2026-10-24T21:59:59.999999",
        "2026-10-24T22:00:00",
        "2026-10-25T22:59:59.999999",
        "2026-10-25T23:00:00",
    ):
        log_call(log, "ada", at)
    days = log.usage("ada", date(2026, 10, 24), date(2026, 10, 26), BERLIN)
    assert [day.calls for day in days] == [1, 2, 1]


def test_the_usage_query_uses_an_index(log: CallLog) -> None:
    sql = call_log._USAGE.format(spans="(0, '', '')")
    with sqlite3.connect(log.location) as db:
        arguments = {"caller": "ada", "exclude_id": -1}
        plan = " / ".join(row[3] for row in db.execute(f"explain query plan {sql}", arguments))
    assert "idx_calls_caller_timestamp (caller=? AND timestamp>? AND timestamp<?)" in plan


def test_each_caller_sees_only_their_own_usage(new_client: FlaskClient, log: CallLog) -> None:
    ids = {
        name: new_client.get("/auth/profile", headers=headers).get_json()["id"]
        for name, headers in {"ada": bearer(ADA), "bob": bearer(BOB), "key": {"x-api-key": KEY}}.items()
    }
    log_call(log, ids["ada"], "2026-03-28T12:00", 30)
    log_call(log, ids["ada"], "2026-03-28T13:00", 6)
    log_call(log, ids["ada"], "2026-03-29T12:00", None, 422)
    log_call(log, ids["ada"], "2026-03-29T13:00", None, None)
    log_call(log, ids["ada"], "2026-03-31T00:00", 60)
    log_call(log, ids["bob"], "2026-03-28T12:00", 600)
    log_call(log, ids["key"], "2026-03-30T12:00", 90)
    log_call(log, None, "2026-03-28T12:00", 1200)
    span = {"start_date": "2026-03-28", "end_date": "2026-03-30"}

    def usage(headers: dict[str, str]) -> dict[str, Any]:
        return new_client.get("/auth/usage", headers=headers, query_string=span).get_json()

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


def test_usage_defaults_to_thirty_days_without_the_current_call(new_client: FlaskClient) -> None:
    before = datetime.now(UTC).date()
    for _ in range(3):
        new_client.get("/auth/profile", headers=bearer(ADA))
    answer = new_client.get("/auth/usage", headers=bearer(ADA)).get_json()
    assert (len(answer["days"]), answer["calls"]) == (30, 3)
    assert date.fromisoformat(answer["end_date"]) in (before, datetime.now(UTC).date())
    assert new_client.get("/auth/usage", headers=bearer(ADA)).get_json()["calls"] == 4


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


# --- the OpenAPI document ---


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
        assert [list(requirement) for requirement in operation["security"]] == [[name] for name in schemes]
        codes = {name for status in ("401", "403", "503") for name in _codes(operation, status)}
        assert codes >= {"unauthorized", "invalid_token", "token_expired", "forbidden", "keys_unavailable"}
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
    ada = bearer(own_token(userId="usage"))
    for data in (b"a", b"b", b"raise NoFace"):
        requests.post(f"{server.url}/predict", headers={**ada, "date": DATE}, json=video_body(data), timeout=30)
    today = requests.get(f"{server.url}/auth/usage", headers=ada, timeout=30).json()["days"][-1]
    assert (today["calls"], today["minutes"]) == (3, round(2 * 4.98 / 60, 3))


@pytest.mark.server
def test_concurrent_users_are_not_mixed_up(server: Server) -> None:
    def gets_own_profile(number: int) -> bool:
        name = f"user {number}"
        tokens = [openid_token(sub=name) if number % 2 else own_token(userId=name) for _ in range(3)]
        responses = [requests.get(f"{server.url}/auth/profile", headers=bearer(token), timeout=30) for token in tokens]
        return {response.json()["user_id"] for response in responses} == {name}

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(gets_own_profile, range(64)))


@pytest.mark.server
def test_the_log_and_the_output_contain_no_part_of_a_token(server: Server) -> None:
    personal = {"sub": "sub-ywqz", "userId": "id-ywqz", "plan": "plan-ywqz"}
    own, provider = own_token(**personal, roles=["ADMIN"]), openid_token(sub="id-ywqz", email="mail-ywqz")
    texts = [
        own,
        provider,
        own[:-6],
        own_token(**personal, iat=1, exp=2),
        openid_token(UNKNOWN_KEY),
        openid_token(kid="kid-ywqz"),
    ]
    for text in texts:
        for headers in (bearer(text), cookie(text), cookie(text, "token"), {**bearer(text), "date": DATE}):
            for path in ("/auth/profile", "/auth/usage", "/logs", "/health", "/nowhere"):
                requests.get(server.url + path, headers=headers, timeout=30)
            for path in ("/auth/verify-token", "/auth/refresh-token", "/predict"):
                response = requests.post(server.url + path, headers=headers, timeout=30)
        requests.post(f"{server.url}/auth/verify-token", json={"token": text}, timeout=30)
        requests.post(
            f"{server.url}/predict", headers={**bearer(text), "date": DATE}, json=video_body(b"crash"), timeout=30
        )
    assert response.status_code == 401
    assert "RuntimeError" in server.output, "the output is complete"
    rows = server.log_rows()
    callers = {row["caller"] for row in rows if row["endpoint"] == "/auth/usage"} - {None}
    assert len(callers) >= 2 and all(re.fullmatch(r"user-[0-9a-f]{16}", caller) for caller in callers)
    stored = server.output + json.dumps(rows) + server.log_path.read_bytes().decode("latin-1")
    stored += server.log_path.with_name("calls.db-wal").read_bytes().decode("latin-1")
    for text in texts:
        for part in text.split("."):
            assert part[:40] not in stored and part[-40:] not in stored
    assert "ywqz" not in stored


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
    output = assert_start_fails(tmp_path, f"moodreel cannot start: {line}", **accounts.environment(tmp_path) | settings)
    assert "c2hvcnQ" not in output
