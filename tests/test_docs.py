"""Every command and example of README.md and docs/ works, except what needs Docker, a cloud or a proxy."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from moodreel.training.__main__ import _parser
from tests.support import accounts
from tests.support.server import KEY, REAL_APP, ROOT, Server
from tests.support.synthetic_frames import portrait
from tests.support.synthetic_image import encode_image

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHROMIUM = shutil.which("chromium")
NOT_HERE = {
    "gcloud": "needs an account at Google",
    "./init.sh": "tests/test_setup.py starts it; ./init.sh test is this run",
    "pip install": "downloads packages",
}
"""Words of a block of commands that this test cannot run, and why."""
PLACEHOLDERS = re.compile(r"\b(PATH|DIR|RUN|FOLDER|FILE|MODEL|VIDEO|NAME)\b")
"""What a reader replaces: such a command is only parsed."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    file: Path
    line: int
    language: str
    text: str
    after: "Block | None" = None

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


def blocks() -> list[Block]:
    found: list[Block] = []
    for file in FILES:
        before, end, text = None, 0, file.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            follows = before if not text[end : match.start()].strip() else None
            before, end = Block(file, line, match[1], match[2], follows), match.end()
            found.append(before)
    return found


BLOCKS = blocks()
COMMANDS = [block for block in BLOCKS if block.language == "bash" and not any(word in block.text for word in NOT_HERE)]
TRAINING = sorted(
    {
        line.split("#")[0].strip()
        for block in BLOCKS
        for line in block.text.splitlines()
        if re.match(r"(\$ )?(\.venv/bin/)?python -m moodreel\.training ", line)
    }
)
INLINE = sorted({match for file in FILES for match in re.findall(r"`(python -m bench\.[^`]*)`", file.read_text())})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    with Server(folder, REAL_APP, WEB_CONCURRENCY=1, MAX_WAIT_SECONDS=100, **accounts.environment(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def clone(tmp_path_factory, server) -> Path:
    """A clone of the project, as a reader has it after ./init.sh --local."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("api", "bench", "moodreel", "model_store", "examples"):
        (clone / name).symlink_to(ROOT / name)
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / "logs").symlink_to(server.folder / "logs")
    (clone / ".env").write_text(f"API_KEY={KEY}\n")
    return clone


def run(commands: str, clone: Path, server: Server) -> str:
    script = commands.replace("http://127.0.0.1:5000", server.url)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "API_KEY": KEY, "HOME": str(clone)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone,
        env=environment,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="replace")


@pytest.mark.server
@pytest.mark.parametrize("block", [block for block in COMMANDS if not PLACEHOLDERS.search(block.text)], ids=str)
def test_commands_work_as_they_stand(block, clone, server):
    output = run(block.text, clone, server)
    assert '"status":4' not in output.replace(" ", "") and '"status":5' not in output.replace(" ", ""), output
    for example in BLOCKS:
        if example.after == block and example.language == "json":
            answer = json.loads(output.strip().splitlines()[-1])
            _check_answer(json.loads(example.text), answer)


def _check_answer(example: dict, answer: dict) -> None:
    """Compare the fields of an answer, the words in it, and its numbers to two digits."""
    assert example.keys() == answer.keys()
    for name, expected in example.items():
        if isinstance(expected, dict):
            _check_answer(expected, answer[name])
        elif isinstance(expected, float | int) and not isinstance(expected, bool):
            assert answer[name] == pytest.approx(expected, rel=0.1, abs=0.05), name
        elif isinstance(expected, str) and expected.endswith("…"):
            assert answer[name].startswith(expected[:-1]), name
        elif isinstance(expected, str) or expected is None:
            assert answer[name] == expected, name


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "console"], ids=str)
def test_sessions_print_what_they_show(block, clone, server):
    command, *expected = block.text.splitlines()
    if not PLACEHOLDERS.search(command):
        assert run(command.removeprefix("$ "), clone, server).splitlines() == expected


@pytest.mark.parametrize("command", TRAINING)
def test_training_commands_are_understood(command, tmp_path):
    words = shlex.split(command.removeprefix("$ "))
    arguments = [PLACEHOLDERS.sub(str(tmp_path), word) for word in words[words.index("moodreel.training") + 1 :]]
    try:
        _parser().parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        raise AssertionError(f"not understood: {arguments}") from error


@pytest.mark.parametrize("command", INLINE)
def test_benchmarks_have_the_options_that_are_named(command):
    _, _, module, *arguments = shlex.split(command)
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {word for word in arguments if word.startswith("--")} <= set(re.findall(r"--[\w-]+", shown.stdout))


def example(language: str, word: str) -> str:
    return next(block.text for block in BLOCKS if block.language == language and word in block.text)


@pytest.mark.server
def test_a_token_made_as_the_example_makes_it_is_taken(server):
    secret = server.settings["SECURITY_SECRET"]
    scope = {"SECURITY_SECRET": secret}
    exec(example("python", "jwt.encode").replace("https://app.example", accounts.ISSUER), scope)
    answer = server.call("GET", "/auth/profile", headers={"authorization": f"Bearer {scope['token']}"})
    assert answer.json()["user_id"] == "42"


@pytest.mark.server
def test_the_python_client_of_live_video_gets_results(server):
    results: list[dict] = []
    scope = {"url": server.url, "KEY": KEY, "jpeg": encode_image(portrait()), "print": results.append}
    exec(example("python", "socketio.Client"), scope)
    try:
        deadline = time.monotonic() + 20
        while not results and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        scope["client"].disconnect()
    assert results[0]["faces"][0]["emotion"] == "Happy"


@pytest.mark.server
@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium; ./init.sh test installs it")
def test_the_javascript_client_of_texts_gets_an_answer(server):
    script = example("js", "new WebSocket").replace("wss://moodreel.example", server.url.replace("http", "ws"))
    heard: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(base_url=server.url)
        context.add_cookies([{"name": "access_token", "value": accounts.own_token(), "url": server.url}])
        page = context.new_page()
        page.goto("/health")
        page.on("console", lambda message: heard.extend(str(value.json_value()) for value in message.args))
        page.add_script_tag(content=script)
        deadline = time.monotonic() + 20
        while not any("emotion_classification" in line for line in heard) and time.monotonic() < deadline:
            page.wait_for_timeout(50)
        browser.close()
    assert any("emotion_classification" in line and "joy" in line for line in heard), heard


def test_links_lead_to_files_that_are_there():
    for file in FILES:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
