import base64
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from api import workers
from api.settings import Settings, SettingsError
from moodreel.pipelines.people_extractor import ANALYSIS_FPS
from tests.support.server import ROOT, assert_start_fails

OF_SCRIPTS = {"TORCH_INDEX_URL", "COMPOSE_FILE"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Set an API key and no other setting, in a folder without .env."""
    monkeypatch.chdir(tmp_path)
    for item in fields(Settings):
        monkeypatch.delenv(item.name.upper(), raising=False)
    monkeypatch.setenv("API_KEY", "secret")
    return monkeypatch


def test_every_setting_except_the_api_key_has_a_default(environment: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment() == Settings(api_key=("secret",))


_VARIABLE = re.compile(r"^(?:# )?([A-Z_]+)=")


def test_the_example_file_documents_every_variable() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    variables = [(match[1], lines[number - 1]) for number, line in enumerate(lines) if (match := _VARIABLE.match(line))]
    assert {name for name, _ in variables} == {item.name.upper() for item in fields(Settings)} | OF_SCRIPTS
    assert [name for name, above in variables if not above.startswith("# ")] == []


def test_the_example_file_has_the_defaults(environment: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment(ROOT / ".env.example") == Settings(api_key=("secret",))


def test_the_service_samples_as_many_frames_as_the_command_line() -> None:
    assert Settings(api_key=("key",)).analysis_fps == ANALYSIS_FPS


def test_the_environment_overrides_the_file(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=7000\nTHREADS=3\nAPI_KEY=from-the-file\n")
    environment.setenv("PORT", "8080")
    settings = Settings.from_environment()
    assert (settings.port, settings.threads, settings.api_key) == (8080, 3, ("secret",))


def test_an_empty_value_means_the_default(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("MODEL_PATH=\nWEB_CONCURRENCY=\nRATE_LIMIT= \n")
    environment.setenv("PORT", "")
    assert Settings.from_environment() == Settings(api_key=("secret",))


def test_several_api_keys_are_separated_by_commas(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("API_KEY", " old , new,")
    assert Settings.from_environment().api_key == ("old", "new")


def test_origins_are_as_browsers_and_web_views_send_them(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("API_KEY", "k")
    environment.setenv("CORS_ORIGINS", "https://App.Example/, capacitor://localhost")
    assert Settings.from_environment().cors_origins == ("https://app.example", "capacitor://localhost")


def test_an_ipv6_host_may_be_in_brackets(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HOST", "[::1]")
    assert Settings.from_environment().host == "::1"


@pytest.mark.parametrize("key", ["", "  ", ",", " , ,"])
def test_a_missing_api_key_is_an_error(environment: pytest.MonkeyPatch, key: str) -> None:
    environment.setenv("API_KEY", key)
    with pytest.raises(SettingsError, match="API_KEY"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "abc", "a whole number from 1 to 65535"),
        ("PORT", "0", "a whole number from 1 to 65535"),
        ("PORT", "70000", "a whole number from 1 to 65535"),
        ("PORT", "5000.5", "a whole number"),
        ("HOST", "http://here", "a host name"),
        ("DEBUG", "perhaps", "one of 0, 1"),
        ("PRIOR", "even", "one of diary, balanced"),
        ("USE_GPU", "yes", "one of auto, 0, 1"),
        ("MODEL_FALLBACK", "2", "one of 0, 1"),
        ("WEB_CONCURRENCY", "0", "a whole number from 1"),
        ("THREADS", "-1", "a whole number from 1"),
        ("ANALYSES_AT_ONCE", "many", "a whole number from 1"),
        ("MAX_WAIT_SECONDS", "-1", "a number from 0"),
        ("MAX_BODY_BYTES", "32MB", "a whole number"),
        ("MAX_SECONDS", "nan", "a number from 1"),
        ("MAX_SECONDS", "inf", "a number from 1"),
        ("MAX_FRAMES", "0", "a whole number from 1"),
        ("MAX_FRAME_PIXELS", "1e6", "a whole number"),
        ("MAX_TOTAL_PIXELS", "10", "a whole number"),
        ("MAX_WALL_SECONDS", "0", "a number from 1"),
        ("ANALYSIS_FPS", "0", "a number from 0.5"),
        ("LOG_RETENTION_DAYS", "-3", "a whole number from 0"),
        ("HISTORY", "perhaps", "one of off, on"),
        ("HISTORY_RETENTION_DAYS", "-1", "a whole number from 0"),
        ("MEDIA_STORAGE", "/a/folder", "a URL that begins with file://"),
        ("MEDIA_STORAGE", "file://relative/folder", "a URL that begins with file:///"),
        ("MEDIA_STORAGE", "gs://", "a URL that begins with file:///"),
        ("MEDIA_STORAGE", "https://bucket.example", "a URL that begins with file://"),
        ("MEDIA_STORAGE", "simplecache::s3://bucket", "a URL that begins with file://"),
        ("LOG_LEVEL", "LOUD", "one of DEBUG, INFO"),
        ("RATE_LIMIT", "-1", "a whole number from 0"),
        ("CORS_ORIGINS", "app.example", "origins such as https://app.example"),
        ("CORS_ORIGINS", "https://app.example/page", "origins such as https://app.example"),
        ("WEBHOOK_HOSTS", "https://app.example", "hosts, addresses or networks"),
        ("WEBHOOK_HOSTS", "10.0.0.1/8", "hosts, addresses or networks"),
        ("LLM_BASE_URL", "http://127.0.0.1:port", "a URL that begins with https://"),
        ("SECURITY_MAX_AGE_SECONDS", "0", "a whole number from 60"),
        ("OIDC_AUDIENCE", ",", "the aud of your app's tokens"),
        ("OIDC_JWKS", "http://provider.example/jwks", "a file, or a URL that begins with https://"),
        ("OIDC_JWKS", "http://localhost.evil.example/jwks", "a file, or a URL that begins with https://"),
        ("OIDC_JWKS", "file:///etc/passwd", "a file, or a URL that begins with https://"),
    ],
)
def test_the_error_for_a_bad_value_names_the_allowed_values(
    environment: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment()
    assert str(caught.value).startswith(f"{name} must be {allowed}")
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["API_KEY=k # gr\xfc\xdfe\n".encode("latin-1"), None], ids=["Latin-1", "folder"])
def test_a_file_that_cannot_be_read_is_an_error(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / ".env"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(SettingsError, match="must be a file in UTF-8"):
        Settings.from_environment(file)


@pytest.mark.parametrize("name", ["MODEL_STORE", "MODEL_PATH", "TEXT_MODEL_PATH", "CHECKPOINT_PATH"])
@pytest.mark.parametrize("path", ["/nowhere", "empty"])
def test_a_missing_model_is_an_error_that_names_the_setting(
    environment: pytest.MonkeyPatch, name: str, path: str
) -> None:
    Path("empty").mkdir()
    environment.setenv(name, path)
    with pytest.raises(SettingsError, match=f"{name}: {path} is missing, not readable, or without weights"):
        Settings.from_environment()
    environment.setenv("MODEL_FALLBACK", "1")
    Settings.from_environment()


def test_made_up_answers_need_no_checkpoint(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CHECKPOINT_PATH", "/nowhere")
    environment.setenv("EMO_MOCK", "1")
    assert Settings.from_environment().emo_mock


_SECRET = bytes(range(190, 254))


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(_SECRET).decode(),
        base64.urlsafe_b64encode(_SECRET).decode(),
        base64.urlsafe_b64encode(_SECRET).decode().rstrip("="),
    ],
)
def test_a_signing_secret_may_be_in_any_base64_variant(environment: pytest.MonkeyPatch, text: str) -> None:
    environment.setenv("SECURITY_SECRET", text)
    environment.setenv("SECURITY_ISSUER", "https://app.example")
    assert Settings.from_environment().security_secret == _SECRET


@pytest.mark.parametrize(
    "text", ["secret", "no base64!", base64.b64encode(_SECRET[:63]).decode(), base64.b64encode(_SECRET).decode()[:-3]]
)
def test_a_short_or_malformed_signing_secret_is_rejected_and_not_shown(
    environment: pytest.MonkeyPatch, text: str
) -> None:
    environment.setenv("SECURITY_SECRET", text)
    environment.setenv("SECURITY_ISSUER", "https://app.example")
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment()
    assert str(caught.value) == "SECURITY_SECRET must be base64 of at least 64 random bytes."


_TOKEN_SETTINGS = {
    "SECURITY_SECRET": base64.b64encode(_SECRET).decode(),
    "SECURITY_ISSUER": "https://app.example",
    "OIDC_ISSUER": "https://provider.example",
    "OIDC_AUDIENCE": "app, other-app",
    "OIDC_JWKS": "https://provider.example/jwks",
}


@pytest.mark.parametrize("missing", [None, *_TOKEN_SETTINGS])
def test_token_settings_must_be_complete(environment: pytest.MonkeyPatch, missing: str | None) -> None:
    for name, value in _TOKEN_SETTINGS.items():
        environment.setenv(name, "" if name == missing else value)
    if missing:
        with pytest.raises(SettingsError, match=f"^{missing} is empty: set all of "):
            Settings.from_environment()
    else:
        assert Settings.from_environment().oidc_audience == ("app", "other-app")


def test_own_and_provider_tokens_need_different_issuers(environment: pytest.MonkeyPatch) -> None:
    for name, value in {**_TOKEN_SETTINGS, "OIDC_ISSUER": _TOKEN_SETTINGS["SECURITY_ISSUER"]}.items():
        environment.setenv(name, value)
    with pytest.raises(SettingsError, match="OIDC_ISSUER must not be SECURITY_ISSUER"):
        Settings.from_environment()


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/jwks", "http://127.0.0.1/jwks", "HTTPS://a.example/k", "a/b.json"]
)
def test_a_key_url_must_be_local_or_https(environment: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {**_TOKEN_SETTINGS, "OIDC_JWKS": url}.items():
        environment.setenv(name, value)
    assert Settings.from_environment().oidc_jwks == url


@pytest.mark.parametrize(("text", "level"), [("debug", "DEBUG"), ("Warning", "WARNING")])
def test_word_values_are_case_insensitive(environment: pytest.MonkeyPatch, text: str, level: str) -> None:
    environment.setenv("LOG_LEVEL", text)
    assert Settings.from_environment().log_level == level


@pytest.mark.parametrize(("text", "enabled"), [("on", True), ("ON", True), ("1", True), ("off", False), ("", False)])
def test_the_history_is_stored_only_if_enabled(environment: pytest.MonkeyPatch, text: str, enabled: bool) -> None:
    environment.setenv("HISTORY", text)
    assert Settings.from_environment().history is enabled


@pytest.mark.parametrize(("text", "enabled"), [("off", False), ("0", False), ("on", True), ("", True)])
def test_the_studio_can_be_turned_off(environment: pytest.MonkeyPatch, text: str, enabled: bool) -> None:
    environment.setenv("STUDIO", text)
    assert Settings.from_environment().studio is enabled


@pytest.mark.parametrize(("workers", "valid"), [("1", True), ("2", False), ("", False)])
def test_memory_storage_requires_a_single_worker(environment: pytest.MonkeyPatch, workers: str, valid: bool) -> None:
    environment.setenv("MEDIA_STORAGE", "memory://")
    environment.setenv("WEB_CONCURRENCY", workers)
    if valid:
        assert Settings.from_environment().media_storage == "memory://"
    else:
        with pytest.raises(SettingsError, match="MEDIA_STORAGE=memory://"):
            Settings.from_environment()


@pytest.mark.server
@pytest.mark.parametrize(
    ("settings", "line", "forked"),
    [
        ({"API_KEY": ""}, "API_KEY is empty", False),
        ({"PORT": "abc"}, "PORT must be a whole number from 1 to 65535, not 'abc'.", False),
        ({"MODEL_DOWNLOAD_ID": "a b"}, "MODEL_DOWNLOAD_ID", False),
        ({"LOG_PATH": "/proc/nowhere/calls.db"}, "The call log /proc/nowhere/calls.db cannot be opened", True),
    ],
)
def test_a_failed_start_prints_its_reason_in_one_line(
    tmp_path: Path, settings: dict[str, str], line: str, forked: bool
) -> None:
    assert_start_fails(tmp_path, line, forked=forked, **settings)


@pytest.fixture
def gpu_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Simulate a machine with 16 cores, enough memory, a CUDA build of torch, and an `nvidia-smi` that prints this."""

    def fake(output: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{output}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(workers, "_cores", lambda: 16)
    monkeypatch.setattr(workers, "memory_megabytes", lambda: 64_000)
    monkeypatch.setattr(workers, "version", lambda _: "2.13.0+cu126")
    return fake


@pytest.mark.parametrize(
    ("output", "use_gpu", "expected"),
    [("8192", "auto", 8), ("8192", "1", 8), ("8192", "0", 16), ("81559\n81559", "auto", 16), ("500", "auto", 1)],
)
def test_the_memory_of_a_gpu_limits_the_default_of_workers(
    gpu_of: Callable[[str], None], output: str, use_gpu: str, expected: int
) -> None:
    gpu_of(output)
    assert workers.default_workers(use_gpu) == expected


def test_without_a_usable_gpu_there_is_a_worker_per_core(
    gpu_of: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of("No devices were found")
    assert workers.default_workers("auto") == 16
    gpu_of("8192")
    monkeypatch.setattr(workers, "version", lambda _: "2.13.0+cpu")
    assert workers.default_workers("auto") == 16


@pytest.mark.parametrize(("megabytes", "expected"), [(500, 1), (1240, 2), (4000, 6), (64_000, 16)])
def test_the_memory_of_the_host_limits_the_default_of_workers(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, expected: int
) -> None:
    monkeypatch.setattr(workers, "_cores", lambda: 16)
    monkeypatch.setattr(workers, "memory_megabytes", lambda: megabytes)
    assert workers.default_workers("0") == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 16), ("250000 100000", 2), ("50000 100000", 1), (None, 16)]
)
def test_the_quota_of_a_container_limits_the_default_of_workers(
    monkeypatch: pytest.MonkeyPatch, quota: str | None, expected: int
) -> None:
    files = {"/sys/fs/cgroup/cpu.max": quota, "/sys/fs/cgroup/memory.max": "max"}

    def read_text(path: Path) -> str:
        if (text := files.get(str(path))) is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sysconf", lambda name: 64_000 if name == "SC_PHYS_PAGES" else 10**6)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert workers.default_workers("0") == expected


@pytest.mark.parametrize("url", ["collector:4318/token", "ftp://collector", "http://collector /token"])
def test_a_malformed_address_of_a_collector_is_rejected_and_not_shown(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT must be a URL that begins with") as caught:
        Settings.from_environment()
    assert url not in str(caught.value)
