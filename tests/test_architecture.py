"""Rules of the code's structure that import-linter (pyproject.toml, scripts/check) cannot express."""

import ast
import subprocess
import sys
from collections import Counter

import pytest

from api.preload import UNUSED
from tests.support.server import ROOT

MODULES = sorted([*(ROOT / "moodreel").rglob("*.py"), *(ROOT / "api").rglob("*.py")])
FITTED_BY_LBFGS = {
    "calibration.py": "temperatures",
    "multilabel_metrics.py": "temperatures and offsets of labels",
    "moodreel_five.py": "two stream weights, fitted before the network is trained",
    "facial_actions.py": "a linear regression",
}
"""Modules that call `backward` outside the trainer, and the convex problem that each solves."""


def test_only_the_trainer_and_convex_fits_call_backward():
    callers = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "backward":
                callers.add(path.name)
    trainer = {name for name in callers if (ROOT / "moodreel" / "training" / "engine" / name).is_file()}
    assert len(trainer) == 1
    assert callers - trainer <= set(FITTED_BY_LBFGS)


def test_no_class_name_is_used_twice():
    names = Counter(
        node.name for path in MODULES for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def loaded_modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sorted(sys.modules))"],
        cwd=ROOT,
        env={"API_KEY": "k", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_serving_imports_neither_training_nor_optional_libraries():
    modules = loaded_modules("import api.wsgi")
    assert "moodreel.pipelines.video" in modules
    assert not modules & {
        "moodreel.training",
        "moodreel.pipelines.timeline_plot",
        "gdown",
        "transformers",
        "sklearn",
        "scipy",
        "librosa",
        "api.tracing",
    }


def test_libraries_imported_before_the_fork_start_no_thread_and_run_no_own_code():
    code = "import os; os.environ['OPENBLAS_NUM_THREADS'] = '1'; from api.preload import import_libraries"
    count_threads = "assert [*os.listdir('/proc/self/task')] == [str(os.getpid())]"
    modules = loaded_modules(f"{code}; import_libraries(); {count_threads}")
    assert {"torch", "mediapipe", "sqlite_utils"} <= modules
    assert not {name.partition(".")[0] for name in modules} & {"moodreel", "matplotlib", *UNUSED}


def test_loading_models_imports_no_compiler():
    loads = [
        "from pathlib import Path",
        "from moodreel.models import audiovisual_registry, face_registry, text_registry",
        "store = Path('model_store')",
        "kinds = [face_registry.face_model_registry, audiovisual_registry.audiovisual_model_registry]",
        "models = [kind(store) for kind in [*kinds, text_registry.text_model_registry]]",
        "[registry.get(name) for registry in models for name in registry.names()]",
    ]
    assert not loaded_modules("; ".join(loads)) & {"sympy", "torch._dynamo"}


@pytest.mark.parametrize("module", ["api.settings", "moodreel.storage.call_log", "moodreel.__main__"])
def test_light_modules_import_no_heavy_library(module):
    assert not loaded_modules(f"import {module}") & {"torch", "mediapipe", "cv2", "flask"}
