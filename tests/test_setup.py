"""What a new user's first minutes depend on: the scripts, the image and the requirements."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parent.parent
SITE = Path(sys.prefix, "lib", "python3.11", "site-packages")
PACKAGE_OF = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libEGL.so.1": "libegl1",
    "libGLESv2.so.2": "libgles2",
}


def needed_libraries() -> set[str]:
    """Return the shared libraries that OpenCV and MediaPipe link but neither every Debian nor the wheels contain."""
    objects = [*(SITE / "cv2").glob("*.so"), *(SITE / "mediapipe").rglob("*.so")]
    assert len(objects) >= 2
    linked = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"^\s(lib(?:GL|EGL|GLESv2|glib)[^ ]*) =>", linked, re.M))


@pytest.mark.parametrize("script", ["init.sh", "Dockerfile"])
def test_scripts_install_exactly_the_linked_system_packages(script):
    needed = {PACKAGE_OF[library] for library in needed_libraries() if library in PACKAGE_OF}
    assert needed == set(PACKAGE_OF.values())
    listed = re.search(r"libgl1 lib[a-z0-9. -]+", (ROOT / script).read_text())
    assert set(listed[0].split()) == needed


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-batch.txt", "requirements-dev.txt"])
def test_every_direct_dependency_is_pinned(name):
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r"))]
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9-]+(\[[a-z,]+\])?==[0-9.]+", line) for line in lines)


def test_init_prints_its_usage_for_unknown_arguments():
    done = subprocess.run(["bash", "init.sh", "--nonsense"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "./init.sh test" in done.stdout


@pytest.fixture
def fresh_clone(tmp_path):
    """A fresh clone of the project, but with this run's virtual environment, so that nothing is installed."""
    clone = tmp_path / "moodreel"
    ignore = shutil.ignore_patterns(".venv", ".git", ".env", "calls.db*", "__pycache__", ".*_cache", "runs")
    shutil.copytree(ROOT, clone, ignore=ignore)
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


@pytest.mark.server
def test_init_starts_the_service_and_its_printed_curl_works(fresh_clone):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("API_KEY", "CI")}
    environment |= {"PORT": str(port), "WEB_CONCURRENCY": "1"}
    output = fresh_clone / "output.txt"
    with output.open("w") as file:
        server = subprocess.Popen(
            ["bash", "init.sh", "--local"], cwd=fresh_clone, env=environment, stdout=file, stderr=file
        )
    try:
        _wait_until_ready(server, port, output)
        assert (fresh_clone / ".env").stat().st_mode & 0o077 == 0, "only the owner may read the key"
        curl = re.search(r"^curl .*?\n\n", output.read_text(), re.M | re.S)[0]
        assert f":{port}/" in curl, "the environment overrides .env"
        response = json.loads(subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout)
        assert response["emotion"] == "Happy"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    key = (fresh_clone / ".env").read_text()
    assert len(re.search(r"^API_KEY=(.+)$", key, re.M)[1]) >= 32


def _wait_until_ready(server: subprocess.Popen, port: int, output: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, output.read_text()
        try:
            if requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(0.2)
    raise AssertionError(output.read_text())
