"""Set up logging: one JSON object a line on standard output, or plain text for people."""

import logging
import sys
import time

from flask import g, has_app_context

from api.settings import Settings

_TEXT_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s [%(request_id)s]: %(message)s"
_JSON_FIELDS = "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s"


def configure(settings: Settings) -> None:
    """Write the messages of this process to standard output, each with the ids of its request and its trace."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_add_ids)
    text = logging.Formatter(_TEXT_FORMAT, defaults={"request_id": "-"})
    formatter = text if settings.log_format == "text" else _json_formatter()
    # As in the call log: UTC, whatever the zone of the machine.
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    handler.setFormatter(formatter)
    logging.basicConfig(level="DEBUG" if settings.debug else settings.log_level, handlers=[handler])


def _json_formatter() -> logging.Formatter:
    # Imported here: text needs no further package.
    from pythonjsonlogger.json import JsonFormatter

    names = {"asctime": "time", "levelname": "level", "name": "logger"}
    formatter: logging.Formatter = JsonFormatter(_JSON_FIELDS, rename_fields=names)
    return formatter


def _add_ids(record: logging.LogRecord) -> bool:
    if has_app_context():
        for name in ("request_id", "trace_id"):
            if name in g and not hasattr(record, name):
                setattr(record, name, g.get(name))
    return True
