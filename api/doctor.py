"""`moodreel doctor`: check the host that the service runs on, and say what to do about each finding.

What needs native libraries is imported in functions: one that cannot be imported is a finding.
"""

import argparse
import ctypes
import errno
import importlib
import json
import os
import resource
import shutil
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from api.auth.jwks import ALGORITHMS, KeysUnavailable, open_key_source
from api.companion.companion import Companion
from api.settings import Settings, SettingsError
from api.workers import (
    MEGABYTES_PER_WORKER,
    MEGABYTES_SHARED,
    default_workers,
    memory_megabytes,
    workers_in_memory,
)
from moodreel.errors import MoodreelError
from moodreel.storage.connect import open_database
from moodreel.storage.database import StorageError, StoreDefinition
from moodreel.storage.objects import ObjectStorage, new_key

MIN_KEY_CHARACTERS = 16
MIN_FREE_MEGABYTES, ENOUGH_FREE_MEGABYTES = 200, 2000
MIN_SHARED_MEGABYTES = 64
MIN_FILES = 4096
CODECS = {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "aac", "opus", "libx264", "libwebp_anim", "gif"}
_TIME_ERROR = 5
"""Value that adjtimex(2) returns while the clock is not synchronized."""
OK, WARN, FAIL = "ok", "warn", "FAIL"
LIBRARIES = "libraries"
"""Subject of the finding that a native library cannot be imported."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: its level (`OK`, `WARN` or `FAIL`), what was checked, and the result with what to do."""

    level: str
    subject: str
    text: str


def main(argv: Sequence[str]) -> int:
    """Print the findings. Returns 1 if the service will not work as it should, else 0."""
    argparse.ArgumentParser(
        "moodreel doctor",
        description="Check this host: libraries, memory, disk, GPU, models, keys, clock, port, and the servers that "
        "settings name. These come from the environment and from .env in the current folder. The exit status is 1 if a "
        "line says FAIL.",
    ).parse_args(argv)
    levels = set()
    for finding in examine():
        print(f"{finding.level:<5} {finding.subject}: {finding.text}", flush=True)
        levels.add(finding.level)
    return int(FAIL in levels)


def examine() -> Iterator[Finding]:
    """Run all checks. Those that need settings run last, and only if the settings are valid."""
    libraries = list(check_libraries())
    yield from libraries
    yield check_clock()
    yield check_open_files()
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        yield Finding(FAIL, "settings", f"{error} .env.example explains every variable.")
        return
    for check in (check_dotenv, check_keys, check_memory, check_disk, check_port, check_traces):
        yield from check(settings)
    if all(finding.subject != LIBRARIES for finding in libraries):
        for check in (check_gpu, check_models, check_named_parts):
            yield from check(settings)


def check_libraries() -> Iterator[Finding]:
    """Import the native libraries, and look for the codecs of phones and of loops."""
    for name in ("torch", "cv2", "mediapipe", "av"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            todo = "Install the missing package: ./init.sh, or apt-get install libgl1 libglib2.0-0 libegl1 libgles2."
            yield Finding(FAIL, LIBRARIES, f"{name} cannot be imported ({error}). {todo}")
            return
    import av

    if missing := sorted(CODECS - av.codecs_available):
        yield Finding(
            FAIL, "FFmpeg", f"lacks {', '.join(missing)}. Reinstall av from its wheel: pip install --force av."
        )
    else:
        versions = ".".join(map(str, av.library_versions["libavcodec"]))
        yield Finding(OK, "FFmpeg", f"libavcodec {versions} of av {av.__version__} has every codec that is needed")


def check_clock() -> Finding:
    """Ask the kernel whether the clock is synchronized: tokens, limits and the log depend on it."""
    state = -1
    if sys.platform == "linux":
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if state == _TIME_ERROR:
        todo = "apt-get install systemd-timesyncd, then timedatectl set-ntp true. (In a container: do so on its host.)"
        return Finding(WARN, "clock", f"{now}, not synchronized with a time server. {todo}")
    return Finding(OK, "clock", f"{now}{', synchronized with a time server' if state >= 0 else ''}")


def check_open_files() -> Finding:
    """Check how many files a process may open; Gunicorn raises the soft limit itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < MIN_FILES:
        todo = f"Set LimitNOFILE={MIN_FILES} in the systemd unit, or --ulimit nofile={MIN_FILES} in Docker."
        return Finding(WARN, "open files", f"at most {hard}: many connections will fail. {todo}")
    return Finding(OK, "open files", f"at most {'any number' if hard < 0 else hard}")


def check_dotenv(_settings: Settings) -> Iterator[Finding]:
    """Check that nobody else can read the file, and look for misspelled settings: they are ignored."""
    dotenv = Path(".env")
    if dotenv.exists() and dotenv.stat().st_mode & 0o077:
        yield Finding(WARN, ".env", "other users of this host can read it. Run: chmod 600 .env")
    names = [item.name.upper() for item in fields(Settings)]
    for name in dotenv_values(dotenv):
        # Other programs read variables of this file too, and the SDK of OpenTelemetry has many that look alike.
        if name not in names and not name.startswith("OTEL_") and (close := get_close_matches(name, names, 1, 0.85)):
            yield Finding(WARN, ".env", f"{name} is no setting and is ignored. Did you mean {close[0]}?")


def check_keys(settings: Settings) -> Iterator[Finding]:
    """Check that keys are long and different."""
    short = [str(number) for number, key in enumerate(settings.api_key, 1) if len(key) < MIN_KEY_CHARACTERS]
    if short:
        text = f"fewer than {MIN_KEY_CHARACTERS} characters: key {', '.join(short)} of {len(settings.api_key)}."
        yield Finding(WARN, "API_KEY", f"{text} Make a longer one with: openssl rand -hex 24")
    if len(set(settings.api_key)) < len(settings.api_key):
        yield Finding(WARN, "API_KEY", "contains a key twice. Remove one.")
    yield Finding(OK, "API_KEY", f"{len(settings.api_key)} in use")


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Compare the memory of the host, or of its container, with what the workers need."""
    workers = settings.web_concurrency or default_workers(settings.use_gpu)
    needed, total = MEGABYTES_SHARED + MEGABYTES_PER_WORKER * workers, memory_megabytes()
    if total < needed:
        todo = f"Set WEB_CONCURRENCY={fitting}." if (fitting := workers_in_memory()) < workers else "Add memory."
        yield Finding(FAIL, "memory", f"{workers} workers need some {needed} MB, there are {total}. {todo}")
    elif total < 2 * needed - MEGABYTES_SHARED:
        text = f"{total} MB for {workers} workers; a reload (SIGHUP) runs twice as many for some seconds."
        yield Finding(WARN, "memory", f"{text} Restart instead, or set a lower WEB_CONCURRENCY.")
    else:
        yield Finding(OK, "memory", f"{total} MB for {workers} workers, who need some {needed}")
    if Path("/dev/shm").is_dir() and (shared := shutil.disk_usage("/dev/shm").total // 10**6) < MIN_SHARED_MEGABYTES:
        todo = "In Docker: --shm-size 128m."
        yield Finding(WARN, "/dev/shm", f"{shared} MB, for the cache of analyses and kept answers. {todo}")


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Check that what the service writes can be written, and that its folders have room."""
    todo = "chown it, or set another path."
    for name, file in _data_files(settings).items():
        if os.access(file, os.F_OK) and not os.access(file, os.W_OK):
            yield Finding(FAIL, "disk", f"{file} ({name}): this user cannot write to it. {todo}")
    names = defaultdict(list)
    for name, folder in _data_folders(settings).items():
        names[folder].append(name)
    for folder in sorted(names):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.access(path, os.F_OK))
        free, used_by = shutil.disk_usage(existing).free // 10**6, f"{folder} ({', '.join(names[folder])})"
        if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            yield Finding(FAIL, "disk", f"{used_by}: this user cannot write to {existing}. {todo}")
        elif free < ENOUGH_FREE_MEGABYTES:
            level = FAIL if free < MIN_FREE_MEGABYTES else WARN
            yield Finding(level, "disk", f"{free} MB are free for {used_by}. Free some, or keep data for fewer days.")
        else:
            yield Finding(OK, "disk", f"{free} MB are free for {used_by}")


def _data_files(settings: Settings) -> dict[str, Path]:
    """Return the files that the service writes, by the settings that name them."""
    shared = settings.history_database_url or settings.log_database_url
    files = {
        "LOG_PATH": None if settings.log_database_url else settings.log_path,
        "HISTORY_PATH": settings.history_path if settings.history and not shared else None,
        "JOBS_PATH": settings.jobs_path if settings.jobs and not shared else None,
        "PRESENCE_PATH": None if settings.redis_url else settings.presence_path,
        "ANALYSIS_CACHE_PATH": settings.analysis_cache_path,
        "IDEMPOTENCY_PATH": settings.idempotency_path,
    }
    return {name: path for name, path in files.items() if path is not None}


def _data_folders(settings: Settings) -> dict[str, Path]:
    """Return the folders in which the service writes, by the settings that name them."""
    folders = {name: path.parent for name, path in _data_files(settings).items()}
    if (settings.media_storage or "").startswith("file://"):
        folders["MEDIA_STORAGE"] = Path(str(settings.media_storage).removeprefix("file://"))
    if settings.model_download_id:
        folders["MODEL_STORE"] = settings.model_store / "downloaded"
    return folders


def check_gpu(settings: Settings) -> Iterator[Finding]:
    """Say which device torch will use."""
    from moodreel.models.predictor import resolve_device

    try:
        yield Finding(OK, "GPU", f"USE_GPU={settings.use_gpu} uses {resolve_device(settings.use_gpu)}")
    except MoodreelError as error:
        yield Finding(FAIL, "GPU", str(error))


def check_models(settings: Settings) -> Iterator[Finding]:
    """Compare the file of every model in the store with its card."""
    from moodreel.models.registry import CARD_FILE

    folders = sorted(card.parent for card in settings.model_store.glob(f"*/{CARD_FILE}"))
    bad = False
    for folder in folders:
        try:
            _verify_model(folder)
        except (MoodreelError, OSError) as error:
            bad = True
            yield Finding(FAIL, "models", f"{folder.name}: {error}")
        except (ValueError, KeyError, TypeError) as error:
            bad = True
            yield Finding(FAIL, "models", f"{folder.name}: its {CARD_FILE} cannot be used ({error!r}). Restore it.")
    if not folders:
        yield Finding(FAIL, "models", f"there is none in {settings.model_store}. Set MODEL_STORE, or leave it empty.")
    elif not bad:
        yield Finding(OK, "models", f"{len(folders)} in {settings.model_store}, as their cards say")


def check_named_parts(settings: Settings) -> Iterator[Finding]:
    """Use each model, server, storage and file of keys that a setting names, as the service does."""
    from api.bootstrap import open_presence
    from moodreel.models.audiovisual_registry import load_audiovisual_model
    from moodreel.models.face_registry import load_face_model
    from moodreel.models.text_registry import load_text_model

    storage = (settings.media_storage if settings.history else None) or ""
    history_url = settings.history_database_url if settings.history or settings.jobs else None
    # `check_disk` checks a folder of MEDIA_STORAGE: used here, it would be made, and belong to this user.
    parts: dict[str, tuple[object, Callable[[Any], object]]] = {
        "MODEL_PATH": (settings.model_path, load_face_model),
        "TEXT_MODEL_PATH": (settings.text_model_path, load_text_model),
        "CHECKPOINT_PATH": (settings.checkpoint_path, load_audiovisual_model),
        "LOG_DATABASE_URL": (settings.log_database_url, partial(_connect, "LOG_DATABASE_URL")),
        "HISTORY_DATABASE_URL": (history_url, partial(_connect, "HISTORY_DATABASE_URL")),
        "REDIS_URL": (settings.redis_url, lambda _: open_presence(settings).count_others()),
        "MEDIA_STORAGE": ("" if storage.startswith("file://") else storage, _store),
        "OIDC_JWKS": (settings.oidc_jwks, lambda source: open_key_source(source).find(ALGORITHMS[0], None)),
        "LLM_BASE_URL": (settings.llm_base_url, lambda _: _list_language_models(settings)),
    }
    for name, (value, use) in parts.items():
        if not value:
            continue
        try:
            use(value)
        except (MoodreelError, SettingsError, KeysUnavailable) as error:
            yield Finding(FAIL, name, str(error))
        else:
            yield Finding(OK, name, "can be used")


def _connect(name: str, url: str) -> None:
    """Connect to PostgreSQL, as a user that may create tables. Raises StorageError."""
    database = open_database(url, StoreDefinition("doctor", "database", StorageError, (), url_setting=name))
    with database.read():
        pass
    database.close()


def _store(url: str) -> None:
    """Store an object, read it and delete it. Raises ObjectStorageError."""
    storage, key = ObjectStorage(url), new_key("doctor", "test.txt")
    storage.put(key, b"moodreel doctor")
    storage.get(key)
    storage.delete(key)


def _list_language_models(settings: Settings) -> None:
    """Ask the companion's server for its models. Raises SettingsError, except if it merely has no such list."""
    Companion.from_settings(settings)
    headers = {"Authorization": f"Bearer {settings.llm_api_key}"} if settings.llm_api_key else {}
    url = f"{str(settings.llm_base_url).rstrip('/')}/models"
    # Imported here because it is optional: the companion needs it.
    import httpx2

    try:
        status = httpx2.get(url, headers=headers).status_code
    except httpx2.HTTPError as error:
        raise SettingsError(f"Its server does not answer ({error}). Start it, or correct LLM_BASE_URL.") from error
    if status in (401, 403):
        raise SettingsError("Its server refuses LLM_API_KEY. Correct that.")


def check_port(settings: Settings) -> Iterator[Finding]:
    """Check that the port can be used. If something uses it, this is only a warning: it may be the service itself."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            todo = "If that is not moodreel, set PORT." if in_use else "Correct HOST or PORT."
            text = f"{settings.host}:{settings.port} cannot be used ({error.strerror}). {todo}"
            yield Finding(WARN if in_use else FAIL, "port", text)
            return
    yield Finding(OK, "port", f"{settings.host}:{settings.port} is free")


def check_traces(settings: Settings) -> Iterator[Finding]:
    """Send a request without spans to the collector, if one is named."""
    url = settings.otel_exporter_otlp_traces_endpoint or settings.otel_exporter_otlp_endpoint
    if not url:
        return
    try:
        from api.tracing import probe_collector
    except ImportError:
        yield Finding(FAIL, "traces", "need OpenTelemetry: pip install -r requirements-extras.txt.")
        return
    host = urlsplit(url).netloc.rpartition("@")[2]
    if reason := probe_collector():
        todo = (
            "Calls are answered without traces. Start it, or correct OTEL_EXPORTER_OTLP_ENDPOINT (port 4318, not 4317)."
        )
        yield Finding(WARN, "traces", f"the collector at {host} takes none ({reason}). {todo}")
    else:
        yield Finding(OK, "traces", f"the collector at {host} takes them")


def _verify_model(folder: Path) -> None:
    """Compare the file of a model with its card. Raises MoodreelError or OSError."""
    from moodreel.models.checkpoint import file_sha256
    from moodreel.models.model_card import read_card
    from moodreel.models.registry import CARD_FILE, find_weights, verified_sha256

    card = json.loads((folder / CARD_FILE).read_text())
    if "file" not in card and "sha256" in card:
        verified_sha256(find_weights(folder), read_card(folder / CARD_FILE))
    elif "file" in card and file_sha256(folder / card["file"]) != card["sha256"]:
        raise MoodreelError(f"{card['file']} is not the file of its model.json; restore the two from one release.")
