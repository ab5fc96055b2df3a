"""Every command and example of README.md and docs/ works, except what needs Docker, a cloud or a proxy."""

import argparse
import importlib
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
from tests.support.chat_stand_in import chat_stand_in
from tests.support.server import KEY, REAL_APP, ROOT, Server
from tests.support.synthetic_frames import portrait
from tests.support.synthetic_image import encode_image

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CHROMIUM = shutil.which("chromium")
NOT_RUN = {
    "gcloud": "needs an account at Google",
    "docker compose": "needs a Docker engine",
    "docker run": "needs a Docker engine",
    "kubectl": "needs a cluster",
    "sudo": "changes the system",
    "./init.sh": "tests/test_setup.py starts it; ./init.sh test is this run",
    "pip install": "downloads packages",
}
"""Words of the blocks of commands that are not run, and the reasons."""
PLACEHOLDERS = re.compile(r"\b(PATH|DIR|RUN|FOLDER|FILE|MODEL|VIDEO|NAME)\b")
"""Words that a reader replaces: such a command is only parsed."""


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


def fenced_blocks() -> list[Block]:
    blocks: list[Block] = []
    for file in FILES:
        before, end, text = None, 0, file.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            follows = before if not text[end : match.start()].strip() else None
            before, end = Block(file, line, match[1], match[2], follows), match.end()
            blocks.append(before)
    return blocks


BLOCKS = fenced_blocks()
COMMANDS = [block for block in BLOCKS if block.language == "bash" and not any(word in block.text for word in NOT_RUN)]
TRAINING = sorted(
    {
        line.split("#")[0].strip()
        for block in BLOCKS
        for line in block.text.splitlines()
        if re.match(r"(\$ )?(\.venv/bin/)?python -m moodreel\.training ", line)
    }
)
BENCHMARKS = sorted({match for file in FILES for match in re.findall(r"`(python -m bench\.[^`]*)`", file.read_text())})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    with chat_stand_in() as llm:
        settings = {
            "MAX_WAIT_SECONDS": 100,
            "LLM_BASE_URL": llm.url,
            "LLM_MODEL": "any",
            **accounts.environment(folder),
        }
        with Server(folder, REAL_APP, WEB_CONCURRENCY=1, **settings) as server:
            yield server


@pytest.fixture(scope="module")
def clone(tmp_path_factory, server) -> Path:
    """A folder like a clone of the project after ./init.sh --local."""
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
def test_shell_commands_succeed_and_print_the_documented_json(block, clone, server):
    output = run(block.text, clone, server)
    assert '"status":4' not in output.replace(" ", "") and '"status":5' not in output.replace(" ", ""), output
    for example in BLOCKS:
        if example.after == block and example.language == "json":
            response = json.loads(output.strip().splitlines()[-1])
            _check_response(json.loads(example.text), response)


def _check_response(example: dict, response: dict) -> None:
    """Compare the fields, the strings and, to about two digits, the numbers."""
    assert example.keys() == response.keys()
    for name, expected in example.items():
        if isinstance(expected, dict):
            _check_response(expected, response[name])
        elif isinstance(expected, float | int) and not isinstance(expected, bool):
            assert response[name] == pytest.approx(expected, rel=0.1, abs=0.05), name
        elif isinstance(expected, str) and expected.endswith("…"):
            assert response[name].startswith(expected[:-1]), name
        elif isinstance(expected, str) or expected is None:
            assert response[name] == expected, name


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "console"], ids=str)
def test_console_sessions_print_the_documented_output(block, clone, server):
    command, *expected = block.text.splitlines()
    if not PLACEHOLDERS.search(command):
        assert run(command.removeprefix("$ "), clone, server).splitlines() == expected


@pytest.mark.parametrize("command", TRAINING)
def test_training_commands_parse(command, tmp_path):
    words = shlex.split(command.removeprefix("$ "))
    arguments = [PLACEHOLDERS.sub(str(tmp_path), word) for word in words[words.index("moodreel.training") + 1 :]]
    try:
        _parser().parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        raise AssertionError(f"does not parse: {arguments}") from error


@pytest.mark.parametrize("command", BENCHMARKS)
def test_benchmarks_have_the_documented_options(command, monkeypatch, capsys):
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        importlib.import_module(module).main()
    options = re.findall(r"--[\w-]+", capsys.readouterr().out)
    assert {word for word in arguments if word.startswith("--")} <= set(options)


def example(language: str, word: str) -> str:
    return next(block.text for block in BLOCKS if block.language == language and word in block.text)


@pytest.mark.server
def test_the_token_of_the_example_is_accepted(server):
    secret = server.settings["SECURITY_SECRET"]
    scope = {"SECURITY_SECRET": secret}
    exec(example("python", "jwt.encode").replace("https://app.example", accounts.ISSUER), scope)
    response = server.call("GET", "/auth/profile", headers={"authorization": f"Bearer {scope['token']}"})
    assert response.json()["user_id"] == "42"


@pytest.mark.server
def test_the_live_video_client_of_the_example_gets_results(server):
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
def test_the_javascript_text_client_of_the_example_gets_a_result(server):
    script = example("js", "new WebSocket").replace("wss://moodreel.example", server.url.replace("http", "ws"))
    script = f"const token = {accounts.own_token()!r};\n{script}"
    logged: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(base_url=server.url)
        context.add_cookies([{"name": "access_token", "value": accounts.own_token(), "url": server.url}])
        page = context.new_page()
        page.goto("/health")
        page.on("console", lambda message: logged.extend(str(value.json_value()) for value in message.args))
        page.add_script_tag(content=script)
        deadline = time.monotonic() + 20
        while not any("emotion_classification" in line for line in logged) and time.monotonic() < deadline:
            page.wait_for_timeout(50)
        browser.close()
    assert any("emotion_classification" in line and "joy" in line for line in logged), logged


@pytest.mark.server
def test_the_typescript_of_the_example_posts_a_clip(server, typescript):
    """The whole example is type-checked; `record` needs a camera and is not run."""
    (typescript.folder / "diary.ts").write_text(example("ts", "MediaRecorder"))
    typescript.compile("diary.ts")
    clip = ROOT / "examples" / "smile.mp4"
    (typescript.folder / "run.js").write_text(
        'import { readFileSync } from "node:fs";\n'
        'import { post } from "./diary.js";\n'
        f"const clip = new Blob([readFileSync({json.dumps(str(clip))})]);\n"
        "const { fetch } = globalThis;\n"
        "const broken = new ReadableStream({ start: (stream) => stream.error(new TypeError('terminated')) });\n"
        "globalThis.fetch = async (...call) => {\n"
        "  const response = await fetch(...call);\n"
        "  return broken.locked ? response : new Response(broken, response); // the first answer breaks off\n"
        "};\n"
        f"const answer = await post({json.dumps(server.url)}, {json.dumps(accounts.own_token())}, clip);\n"
        "const problem = await post(process.argv[2], 'no', clip).catch((error) => error.message);\n"
        "console.log(JSON.stringify([answer.emotion, answer.certain, problem]));\n"
    )
    emotion, certain, problem = json.loads(typescript.run("node", "run.js", server.url))
    assert (emotion, certain) == ("Happy", True)
    assert problem.startswith("invalid_token: ")


def test_relative_links_point_to_existing_files():
    for file in FILES:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_error_code_is_in_the_documentation():
    from api.errors import STATUS

    words = {word for file in FILES for word in re.findall(r"`([a-z0-9_]+)`", file.read_text())}
    not_http = {"client_closed_request", "not_started"}  # the caller has gone; a message of live video
    assert STATUS.keys() - not_http - words == set()


def test_every_metric_is_in_the_documentation():
    names = re.findall(r'"(moodreel_[a-z_]+)"', (ROOT / "api" / "metrics.py").read_text())
    assert len(names) > 20
    text = (ROOT / "docs" / "operate.md").read_text()
    assert [name for name in names if not re.search(rf"`{name}(_total)?`", text)] == []
