"""Imports go down only (README, "Development"): the domain knows no web, serving knows no training."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOMAIN = sorted((ROOT / "moodreel").rglob("*.py"))
BELOW = {
    "errors": set(),
    "emotions": {"errors"},
    "hdr": set(),
    "tracks": set(),
    "container": set(),
    "video": {"container", "errors", "hdr"},
    "audio": {"container", "errors"},
    "logmel": {"audio"},
    "windows": set(),
    "protagonist": {"tracks"},
    "excerpts": {
        "audio",
        "container",
        "errors",
        "faces",
        "features",
        "logmel",
        "models",
        "protagonist",
        "video",
        "windows",
    },
    "boomerang": {"errors", "video"},
    "faces": {"errors"},
    "features": {"errors", "faces"},
    "search": {"faces"},
    "heif_tiles": set(),
    "pictures": {"errors", "heif_tiles"},
    "palette": set(),
    "drawing": {"palette"},
    "moments": {"faces", "features"},
    "quality": {"moments"},
    "movements": {"emotions", "errors", "faces"},
    "timestamps": set(),
    "media": {"errors"},
    "moods": {"emotions", "timestamps"},
    "history": {"database", "emotions", "errors", "media", "moods", "timestamps"},
    "database": {"errors", "timestamps"},
    "call_log": {"errors", "database", "timestamps"},
    "presence": {"errors", "database"},
    "presence_redis": {"presence"},
    "live": {"analysis", "errors", "faces", "features", "live", "models", "movements", "pictures", "tracks"},
    "models": {"errors", "emotions", "faces", "features", "logmel", "models"},
    "language": {"errors"},
    "words": {"emotions", "errors", "language", "models"},
}
"""What each module of the domain may import of the domain; the others join them."""
NO_NETWORKS = {
    "baseline.py": "a logistic regression, to compare networks with; one minimum, found by L-BFGS",
    "joint.py": "how far to trust either of two networks; two numbers, fitted by L-BFGS before the network learns",
    "movements.py": "a regression that names movements; one minimum, found by L-BFGS",
    "text_figures.py": "temperatures and offsets of labels; one minimum, found by L-BFGS",
    "text_floor.py": "a logistic regression on counted words, to compare networks with",
}
"""What is fitted and is no network in training, by file: why it needs nothing of the loop."""


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", DOMAIN, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_domain_knows_nothing_of_the_web(path):
    assert not {name.split(".")[0] for name in imported(path)} & {
        "flask",
        "flask_smorest",
        "marshmallow",
        "werkzeug",
        "api",
    }


@pytest.mark.parametrize("path", DOMAIN, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    room = path.relative_to(ROOT / "moodreel").with_suffix("").parts[0]
    if room in BELOW:
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("moodreel.") and name.count(".")}
        assert rooms <= BELOW[room]


def test_one_loop_trains_all_networks():
    descending = set()
    for path in DOMAIN:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "backward":
                descending.add(path.name)
    assert descending == {"loop.py", *NO_NETWORKS}


def test_serving_never_loads_training_or_what_only_a_plot_or_a_download_needs():
    code = "import sys, api.wsgi; print(*sorted(sys.modules))"
    environment = {"API_KEY": "k", "PATH": "/usr/bin:/bin"}
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    modules = set(loaded.stdout.split())
    assert "moodreel.pipelines.video" in modules
    assert not modules & {"moodreel.training", "moodreel.pipelines.timeline_plot", "gdown", "transformers"}
