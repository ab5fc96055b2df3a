"""Locate the model store."""

from pathlib import Path


def default_store() -> Path:
    """Return the folder of the shipped models: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "model_store"
    return installed if installed.is_dir() else package.parent / "model_store"
