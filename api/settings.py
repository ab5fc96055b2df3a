"""Read the settings from the environment. No other module reads it.

`Settings` is the table of settings: the name of a field in capitals is the name of its variable. Each field has its
cast, the allowed values (for error messages) and its default. `.env.example` explains each variable to operators.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from environs import Env

from api.base64_input import decode_base64
from moodreel.models.model_card import DIARY, PRIORS
from moodreel.models.model_store import WEIGHTS_SUFFIXES, shipped_model_store
from moodreel.storage.database import is_well_formed

SECRET_BYTES = 64
"""The shortest key for HS512 (RFC 7518, section 3.2)."""

_T = TypeVar("_T")
_Number = TypeVar("_Number", int, float)


class SettingsError(Exception):
    """A variable has an invalid value. The message is one line for the operator."""


def _setting(cast: Callable[[str], _T], allowed: str, default: _T, *, secret: bool = False) -> _T:
    """Make a field of `Settings`, typed as its value, as in `dataclasses.field`. No message shows a secret."""
    return field(default=default, repr=not secret, metadata={"cast": cast, "allowed": allowed, "secret": secret})


def _integer(low: int, high: int, default: int) -> int:
    def cast(text: str) -> int:
        return _in_range(int(text), low, high)

    return _setting(cast, f"a whole number from {low} to {high}", default)


def _float(low: float, high: float, default: float) -> float:
    def cast(text: str) -> float:
        return _in_range(float(text), low, high)

    return _setting(cast, f"a number from {low:g} to {high:g}", default)


def _in_range(value: _Number, low: float, high: float) -> _Number:
    if not low <= value <= high or math.isnan(value):
        raise ValueError
    return value


def _choice(values: Mapping[str, _T], default: _T) -> _T:
    def cast(text: str) -> _T:
        return values[text if text in values else text.lower() if text.lower() in values else text.upper()]

    return _setting(cast, f"one of {', '.join(values)}", default)


def _flag(default: bool) -> bool:
    return _choice({"0": False, "1": True, "false": False, "true": True}, default)


_SWITCH = {"off": False, "on": True, "0": False, "1": True}


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _nonempty_list(text: str) -> tuple[str, ...]:
    items = _list(text)
    if not items:
        raise ValueError
    return items


def _signing_secret(text: str) -> bytes:
    secret = decode_base64(text)
    if len(secret) < SECRET_BYTES:
        raise ValueError
    return secret


def _webhook_secret(text: str) -> bytes:
    secret = decode_base64(text.removeprefix("whsec_"))
    if not 24 <= len(secret) <= SECRET_BYTES:
        raise ValueError
    return secret


def _key_source(text: str) -> str:
    # Keys from an unencrypted connection could be an attacker's.
    if "://" in text and not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", text, re.IGNORECASE):
        raise ValueError
    return text


def _origins(text: str) -> tuple[str, ...]:
    # Browsers send small letters. The pages of an app in a web view have a scheme of their own.
    origins = tuple(origin.rstrip("/").lower() for origin in _list(text))
    if not all(re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#]+", origin) for origin in origins):
        raise ValueError
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = _list(text)
    for host in hosts:
        if "/" in host:
            ipaddress.ip_network(host)
    return hosts


def _host(text: str) -> str:
    if not text.strip() or any(character.isspace() or character == "/" for character in text):
        raise ValueError
    # An IPv6 address may be written as in a URL.
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _url(pattern: str) -> Callable[[str], str]:
    """Make a cast that takes only a URL that begins as the pattern says."""

    def cast(text: str) -> str:
        if not re.match(pattern, text) or urlsplit(text).port == 0:
            raise ValueError
        return text

    return cast


def _database_url(text: str) -> str:
    if not is_well_formed(text):
        raise ValueError
    return text


_DATABASE_URL = "a URL like postgresql://user:password@host/database, with %40 for an @ and %2F for a / in the password"


_collector_url = _url(r"(?i)https?://[^\s/?#]\S*\Z")
_COLLECTOR_URL = "a URL that begins with https:// or http://, such as http://127.0.0.1:4318"


@dataclass(frozen=True)
class Settings:
    """Everything that an operator can choose. `Settings(api_key=("k",))` has the defaults."""

    api_key: tuple[str, ...] = _setting(_nonempty_list, "one secret, or several with commas between", (), secret=True)
    host: str = _setting(_host, "a host name or an address", "0.0.0.0")
    port: int = _integer(1, 65535, 5000)
    debug: bool = _flag(False)
    studio: bool = _choice(_SWITCH, True)

    model_path: Path | None = _setting(Path, "a path", None)  # noqa: RUF009 - a field all the same
    model_download_id: str | None = _setting(str, "the id in a Google Drive link", None)
    text_model_path: Path | None = _setting(Path, "a folder", None)  # noqa: RUF009
    checkpoint_path: Path | None = _setting(Path, "a folder, or a weights file", None)  # noqa: RUF009
    noncommercial_models: bool = _flag(False)
    emo_mock: bool = _flag(False)
    model_fallback: bool = _flag(False)
    model_store: Path = _setting(Path, "a folder", shipped_model_store())  # noqa: RUF009
    prior: str = _choice({prior: prior for prior in PRIORS}, DIARY)
    use_gpu: str = _choice({"auto": "auto", "0": "0", "1": "1"}, "auto")

    web_concurrency: int = _integer(1, 64, 0)  # 0: see `default_workers`
    threads: int = _integer(1, 64, 8)
    analyses_at_once: int = _integer(1, 64, 1)
    max_wait_seconds: float = _float(0, 300, 20)
    max_sockets: int = _integer(0, 4096, 128)
    max_sockets_per_user: int = _integer(1, 4096, 8)
    socket_message_bytes: int = _integer(125, 1 << 20, 16 << 10)
    socket_messages_per_minute: int = _integer(1, 60_000, 60)
    socket_ping_seconds: float = _float(0.2, 3600, 15)
    connections_count: str = _choice({"public": "public", "private": "private"}, "public")
    presence_path: Path = _setting(Path, "a file", Path("data/presence.db"))  # noqa: RUF009
    redis_url: str | None = _setting(
        _url("rediss?://|unix://"), "a URL that begins with redis://, rediss:// or unix://", None, secret=True
    )

    max_body_bytes: int = _integer(1024, 1 << 30, 96 << 20)  # a minute of 720p as base64
    max_seconds: float = _float(1, 3600, 60)
    max_frames: int = _integer(1, 1_000_000, 3600)
    max_frame_pixels: int = _integer(64 * 64, 7680 * 4320, 3840 * 2160)
    max_total_pixels: int = _integer(64 * 64, 1 << 40, 1920 * 1080 * 3600)
    max_wall_seconds: float = _float(1, 600, 30)
    analysis_fps: float = _float(0.5, 30, 3.5)
    max_live_frame_bytes: int = _integer(1024, 1 << 24, 1 << 20)
    max_image_bytes: int = _integer(1024, 1 << 30, 5 << 20)
    max_image_pixels: int = _integer(64 * 64, 100_000_000, 40_000_000)
    max_text_characters: int = _integer(100, 1_000_000, 20_000)

    log_path: Path = _setting(Path, "a file", Path("logs/calls.db"))  # noqa: RUF009
    log_database_url: str | None = _setting(_database_url, _DATABASE_URL, None, secret=True)
    log_required: bool = _flag(False)
    log_retention_days: int = _integer(0, 36_500, 30)
    log_level: str = _choice({level: level for level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}, "INFO")
    log_format: str = _choice({"json": "json", "text": "text"}, "json")
    otel_exporter_otlp_endpoint: str | None = _setting(_collector_url, _COLLECTOR_URL, None, secret=True)
    otel_exporter_otlp_traces_endpoint: str | None = _setting(_collector_url, _COLLECTOR_URL, None, secret=True)
    rate_limit: int = _integer(0, 1_000_000, 0)
    cors_origins: tuple[str, ...] = _setting(
        _origins, "origins such as https://app.example with commas between, or *", ()
    )

    security_secret: bytes | None = _setting(
        _signing_secret, f"base64 of at least {SECRET_BYTES} random bytes", None, secret=True
    )
    security_issuer: str | None = _setting(str, "the iss of your own tokens", None)
    security_max_age_seconds: int = _integer(60, 366 * 86_400, 7 * 86_400)
    oidc_issuer: str | None = _setting(str, "the iss of your provider's tokens", None)
    oidc_audience: tuple[str, ...] = _setting(
        _nonempty_list, "the aud of your app's tokens, or several with commas between", ()
    )
    oidc_jwks: str | None = _setting(_key_source, "a file, or a URL that begins with https://", None)

    llm_base_url: str | None = _setting(
        _url(r"(?i)https?://[^\s/?#]+[^\s?#]*\Z"), "a URL that begins with https:// or http://", None
    )
    llm_model: str | None = _setting(str, "the name of a model on that server", None)
    llm_api_key: str | None = _setting(str, "the secret of that server", None, secret=True)
    llm_max_streams: int = _integer(1, 64, 8)

    analysis_cache_seconds: int = _integer(0, 3600, 600)
    analysis_cache_path: Path | None = _setting(Path, "a file", None)  # noqa: RUF009

    idempotency_seconds: int = _integer(0, 86_400, 600)
    idempotency_path: Path | None = _setting(Path, "a file", None)  # noqa: RUF009

    history: bool = _choice(_SWITCH, False)
    history_path: Path = _setting(Path, "a file", Path("data/history.db"))  # noqa: RUF009
    history_database_url: str | None = _setting(_database_url, _DATABASE_URL, None, secret=True)
    history_retention_days: int = _integer(0, 36_500, 0)
    jobs: bool = _choice(_SWITCH, False)
    jobs_path: Path = _setting(Path, "a file", Path("data/jobs.db"))  # noqa: RUF009
    jobs_retention_seconds: int = _integer(60, 7 * 86_400, 3600)
    webhook_hosts: tuple[str, ...] = _setting(
        _hosts, "hosts, addresses or networks such as 10.0.0.0/8 with commas between, without https://", ()
    )
    webhook_secret: bytes | None = _setting(
        _webhook_secret, "base64 of 24 to 64 random bytes, with whsec_ before it or not", None, secret=True
    )
    max_jobs: int = _integer(1, 100_000, 100)
    max_jobs_bytes: int = _integer(1024, 1 << 40, 1 << 30)
    media_storage: str | None = _setting(
        _url("file:///|memory://|(gs|s3)://[^/]"),
        "a URL that begins with file:///, memory://, gs://BUCKET or s3://BUCKET",
        None,
    )

    @classmethod
    def from_environment(cls, dotenv: Path = Path(".env")) -> "Settings":
        """Read the environment, and `.env` for variables that it does not have. An empty value means the default.

        Raises:
            SettingsError: A value is invalid, there is no API key, or settings contradict each other.
        """
        env = Env()
        try:
            env.read_env(dotenv, recurse=False)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{dotenv} must be a file in UTF-8 that the service may read ({error}).") from error
        texts = {item: env.str(item.name.upper(), "").strip() for item in fields(cls)}
        settings = cls(**{item.name: _cast(item, text) for item, text in texts.items() if text})
        if not settings.api_key:
            raise SettingsError(
                "API_KEY is empty: set it to a secret that callers send as x-api-key. openssl rand -hex 24 makes one."
            )
        _check_agreement(settings)
        _check_models(settings)
        return settings


_TOGETHER = (
    ("security_secret", "security_issuer"),
    ("oidc_issuer", "oidc_audience", "oidc_jwks"),
    ("webhook_hosts", "webhook_secret"),
    ("llm_base_url", "llm_model"),
)
"""Settings that are of use only together."""


def _check_agreement(settings: Settings) -> None:
    for names in _TOGETHER:
        missing = [name.upper() for name in names if not getattr(settings, name)]
        if 0 < len(missing) < len(names):
            raise SettingsError(f"{missing[0]} is empty: set all of {', '.join(names).upper()}, or none of them.")
    if settings.oidc_issuer and settings.oidc_issuer == settings.security_issuer:
        raise SettingsError("OIDC_ISSUER must not be SECURITY_ISSUER: the issuer decides how a token is verified.")
    if (settings.media_storage or "").startswith("memory://") and settings.web_concurrency != 1:
        raise SettingsError(
            "MEDIA_STORAGE=memory:// is not shared between workers: set WEB_CONCURRENCY=1, or use file://."
        )


def _check_models(settings: Settings) -> None:
    names = ["model_store", "model_path", "text_model_path"]
    if not settings.emo_mock:
        names.append("checkpoint_path")
    for name in names if not settings.model_fallback else []:
        path = getattr(settings, name)
        if path and not _holds_weights(path):
            raise SettingsError(
                f"{name.upper()}: {path} is missing, not readable, or without weights. Correct it; empty means "
                "moodreel's own models."
            )


def _holds_weights(path: Path) -> bool:
    """Return whether a path can be read, and is a file, a model's folder or a folder of those."""
    if path.is_file() or not os.access(path, os.R_OK):
        return os.access(path, os.R_OK)
    files = (each for pattern in ("*", "*/*") for each in path.glob(pattern))
    return any(each.suffix in WEIGHTS_SUFFIXES for each in files)


def _cast(item: Field[object], text: str) -> Any:
    try:
        return item.metadata["cast"](text)
    except (ValueError, KeyError, OverflowError) as error:
        value = "" if item.metadata["secret"] else f", not {text!r}"
        raise SettingsError(f"{item.name.upper()} must be {item.metadata['allowed']}{value}.") from error
