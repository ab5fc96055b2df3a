"""`moodreel serve`: run the HTTP service under Gunicorn, as the Docker image does."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import gunicorn.__main__
from gunicorn.app.wsgiapp import run

SERVICE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the packages `api` and `moodreel`, in a checkout as well as installed."""


def main(argv: Sequence[str]) -> int:
    """Run the service in the current folder until it is stopped."""
    parser = argparse.ArgumentParser(
        "moodreel serve",
        description="Run the HTTP service. Settings come from the environment and from .env in the current folder; "
        "logs/ and data/ are kept there too.",
        epilog="Options that are not listed here go to Gunicorn, for example --bind 127.0.0.1:8000.",
    )
    _, gunicorn_options = parser.parse_known_args(argv)
    # Gunicorn puts the current folder first on the import path, where `api` may be another package. Imported here, it
    # is the right one from now on.
    sys.path.insert(0, str(SERVICE_ROOT))
    importlib.import_module("api")
    config = SERVICE_ROOT / "api" / "gunicorn.conf.py"
    # Gunicorn reads its options from here, and starts itself with them again on SIGUSR2.
    sys.argv = [gunicorn.__main__.__file__, "--config", str(config), *gunicorn_options, "api.wsgi:app"]
    run()
    return 0
