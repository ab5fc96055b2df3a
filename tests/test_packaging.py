"""The package: requirements*.txt pin the dependencies of pyproject.toml, and the built wheel works by itself."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.server import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED_IN = {
    "requirements.txt": [PROJECT["dependencies"], PROJECT["optional-dependencies"]["server"]],
    "requirements-training.txt": [PROJECT["optional-dependencies"]["training"]],
    "requirements-batch.txt": [
        PROJECT["optional-dependencies"]["batch"],
        PROJECT["optional-dependencies"]["storage"],
    ],
    "requirements-extras.txt": [
        PROJECT["optional-dependencies"]["storage"],
        PROJECT["optional-dependencies"]["parquet"],
        PROJECT["optional-dependencies"]["postgresql"],
        PROJECT["optional-dependencies"]["huggingface"],
        PROJECT["optional-dependencies"]["companion"],
        PROJECT["optional-dependencies"]["otel"],
    ],
}


def names(lines: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in lines if line and not line.startswith(("#", "-r"))}


@pytest.mark.parametrize("file", PINNED_IN)
def test_requirements_pin_the_dependencies_of_the_package(file):
    assert names((ROOT / file).read_text().splitlines()) == names([line for group in PINNED_IN[file] for line in group])


def test_the_lock_has_every_pin_with_hashes_and_no_build_of_torch():
    entries = re.split(r"^(?=[a-z])", (ROOT / "requirements-lock.txt").read_text(), flags=re.M)[1:]
    locked = {match[1]: match[2] for entry in entries if (match := re.match(r"([a-z0-9-]+)==(\S+)", entry))}
    pins = dict(re.findall(r"^([A-Za-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M))
    torch = pins.pop("torch")
    assert torch and "torch" not in locked
    assert {name: locked.get(name) for name in pins} == pins
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert [name for name in locked if re.match("nvidia|cuda|triton", name)] == []
    # What torch itself needs is installed from the lock as well.
    needed = [line for line in importlib.metadata.requires("torch") or [] if "extra ==" not in line]
    assert {re.match(r"[A-Za-z0-9_-]+", line)[0].replace("_", "-").lower() for line in needed} <= locked.keys()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the unpacked wheel, as in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("moodreel-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    wheel.unlink()
    return folder / "site"


def run(installed: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_STORE"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=installed.parent,
        env=environment | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_wheel_contains_service_and_models_but_no_tests(installed):
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"api", "moodreel"}
    assert (installed / "moodreel" / "model_store" / "moodreel-five" / "weights.safetensors").is_file()
    assert (installed / "api" / "gunicorn.conf.py").is_file()
    assert (installed / "api" / "static" / "studio" / "strings" / "en.json").is_file()
    assert (installed / "api" / "companion" / "crisis.toml").is_file()
    assert (installed / "api" / "static" / "vendor" / "lit-html" / "LICENSE").is_file()
    assert not list(installed.rglob("train.log"))


def test_an_installed_package_finds_its_models(installed):
    done = run(installed, "-m", "moodreel", "predict", ROOT / "examples" / "smile.mp4")
    assert done.returncode == 0, done.stderr
    assert "Happy" in done.stdout


def test_the_entry_point_is_the_command_line(installed):
    module, _, function = PROJECT["scripts"]["moodreel"].partition(":")
    done = run(installed, "-c", f"import sys, {module} as m; sys.argv = ['moodreel', '--help']; m.{function}()")
    assert done.returncode == 0, done.stderr
    assert {"predict", "serve", "train", "logs"} <= set(re.findall(r"\w+", done.stdout))
