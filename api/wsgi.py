"""What Gunicorn serves: `gunicorn -c api/gunicorn.conf.py`. Each worker imports this after its fork."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from flask import Flask
from gunicorn.arbiter import Arbiter

from api.app import create_app
from api.settings import Settings, SettingsError
from moodreel.errors import MoodreelError


def _load() -> Flask:
    """Build the app, or stop the whole service where that can't work."""
    try:
        settings = Settings.from_environment()
        level = "DEBUG" if settings.debug else settings.log_level
        logging.basicConfig(level=level, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
        return create_app(settings)
    except (MoodreelError, SettingsError) as error:
        _stop(error)


def _stop(error: Exception) -> NoReturn:
    """Say why in one line, whichever worker comes first, and have the master stop instead of trying for ever."""
    if _is_first():
        print(f"moodreel cannot start: {error}", file=sys.stderr, flush=True)
        sys.exit(Arbiter.APP_LOAD_ERROR)
    # A second worker with that status, while the master stops for the first, brings the master down with a traceback.
    time.sleep(1)
    sys.exit(0)


def _is_first() -> bool:
    """Tell whether no other worker has said so already, by a file in the folder that gunicorn.conf.py made for all."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        try:
            Path(folder, "stopped").touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


app = _load()
