"""The OpenAPI document: Schemathesis finds no difference to the service, and clients are generated from it.

SCHEMATHESIS_EXAMPLES=200 makes Schemathesis try 200 examples of each operation instead of 3; SCHEMATHESIS_REAL=1 makes
it call the real pipelines with the models instead of the fake ones.
"""

import collections
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api.error_details import ERROR_DETAILS
from api.errors import STATUS
from tests.support import accounts
from tests.support.server import DATE, FAKE_APP, KEY, REAL_APP, ROOT, Server, video_body
from tests.support.typescript import TypeScript

pytestmark = pytest.mark.server

NO_CLIENT = {"Unsupported content_type": "the media of a history entry, whose type depends on the entry"}
"""Warnings of the generator of Python clients, and reasons."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("openapi"), FAKE_APP) as server:
        yield server


def run_server(folder: Path, app: str) -> Server:
    return Server(folder, app, HISTORY="on", MAX_WAIT_SECONDS=100, **accounts.environment(folder))


@pytest.fixture
def schemathesis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if os.environ.get("SCHEMATHESIS_REAL", "0") == "0":
        yield request.getfixturevalue("server")
        return
    with run_server(tmp_path, REAL_APP) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    return server.call("GET", "/openapi.json").json()


@pytest.fixture(scope="module")
def document_file(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(document))
    return path


def command(name: str) -> str:
    """Return a command of the tests' environment."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is missing: install requirements-dev.txt"
    return found


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document["paths"].values():
        yield from (operation for method, operation in item.items() if method != "parameters")


def test_every_operation_has_an_id_of_its_own(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(document)]
    assert [name for name, count in collections.Counter(ids).items() if count > 1] == []
    assert {"predictVideo", "makeThumbnail", "listCalls"} <= set(ids)


def enums(node: Any) -> Iterator[list[Any]]:
    if isinstance(node, dict):
        yield from ([node["enum"]] if isinstance(node.get("enum"), list) else [])
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from enums(child)


def test_no_enum_has_the_same_name_twice(document: dict[str, Any]) -> None:
    for enum in enums(document):
        names = [str(value).lower() for value in enum]
        assert len(names) == len(set(names)), enum


def test_a_file_in_json_is_base64(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema, name in (("PredictionOptions", "content"), ("Thumbnail", "thumbnail"), ("Thumbnail", "poster")):
        field = schemas[schema]["properties"][name]
        assert (field["type"], field["format"]) == ("string", "byte")


def test_an_answer_names_what_it_always_has(document: dict[str, Any]) -> None:
    prediction = document["components"]["schemas"]["Prediction"]
    assert set(prediction["properties"]) - set(prediction["required"]) == {
        "timeline",
        "explanation",
        "thumbnail",
        "poster",
        "loop",
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "header"),
    [
        ("post", "/api/text", "200", "Idempotency-Replayed"),
        ("post", "/predict", "202", "Retry-After"),
        ("get", "/jobs/{job_id}", "202", "Retry-After"),
        ("get", "/logs", "200", "x-next-cursor"),
    ],
)
def test_headers_that_a_client_acts_on_are_documented(
    document: dict[str, Any], method: str, path: str, status: str, header: str
) -> None:
    assert header in document["paths"][path][method]["responses"][status]["headers"]


def test_every_error_has_an_example(document: dict[str, Any]) -> None:
    assert ERROR_DETAILS.keys() == STATUS.keys()
    for operation in operations(document):
        for status, response in operation["responses"].items():
            for code, example in (
                response.get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
            ):
                assert (example["value"]["status"], STATUS[code]) == (int(status), int(status))
                assert example["value"]["detail"] == ERROR_DETAILS[code]


@pytest.mark.parametrize(
    ("code", "method", "path", "options"),
    [
        ("bad_json", "POST", "/predict", {}),
        ("bad_date", "POST", "/predict", {"headers": {"x-api-key": KEY}}),
        ("bad_header", "GET", "/auth/profile", {"headers": {"x-api-key": KEY, "x-client-id": "x" * 129}}),
        ("ambiguous_filters", "GET", "/logs?limit=1", {"json": {"limit": 1}}),
        ("invalid_token", "GET", "/auth/profile", {"headers": {"authorization": "Bearer x"}}),
        ("not_found", "GET", "/nowhere", {}),
        ("method_not_allowed", "GET", "/predict", {}),
        ("invalid_request", "POST", "/predict", {"json": {"content": "AAAA"}}),
        ("bad_base64", "POST", "/predict", {"json": {"encoding": "base64", "content": "!"}}),
        ("unsupported_media", "POST", "/predict", {"json": video_body(b"\xff\xd8\xff\xe0")}),
        ("upgrade_required", "GET", "/api/ws", {}),
        ("internal", "POST", "/predict", {"json": video_body(b"crash")}),
    ],
)  # fmt: skip
def test_the_service_says_what_the_example_says(
    server: Server, code: str, method: str, path: str, options: dict[str, Any]
) -> None:
    problem = server.call(method, path, **options).json()
    assert (problem["code"], problem["detail"]) == (code, ERROR_DETAILS[code])


@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing(schemathesis_server: Server) -> None:
    server = schemathesis_server
    examples = os.environ.get("SCHEMATHESIS_EXAMPLES", "3")
    credentials = {"x-api-key": KEY, "Authorization": f"Bearer {accounts.own_token(roles=['ADMIN'])}", "date": DATE}
    arguments = [word for name, value in credentials.items() for word in ("--header", f"{name}: {value}")]
    # All checks are on, but for what schemathesis.toml turns off.
    arguments += ["--max-examples", examples, "--generation-deterministic", "--no-color"]
    run = ["--config-file", str(ROOT / "schemathesis.toml"), "run", f"{server.url}/openapi.json"]
    done = subprocess.run(
        [command("schemathesis"), *run, *arguments],
        cwd=server.folder,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_generated_python_client_posts_a_clip(
    server: Server, document_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "client"
    arguments = ["generate", "--path", document_file, "--output-path", target, "--meta", "none"]
    done = subprocess.run(
        [command("openapi-python-client"), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    output = " ".join(done.stdout.split())
    assert output.count("Cannot parse") == sum(output.count(warning) for warning in NO_CLIENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    client, models, types = (importlib.import_module(f"client{name}") for name in ("", ".models", ".types"))
    caller = client.AuthenticatedClient(server.url, token=KEY, auth_header_name="x-api-key", prefix="")
    predict = importlib.import_module("client.api.predict.predict_video")
    now = datetime.now(UTC).isoformat()
    clip = models.PredictVideoFilesBody(file=types.File(payload=b"a clip", file_name="clip.mp4"))
    answer = predict.sync(client=caller, body=clip, date=now)
    assert (answer.emotion, answer.confidence, answer.quality.reason) == ("Happy", 0.92, None)
    as_json = models.PredictionOptions(encoding=models.PredictionOptionsEncoding.BASE64, content="YSBjbGlw")
    assert predict.sync(client=caller, body=as_json, date=now) == answer
    problem = predict.sync(client=caller, body=as_json)
    assert (problem.code, problem.detail) == ("bad_date", ERROR_DETAILS["bad_date"])


def test_types_are_generated_for_typescript(document_file: Path, typescript: TypeScript) -> None:
    typescript.run("openapi-typescript", document_file, "-o", "moodreel.ts")
    (typescript.folder / "use.ts").write_text(
        'import type { components, operations } from "./moodreel.js";\n'
        'type Prediction = components["schemas"]["Prediction"];\n'
        'type Answer = operations["predictVideo"]["responses"][200]["content"]["application/json"];\n'
        "export const confident = (answer: Answer): string => {\n"
        "  const prediction: Prediction = answer;\n"
        "  const sum: number = prediction.confidence + (prediction.quality.size ?? 0);\n"
        "  return `${prediction.emotion} ${sum}`;\n"
        "};\n"
    )
    typescript.compile("use.ts")
