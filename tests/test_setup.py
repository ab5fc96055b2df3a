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

from tests.support.server import ROOT

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


def test_a_setting_is_read_as_the_service_reads_it(tmp_path):
    (tmp_path / ".env").write_bytes(
        b'  export  PORT = "8080" # of a proxy\r\nHOST= # any\r\nLLM_MODEL=\'it"s #1\' # x\n'
    )
    function = re.search(r"^setting\(\) \{.*?^\}", (ROOT / "init.sh").read_text(), re.M | re.S)[0]
    script = f"{function}\nsetting PORT 5000; echo; setting HOST 0.0.0.0; echo; setting LLM_MODEL"
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout == b'8080\n0.0.0.0\nit"s #1'


def test_a_container_gets_the_settings_as_the_service_reads_them(fresh_clone, tmp_path):
    (tmp_path / "docker").write_text('#!/bin/sh\n[ "$1" = run ] && echo "$@" && env\ntrue\n')
    (tmp_path / "docker").chmod(0o755)
    (fresh_clone / ".env").write_text('API_KEY="a key"  # of the app\nexport PORT = 8080\nHOST=127.0.0.1\nOTHER=1\n')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PORT": "8081", "THREADS": "3", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "init.sh", "--docker"], cwd=fresh_clone, env=environment, capture_output=True, text=True, check=True
    )
    [command] = [line for line in done.stdout.splitlines() if line.startswith("run ")]
    assert "a key" not in command, "all users of the host see the commands of others"
    assert "-p 127.0.0.1:8081:8081 " in command and command.endswith("/downloaded moodreel")
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    given = re.findall(r"--env (\S+)", command)
    assert given[-1] == "HOST=0.0.0.0", "the last one counts"
    assert {name: settings[name] for name in given[:-1]} == {
        "API_KEY": "a key", "HOST": "127.0.0.1", "OTHER": "1", "PORT": "8081", "THREADS": "3",
    }  # fmt: skip


def test_ctrl_c_ends_an_installation(tmp_path):
    for name in ("init.sh", ".env.example", *(path.name for path in ROOT.glob("requirements*.txt"))):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "pip").touch(mode=0o755)
    # As pip does, it ends by itself at Ctrl-C; bash then goes on with the next command.
    (programs / "python").write_text("#!/bin/sh\ntrap 'exit 2' INT\necho started >>log\nwhile :; do sleep 0.1; done\n")
    (programs / "python").chmod(0o755)
    process = subprocess.Popen(
        ["bash", "init.sh", "setup"],
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / "log").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "log").read_text() == "started\n"


def test_a_moved_folder_still_serves(fresh_clone):
    (fresh_clone / ".venv").unlink()
    programs = fresh_clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    # As pip makes them: the Python of the folder's old place is not there.
    for name in ("gunicorn", "pip"):
        (programs / name).write_text("#!/nowhere/.venv/bin/python\n")
        (programs / name).chmod(0o755)
    (programs / "python").write_text(f'#!/bin/sh\n[ "$1" = -m ] && echo "served by $2" || exec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    lines = b"".join(file.read_bytes() for file in sorted(fresh_clone.glob("requirements*.txt")))
    stamp = subprocess.run(["cksum"], input=lines, capture_output=True, check=True).stdout
    (programs.parent / ".requirements.txt.installed").write_bytes(stamp)
    done = subprocess.run(["bash", "init.sh", "--local"], cwd=fresh_clone, capture_output=True, text=True, check=False)
    assert "served by gunicorn" in done.stdout, done.stderr


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
