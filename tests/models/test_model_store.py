"""Where the shipped models are found."""

import subprocess
import sys

import pytest

from moodreel.errors import MoodreelError
from moodreel.models import model_store
from moodreel.models.model_store import find_model_store, model_folder
from tests.support.server import ROOT


def test_checkout_store_is_beside_the_package(monkeypatch):
    monkeypatch.delenv("MODEL_STORE", raising=False)
    assert find_model_store() == ROOT / "model_store"


def test_installed_package_contains_the_store(monkeypatch, tmp_path):
    monkeypatch.delenv("MODEL_STORE", raising=False)
    inside, beside = tmp_path / "moodreel" / "model_store", tmp_path / "model_store"
    monkeypatch.setattr(model_store, "_CANDIDATES", (inside, beside))
    inside.mkdir(parents=True)
    beside.mkdir()
    assert find_model_store() == inside


def test_environment_variable_sets_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_STORE", str(tmp_path))
    assert find_model_store() == tmp_path
    assert model_folder("vit") == tmp_path / "vit"
    assert model_folder(str(ROOT)) == ROOT


@pytest.mark.parametrize("named", ["", "/nowhere"])
def test_missing_store_error_has_a_hint(monkeypatch, tmp_path, named):
    monkeypatch.setenv("MODEL_STORE", named)
    monkeypatch.setattr(model_store, "_CANDIDATES", (tmp_path / "none",))
    with pytest.raises(MoodreelError, match=r"set .*to the folder of models"):
        find_model_store()


def test_finding_the_store_does_not_import_torch():
    code = "import sys, moodreel.models.model_store as m; m.find_model_store(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
