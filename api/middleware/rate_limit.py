"""Limit the calls of each caller (RATE_LIMIT), and tell callers how many are left.

The headers are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask import Flask, Response, current_app, g

from api.errors import ApiError
from api.services import services
from moodreel.storage.call_log import CallLogError

RATE_WINDOW = timedelta(minutes=1)


@dataclass(frozen=True)
class Quota:
    """The state of a caller's rate limit.

    Attributes:
        limit: Calls in `RATE_WINDOW`.
        remaining: Calls of these that are left.
        reset_seconds: Seconds until there is one more.
    """

    limit: int
    remaining: int
    reset_seconds: int


def init_app(app: Flask) -> None:
    """Add the headers to each response to which RATE_LIMIT applies."""
    app.after_request(_add_headers)


def check(caller_id: str) -> None:
    """Reject a request that exceeds the rate limit of its caller. Sets `g.quota` where there is a limit."""
    limit = services().settings.rate_limit
    if not limit:
        return
    now = datetime.now(UTC)
    # Another machine's clock may be ahead. Calls far in the future are from before this clock was set back.
    since, until = now - RATE_WINDOW, now + RATE_WINDOW
    calls, first = _logged_calls(caller_id, since, until)
    # Calls that wait for the log count as well: those of this process.
    waiting = services().call_log_writer.waiting_calls(caller_id, since, until)
    count = calls + len(waiting)
    wait = (min([*waiting, first or now]) + RATE_WINDOW - now).total_seconds()
    g.quota = Quota(limit, max(0, limit - count), max(1, int(wait) + 1))
    if count > limit:
        raise ApiError(
            "rate_limited",
            f"Each caller may make {limit} requests a minute. Wait the number of seconds in Retry-After.",
            headers={"Retry-After": str(g.quota.reset_seconds)},
        )


def _logged_calls(caller_id: str, since: datetime, until: datetime) -> tuple[int, datetime | None]:
    """Return the number of a caller's calls in the log up to this one, and the time of the first."""
    try:
        return services().call_log.recent(caller_id, since, until, max_id=g.call.id)
    except CallLogError:
        # An unreadable log must not lock everybody out.
        current_app.logger.warning("RATE_LIMIT is applied by each worker alone: the call log cannot be read")
        return 0, None


def _add_headers(response: Response) -> Response:
    if quota := g.get("quota"):
        response.headers["RateLimit-Policy"] = f'"calls";q={quota.limit};w={RATE_WINDOW.seconds}'
        response.headers["RateLimit"] = f'"calls";r={quota.remaining};t={quota.reset_seconds}'
    return response
