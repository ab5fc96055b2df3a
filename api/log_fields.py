"""Fields of the current request's row in the call log, collected while the request is handled."""

from typing import Unpack

from flask import g

from moodreel.storage.call_log import CallFields


def add(**fields: Unpack[CallFields]) -> None:
    """Add fields to the row. A field that is there already is replaced."""
    g.setdefault("log_fields", {}).update(fields)


def current() -> CallFields:
    """Return the fields that were added so far."""
    fields: CallFields = g.get("log_fields", {})
    return fields
