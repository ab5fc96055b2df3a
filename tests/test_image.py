"""The image that the Dockerfile builds: what it promises, as far as no engine is needed to see it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import moodreel
from tests.support.server import ROOT

SITE = Path(sys.prefix, "lib", "python3.11", "site-packages")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FINAL_STAGE = DOCKERFILE.split("\nFROM ")[-1]

REQUESTS_WITHOUT = """
import importlib.abc, sys
from pathlib import Path

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        is_tests = name.endswith(".tests") and any(Path(each, "tests").is_dir() for each in path)
        if is_tests or any(name == each or name.startswith(f"{each}.") for each in sys.argv[1].split()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from api.preload import import_libraries
import_libraries()
from api.app import create_app
from api.settings import Settings

client = create_app(Settings.from_environment()).test_client()
def post(path, **body):
    answer = client.post(path, headers={"x-api-key": "k", "date": "2026-01-01T00:00:00Z"}, **body)
    print(path, answer.status_code, answer.text[:200] if answer.status_code != 200 else "")

for path in ("/predict", "/thumbnail", "/api/predict/multimodal"):
    post(path, data={"file": open("examples/smile.mp4", "rb")})
post("/api/text", json={"text": "What a lovely day"})
"""


def test_the_final_stage_has_labels_a_user_without_rights_a_health_check_and_no_build_tools():
    assert re.search(r"^USER moodreel$", FINAL_STAGE, re.M)
    assert re.search(r"^HEALTHCHECK .*/health", FINAL_STAGE, re.M | re.S)
    assert not re.search(r"binutils|build-essential|gcc|pip install", FINAL_STAGE)
    assert f"ARG VERSION={moodreel.__version__}\n" in FINAL_STAGE
    labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)", FINAL_STAGE))
    assert {"title", "description", "licenses", "version", "revision"} <= labels


def test_only_the_folders_of_volumes_can_be_written_by_the_service():
    assert "COPY --chown" not in FINAL_STAGE
    volumes = re.search(r"^VOLUME \[(.+)\]", FINAL_STAGE, re.M)[1]
    owned = re.search(r"chown moodreel (.+?) &&", FINAL_STAGE)[1].split()
    assert [f'"/app/{folder}"' for folder in owned] == volumes.split(", ")


def test_everything_that_the_build_strips_or_deletes_is_there():
    deleted = re.search(r"rm -r (torch/.+?) &&", DOCKERFILE)[1].split()
    stripped = re.search(r"strip --strip-unneeded (.+?) \\", DOCKERFILE)[1].split()
    kept = re.search(r"find torch/bin -type f ! -name (\w+)", DOCKERFILE)[1]
    assert [path for path in [*deleted, *stripped, f"torch/bin/{kept}"] if not (SITE / path).exists()] == []


def test_no_library_links_the_drivers_that_the_image_leaves_out():
    dropped = re.findall(r"(lib[A-Za-z0-9]+)[.*]", re.search(r"rm -r dri (.+?) \\", FINAL_STAGE)[1])
    assert {"libLLVM", "libz3", "libxml2", "libicu"} == set(dropped)
    objects = [*(SITE / "cv2").glob("*.so"), *(SITE / "mediapipe").rglob("*.so")]
    linked = subprocess.run(["ldd", *objects], capture_output=True, text=True, check=False).stdout
    assert "libGL.so.1" in linked
    assert [name for name in dropped if f"\t{name}" in linked] == []


def test_the_service_answers_without_the_packages_that_the_image_leaves_out(tmp_path):
    uninstalled = re.search(r"pip uninstall -q -y (.+)", DOCKERFILE)[1].replace("-", "_")
    done = subprocess.run(
        [sys.executable, "-c", REQUESTS_WITHOUT, f"{uninstalled} torch._inductor"],
        cwd=ROOT,
        env=os.environ | {"API_KEY": "k", "LOG_PATH": str(tmp_path / "calls.db")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if line.startswith("/")]
    assert len(answers) == 4
    assert all(line.rstrip().endswith(" 200") for line in answers), done.stdout
