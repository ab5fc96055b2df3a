"""The WSGI application that Gunicorn serves. Each worker imports this module after its fork."""

import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from flask import Flask
from gunicorn.arbiter import Arbiter

from api import logging_setup
from api.app import create_app
from api.settings import Settings, SettingsError
from moodreel.errors import MoodreelError


def _load() -> Flask:
    """Create the app; stop the whole service if that fails."""
    try:
        settings = Settings.from_environment()
        logging_setup.configure(settings)
        return create_app(settings)
    except (MoodreelError, SettingsError) as error:
        _stop(error)


def _stop(error: Exception) -> NoReturn:
    """Print the reason once, from the first worker, and make the master stop instead of restarting workers forever."""
    if _is_first():
        print(f"moodreel cannot start: {error}", file=sys.stderr, flush=True)
        sys.exit(Arbiter.APP_LOAD_ERROR)
    # If a second worker exits with that status while the master stops, the master ends with a traceback.
    time.sleep(1)
    sys.exit(0)


def _is_first() -> bool:
    """Return whether no other worker has failed before, by a file in the folder that all workers share."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        try:
            Path(folder, "stopped").touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


app = _load()
