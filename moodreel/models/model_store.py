"""Find the folder of shipped models.

This module imports nothing heavy, so that settings and command lines can use it before torch is loaded.
"""

import os
from pathlib import Path

from moodreel.errors import MoodreelError

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt")
"""How the names of weights files end."""
_PACKAGE = Path(__file__).resolve().parents[1]
_CANDIDATES = _PACKAGE / "model_store", _PACKAGE.parent / "model_store"
"""Where `pip install` puts the models, and where a checkout has them."""


def find_model_store() -> Path:
    """Return the folder that holds one folder for each model.

    This is the folder that the environment variable MODEL_STORE names, or else the one that comes with the package.

    Raises:
        MoodreelError: There is no such folder.
    """
    if named := os.environ.get("MODEL_STORE"):
        if not Path(named).is_dir():
            raise MoodreelError(f"MODEL_STORE is {named!r}, which is not a folder; set it to the folder of models.")
        return Path(named)
    store = shipped_model_store()
    if not store.is_dir():
        raise MoodreelError(
            f"There is no folder {store}; install moodreel again, or set MODEL_STORE to the folder of models."
        )
    return store


def shipped_model_store() -> Path:
    """Return the folder of models that comes with the package, whether it exists or not."""
    return next((candidate for candidate in _CANDIDATES if candidate.is_dir()), _CANDIDATES[-1])


def model_folder(model: str) -> Path:
    """Return the folder of a model that is given by its path, or else by its name in the model store."""
    return path if (path := Path(model)).is_dir() else find_model_store() / model
