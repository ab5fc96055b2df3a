"""The compose file, and its proxy: Debian's nginx with our configuration, in front of the real service."""

import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket
import yaml

from tests.support.chat_stand_in import StandIn, chat_stand_in
from tests.support.server import HEADERS, KEY, REAL_APP, ROOT, Server, free_port, wait_until

COMPOSE = ROOT / "deploy" / "compose.yaml"
CONFIGURATION = (ROOT / "deploy" / "proxy" / "nginx.conf").read_text()
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
# It gives volumes to users.
NEEDS_ROOT = {"prepare"}
needs_nginx = pytest.mark.skipif(not NGINX, reason="needs Debian's package nginx-light")


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs Debian's package docker-compose")
def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    # Debian's docker-compose checks the compose specification of 2021, which has no project name yet.
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "compose.yaml").write_text(COMPOSE.read_text().replace("\nname: moodreel\n", "\n"))
    shutil.copy(ROOT / ".env.example", tmp_path / ".env")
    # COMPOSE_FILE in .env leads from the root to the file.
    done = subprocess.run(
        ["docker-compose", "config"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)["services"]
    assert resolved.keys() == SERVICES.keys()
    assert "RATE_LIMIT" in resolved["moodreel"]["environment"]


def test_plain_up_starts_only_the_service_and_the_proxy() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"moodreel", "prepare", "proxy"}
    assert {profile for service in SERVICES.values() for profile in service.get("profiles", [])} == {
        "acme", "companion", "monitoring", "postgres", "redis", "traces",
    }  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert (service["user"].startswith("0:")) == (name in NEEDS_ROOT)
    if service["restart"] == "unless-stopped":
        assert "healthcheck" in service
        assert service["deploy"]["resources"]["limits"]["memory"]
    assert ":latest" not in service["image"]


def test_gunicorn_may_end_calls_before_it_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    graceful = 2 * 20 + 30 + 15  # graceful_timeout of api/gunicorn.conf.py with the default settings
    assert int(SERVICES["moodreel"]["stop_grace_period"].removesuffix("s")) > graceful


def test_the_proxy_closes_idle_connections_before_the_service_does() -> None:
    # A call that the proxy sends on a connection that the service closes at that moment is lost.
    upstream = re.search(r"upstream moodreel \{.+?\n  \}", CONFIGURATION, re.S)[0]
    assert "keepalive_timeout" not in upstream, "nginx's default is 60 s"
    keepalive = re.search(r"^keepalive = (\d+)$", (ROOT / "api" / "gunicorn.conf.py").read_text(), re.M)[1]
    assert int(keepalive) > 60


class Proxy:
    """Run nginx with the configuration that ships, but other addresses and files, as a context manager."""

    def __init__(self, folder: Path, server_port: int) -> None:
        self._folder = folder
        self.plain, self.tls = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.tls}"
        self.certificate = folder / "fullchain.pem"
        text = CONFIGURATION.replace(" /tmp/", f" {folder}/")
        for name, replacement in {
            "server moodreel:5000": f"server 127.0.0.1:{server_port}",
            "listen 8080": f"listen 127.0.0.1:{self.plain}",
            "listen 8443": f"listen 127.0.0.1:{self.tls}",
            "/certs/": f"{folder}/",
            "/dev/stderr": f"{folder}/stderr.txt",
            "/dev/stdout": f"{folder}/stdout.txt",
        }.items():
            assert name in text
            text = text.replace(name, replacement)
        (folder / "nginx.conf").write_text(text)

    def __enter__(self) -> "Proxy":
        command = re.search(r"openssl req .+?fullchain.pem", SERVICES["prepare"]["command"][0])[0]
        command = command.replace("$$DOMAIN", "127.0.0.1").replace("DNS:", "IP:").replace("/certs/", f"{self._folder}/")
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)
        self._process = subprocess.Popen(
            [
                NGINX,
                "-c",
                self._folder / "nginx.conf",
                "-p",
                self._folder,
                "-g",
                "daemon off; user root;" if os.getuid() == 0 else "daemon off;",
            ]
        )
        wait_until(self._healthy, self.messages)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        options = {"headers": HEADERS, "timeout": 60, "verify": self.certificate, **options}
        return requests.request(method, self.url + path, **options)

    def messages(self) -> str:
        return (self._folder / "stderr.txt").read_text()

    def _healthy(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.plain}/proxy-health", timeout=5).ok
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    with chat_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, model: StandIn) -> Iterator[Proxy]:
    if not NGINX:
        pytest.skip("needs Debian's package nginx-light")
    folder = tmp_path_factory.mktemp("service")
    llm = {"LLM_BASE_URL": model.url, "LLM_MODEL": "tiny"}
    with (
        Server(folder, REAL_APP, forked=True, WEB_CONCURRENCY=1, **llm) as server,
        Proxy(tmp_path_factory.mktemp("proxy"), server.port) as proxy,
    ):
        yield proxy


@needs_nginx
def test_without_the_service_the_status_is_that_of_the_body(tmp_path: Path) -> None:
    with Proxy(tmp_path, free_port()) as proxy:
        answer = proxy.call("GET", "/health")
    assert (answer.status_code, answer.json()["status"], answer.json()["code"]) == (503, 503, "not_ready")
    assert answer.headers["retry-after"] == "5"


@needs_nginx
def test_without_room_for_a_body_the_answer_has_the_form_of_the_service(tmp_path: Path) -> None:
    with Proxy(tmp_path, free_port()) as proxy:
        # A folder that bodies cannot be written to fails as a full one does.
        (tmp_path / "body").rmdir()
        (tmp_path / "body").touch()
        answer = proxy.call("POST", "/predict", data=bytes(100_000))
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.server
@needs_nginx
class TestProxy:
    def test_http_leads_to_https(self, proxy: Proxy) -> None:
        answer = requests.get(f"http://127.0.0.1:{proxy.plain}/docs?x=1", allow_redirects=False, timeout=5)
        assert (answer.status_code, answer.headers["location"]) == (308, "https://127.0.0.1/docs?x=1")

    def test_a_clip_is_answered_through_tls(self, proxy: Proxy) -> None:
        with (ROOT / "examples" / "smile.mp4").open("rb") as clip:
            answer = proxy.call("POST", "/predict", files={"file": clip})
        assert answer.json()["emotion"] == "Happy"
        assert proxy.messages() == "", "each clip is kept in a file until all of it has come, which is no event"

    def test_a_websocket_is_passed_through(self, proxy: Proxy) -> None:
        trust = {"ca_certs": str(proxy.certificate), "cert_reqs": ssl.CERT_REQUIRED}
        url = proxy.url.replace("https", "wss") + "/api/ws"
        connection = websocket.create_connection(url, timeout=20, sslopt=trust, header={"x-api-key": KEY})
        assert '"type"' in connection.recv()
        connection.close()

    def test_a_stream_comes_piece_by_piece(self, proxy: Proxy, model: StandIn) -> None:
        entry = {"emotion": "Sad", "confidence": 0.84, "text": "hold"}
        with proxy.call("POST", "/api/companion", json=entry, stream=True) as answer:
            pieces = answer.iter_lines(decode_unicode=True)
            first = next(line for line in pieces if line.startswith("data:"))
            assert "What" in first, "the first piece comes while the model still holds the last one"
            model.may_end.set()
            assert "".join(pieces)

    def test_a_body_that_is_too_large_is_refused_with_the_code_of_the_service(self, proxy: Proxy) -> None:
        answer = proxy.call("POST", "/predict", headers={**HEADERS, "content-length": str(98 * 1024 * 1024)})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert answer.headers["content-type"] == "application/problem+json"
        assert "101 MB" in answer.json()["detail"], "as the service says it"

    def test_metrics_stay_inside(self, proxy: Proxy) -> None:
        assert proxy.call("GET", "/metrics").status_code == proxy.call("GET", "/metrics/").status_code == 404

    def test_too_many_calls_of_one_address_are_refused(self, proxy: Proxy) -> None:
        time.sleep(1)
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: proxy.call("GET", "/health"), range(120)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 20 <= len(refused) < 85
        assert {(answer.status_code, answer.json()["code"], answer.headers["retry-after"]) for answer in refused} == {
            (429, "rate_limited", "5")
        }
