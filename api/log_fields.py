"""What a call's log row will say of it, gathered while the call runs."""

from typing import Any

from flask import g


def add(**facts: Any) -> None:
    """Add to this call's row; the names are those of `moodreel.storage.call_log.Outcome`."""
    g.setdefault("facts", {}).update(facts)


def current() -> dict[str, Any]:
    """Give what was added so far."""
    return g.get("facts", {})
