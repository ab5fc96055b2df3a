"""`moodreel doctor`: a host that is fit, and what is said about one that is not."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

import api.workers
from api import doctor
from api.settings import Settings
from moodreel.__main__ import main
from tests.support.chat_stand_in import chat_stand_in
from tests.support.server import ROOT, STORE, free_port

SETTINGS = Settings(api_key=("k" * 32,), web_concurrency=1, port=free_port())
Usage = namedtuple("Usage", "total used free")


def levels(findings) -> dict[str, str]:
    return {finding.subject: finding.level for finding in findings}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEY", "k" * 32)
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    return monkeypatch


def test_a_fit_host_has_no_failure(host: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for subject in ("FFmpeg", "clock", "open files", "API_KEY", "memory", "disk", "GPU", "models", "port"):
        assert f" {subject}: " in output
    assert "FAIL" not in output
    assert "k" * 32 not in output


def test_wrong_settings_fail_and_name_the_variable(host, capsys) -> None:
    host.setenv("THREADS", "many")
    assert main(["doctor"]) == 1
    assert "FAIL  settings: THREADS" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["torch", "cv2", "mediapipe", "av"])
def test_a_library_that_cannot_be_imported_is_told_beside_what_needs_none(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    done = subprocess.run(
        [sys.executable, "-m", "moodreel", "doctor"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "API_KEY": "k" * 32, "PORT": str(free_port())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    [failure] = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert failure.startswith(f"FAIL  libraries: {name} cannot be imported (libGL.so.1")
    assert "disk: " in done.stdout


def test_damaged_weights_fail(tmp_path: Path) -> None:
    for name in ("model.json", "weights.safetensors"):
        (tmp_path / "moodreel-five").mkdir(exist_ok=True)
        shutil.copy(STORE / "moodreel-five" / name, tmp_path / "moodreel-five")
    with (tmp_path / "moodreel-five" / "weights.safetensors").open("ab") as weights:
        weights.write(b"more")
    [finding] = doctor.check_models(dataclasses.replace(SETTINGS, model_store=tmp_path))
    assert finding.level == doctor.FAIL
    assert "SHA-256" in finding.text
    [finding] = doctor.check_models(dataclasses.replace(SETTINGS, model_store=tmp_path / "none"))
    assert finding.level == doctor.FAIL


@pytest.mark.parametrize(("total", "level"), [(500, doctor.FAIL), (700, doctor.WARN), (4000, doctor.OK)])
def test_memory_is_compared_with_the_workers(monkeypatch, total: int, level: str) -> None:
    monkeypatch.setattr(doctor, "memory_megabytes", lambda: total)
    assert levels(doctor.check_memory(SETTINGS))["memory"] == level


@pytest.mark.parametrize(("workers", "todo"), [(4, "Set WEB_CONCURRENCY=1."), (1, "Add memory.")])
def test_too_little_memory_is_told_with_what_to_do(monkeypatch, workers: int, todo: str) -> None:
    for module in (doctor, api.workers):
        monkeypatch.setattr(module, "memory_megabytes", lambda: 600)
    findings = doctor.check_memory(dataclasses.replace(SETTINGS, web_concurrency=workers))
    assert next(findings).text.endswith(todo)


@pytest.mark.parametrize(("free", "level"), [(10, doctor.FAIL), (900, doctor.WARN), (9000, doctor.OK)])
def test_a_full_disk_is_found(monkeypatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**11, 0, free * 10**6))
    assert levels(doctor.check_disk(SETTINGS)) == {"disk": level}


def test_every_folder_that_is_written_is_checked_once(tmp_path: Path) -> None:
    settings = dataclasses.replace(
        SETTINGS,
        log_database_url="postgresql://host/database",
        jobs=True,
        jobs_path=tmp_path / "jobs.db",
        presence_path=tmp_path / "data" / "presence.db",
        analysis_cache_path=tmp_path / "data" / "analyses.db",
        media_storage=f"file://{tmp_path}/media",
    )
    texts = [finding.text for finding in doctor.check_disk(settings)]
    assert [text.partition(" for ")[2] for text in texts] == [
        f"{tmp_path}/data (PRESENCE_PATH, ANALYSIS_CACHE_PATH)",
        f"{tmp_path}/media (MEDIA_STORAGE)",
    ], "the jobs are in PostgreSQL"
    local = dataclasses.replace(settings, log_database_url=None)
    assert any(f"{tmp_path} (JOBS_PATH)" in finding.text for finding in doctor.check_disk(local))
    (tmp_path / "data").write_text("a file in place of the folder")
    assert [finding.level for finding in doctor.check_disk(settings)] == [doctor.FAIL, doctor.OK]


def test_a_file_of_another_user_is_found(monkeypatch, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, log_path=tmp_path / "calls.db", presence_path=tmp_path / "presence.db")
    settings.log_path.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != settings.log_path or mode == os.F_OK)
    [found] = [finding for finding in doctor.check_disk(settings) if finding.level == doctor.FAIL]
    assert found.text.startswith(f"{settings.log_path} (LOG_PATH): this user cannot write to it.")


@pytest.mark.parametrize("card", ["{", '{"file": "x"}'])
def test_a_damaged_card_is_told(tmp_path: Path, card: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.json").write_text(card)
    (tmp_path / "mine" / "x").touch()
    [found] = doctor.check_models(dataclasses.replace(SETTINGS, model_store=tmp_path))
    assert found.level == doctor.FAIL
    assert found.text.startswith("mine: its model.json cannot be used")


def test_short_and_double_keys_are_told_without_the_keys() -> None:
    findings = list(doctor.check_keys(dataclasses.replace(SETTINGS, api_key=("short", "short"))))
    assert [finding.level for finding in findings] == [doctor.WARN, doctor.WARN, doctor.OK]
    assert not any("short" in finding.text for finding in findings)


def test_an_open_env_file_and_misspelled_settings_are_told(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert not list(doctor.check_dotenv(SETTINGS))
    shutil.copy(ROOT / ".env.example", ".env")
    with Path(".env").open("a") as dotenv:
        dotenv.write(
            "LOG_RETENTION_DAY=3\nDOMAIN=example.org\nHTTPS_PORT=8443\nOTEL_EXPORTER_OTLP_TRACES_HEADERS=a=b\n"
        )
    Path(".env").chmod(0o644)
    texts = [finding.text for finding in doctor.check_dotenv(SETTINGS)]
    assert len(texts) == 2
    assert "chmod 600" in texts[0]
    assert texts[1].endswith("Did you mean LOG_RETENTION_DAYS?")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MODEL_PATH", {"model_path": Path("broken.safetensors")}),
        ("TEXT_MODEL_PATH", {"text_model_path": STORE / "vit"}),
        ("CHECKPOINT_PATH", {"checkpoint_path": STORE / "vit"}),
        ("LOG_DATABASE_URL", {"log_database_url": "postgresql://moodreel:secret@127.0.0.1:1/moodreel"}),
        ("HISTORY_DATABASE_URL", {"history_database_url": "postgresql://moodreel:secret@127.0.0.1:1/m", "jobs": True}),
        ("REDIS_URL", {"redis_url": "redis://:secret@127.0.0.1:1/0"}),
        ("MEDIA_STORAGE", {"media_storage": "unknown://bucket", "history": True}),
        ("OIDC_JWKS", {"oidc_jwks": "keys.json"}),
        ("OIDC_JWKS", {"oidc_jwks": "https://127.0.0.1:1/keys"}),
        ("LLM_BASE_URL", {"llm_base_url": "http://127.0.0.1:1/v1", "llm_model": "tiny", "llm_api_key": "secret"}),
    ],
)
def test_a_part_that_a_setting_names_and_that_cannot_be_used_is_told(monkeypatch, tmp_path, name, options) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.safetensors").write_bytes(b"no weights")
    [finding] = doctor.check_named_parts(dataclasses.replace(SETTINGS, **options))
    assert (finding.level, finding.subject) == (doctor.FAIL, name)
    assert "secret" not in finding.text


def test_the_server_of_the_companion_is_asked() -> None:
    with chat_stand_in() as model:
        settings = dataclasses.replace(SETTINGS, llm_base_url=model.url, llm_model="tiny")
        assert levels(doctor.check_named_parts(settings)) == {"LLM_BASE_URL": doctor.OK}


def test_parts_that_can_be_used_are_told_and_a_folder_is_not_made(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, model_path=STORE / "vit", media_storage="memory://media", history=True)
    assert levels(doctor.check_named_parts(settings)) == {"MODEL_PATH": doctor.OK, "MEDIA_STORAGE": doctor.OK}
    assert not list(doctor.check_named_parts(dataclasses.replace(settings, model_path=None, history=False)))
    folder = dataclasses.replace(SETTINGS, media_storage=f"file://{tmp_path}/media", history=True)
    assert not list(doctor.check_named_parts(folder))
    assert not (tmp_path / "media").exists()


def test_an_address_of_another_host_fails() -> None:
    [finding] = doctor.check_port(dataclasses.replace(SETTINGS, host="192.0.2.1"))
    assert finding.level == doctor.FAIL
    assert "HOST" in finding.text


def test_a_port_in_use_and_a_gpu_that_is_not_there_are_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = dataclasses.replace(SETTINGS, host="127.0.0.1", port=other.getsockname()[1])
        assert levels(doctor.check_port(used)) == {"port": doctor.WARN}
    pytest.importorskip("torch")
    import torch

    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert levels(doctor.check_gpu(dataclasses.replace(SETTINGS, use_gpu="1"))) == {"GPU": doctor.FAIL}
