"""Limit concurrent requests, long-lived connections and message rates.

A request with a body may hold tens of megabytes, and its client may upload slowly. A WebSocket holds a worker thread
for its whole life. A worker therefore has more threads than it may hold bodies, and each kind is counted on its own.
"""

import math
import threading
import time
from collections import Counter

MAX_QUEUED_PER_SLOT = 4
"""Requests that may wait for each slot. Further requests are rejected at once."""
MAX_UNAUTHENTICATED = 16
"""Connections of a worker whose clients are not authenticated yet."""
MEAN_WEIGHT = 0.1
"""Weight of the newest request in the mean time of a request (exponential moving average)."""
MAX_DRAIN_SECONDS = 300
SPARE_THREADS = 8
"""Threads beyond those for bodies and connections, so that /health, /ready and /metrics always answer."""


class ConcurrencyLimiter:
    """Limit concurrent requests, with a bounded queue. Thread-safe.

    Args:
        slots: Requests that may run at the same time.
        timeout_seconds: How long a queued request waits for a slot.
    """

    def __init__(self, slots: int, timeout_seconds: float) -> None:
        self.queued = 0
        self._slots = slots
        self._in_use = 0
        self._mean_seconds: float | None = None
        self._max_queued = MAX_QUEUED_PER_SLOT * slots
        self._timeout_seconds = timeout_seconds
        self._free = threading.Semaphore(slots)
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Take a slot, waiting for it if needed. Returns False if none became free; else call `release` later."""
        acquired = self._free.acquire(blocking=False) or self._wait()
        if acquired:
            with self._lock:
                self._in_use += 1
        return acquired

    def release(self, seconds: float) -> None:
        """Return a slot that was held for `seconds`."""
        with self._lock:
            self._in_use -= 1
            mean = seconds if self._mean_seconds is None else self._mean_seconds
            self._mean_seconds = mean + MEAN_WEIGHT * (seconds - mean)
        self._free.release()

    def drain_seconds(self) -> int | None:
        """Estimate the seconds until all running and queued requests are done, 1 to 300; None before the first is."""
        with self._lock:
            if self._mean_seconds is None:
                return None
            seconds = (self._in_use + self.queued) * self._mean_seconds / self._slots
        return min(max(1, math.ceil(seconds)), MAX_DRAIN_SECONDS)

    def _wait(self) -> bool:
        with self._lock:
            if self.queued >= self._max_queued:
                return False
            self.queued += 1
        try:
            return self._free.acquire(timeout=self._timeout_seconds)
        finally:
            with self._lock:
                self.queued -= 1


class ConnectionLimiter:
    """Limit long-lived connections per worker and per user. Thread-safe.

    Args:
        max_total: Connections of this worker.
        max_per_user: Connections of one user. Callers without a user are limited by `max_total` only.

    Attributes:
        unauthenticated: Limits the connections whose clients are not authenticated yet.
    """

    def __init__(self, max_total: int, max_per_user: int) -> None:
        self._max_total = max_total
        self._max_per_user = max_per_user
        self.unauthenticated = threading.BoundedSemaphore(MAX_UNAUTHENTICATED)
        self._by_user: Counter[str | None] = Counter()
        self._lock = threading.Lock()

    def acquire(self, user: str | None = None) -> bool:
        """Take a slot without waiting. Returns False if there is none; else call `release` with the same user later."""
        with self._lock:
            if self._by_user.total() >= self._max_total or (user and self._by_user[user] >= self._max_per_user):
                return False
            self._by_user[user] += 1
            return True

    def release(self, user: str | None = None) -> None:
        """Return a slot."""
        with self._lock:
            self._by_user[user] -= 1
            # Keep no entry for users without connections: the dictionary would grow without bound.
            if not self._by_user[user]:
                del self._by_user[user]


class ConnectionSlot:
    """The slot of one connection: first without a user, then the user's. A context manager that returns it."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._limiter = limiter
        self._is_anonymous = False
        self._acquired = False
        self._user: str | None = None

    def __enter__(self) -> "ConnectionSlot":
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """Take a slot for a client that is not authenticated. Returns False if there is none."""
        self._is_anonymous = self._limiter.unauthenticated.acquire(blocking=False)
        self._acquired = self._is_anonymous and self._limiter.acquire()
        if not self._acquired:
            self.release()
        return self._acquired

    def authenticate(self, user: str | None) -> bool:
        """Make the slot the user's, or take one; API keys have no user. Returns False if there are too many."""
        if not self._acquired or user != self._user:
            if self._acquired:
                self._limiter.release(self._user)
            self._user, self._acquired = user, self._limiter.acquire(user)
        if self._acquired:
            self._release_anonymous()
        return self._acquired

    def release(self) -> None:
        """Return the slot."""
        self._release_anonymous()
        if self._acquired:
            self._acquired = False
            self._limiter.release(self._user)

    def _release_anonymous(self) -> None:
        if self._is_anonymous:
            self._is_anonymous = False
            self._limiter.unauthenticated.release()


class TokenBucket:
    """Token bucket: starts with `capacity` tokens, and is refilled by `per_second`. Not thread-safe."""

    def __init__(self, per_second: float, capacity: float) -> None:
        self._per_second = per_second
        self._capacity = capacity
        self._tokens = capacity
        self._refilled_at = time.monotonic()

    @classmethod
    def per_minute(cls, tokens: int) -> "TokenBucket":
        """Make a bucket that holds the tokens of one minute."""
        return cls(tokens / 60, tokens)

    def try_acquire(self) -> bool:
        """Take one token. Returns False if there is none."""
        self._refill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def acquire(self, tokens: float) -> float:
        """Take tokens even if there are too few. Returns the seconds until the bucket is out of debt."""
        self._refill()
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._per_second)

    def _refill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._capacity, self._tokens + (now - self._refilled_at) * self._per_second)
        self._refilled_at = now


class RateThrottle:
    """Throttle the messages and the bytes a second of one client by sleeping in its reader.

    Nothing is rejected: while the reader sleeps, TCP back-pressure slows the client down. Twice the rate may come in a
    burst.
    """

    def __init__(self, messages: float, size: float) -> None:
        self._messages = TokenBucket(messages, 2 * messages)
        self._bytes = TokenBucket(size, 2 * size)

    def acquire(self, size: int) -> None:
        """Count a message of `size` bytes. Sleeps until both rates allow it."""
        delay = max(self._messages.acquire(1), self._bytes.acquire(size))
        if delay > 0:
            time.sleep(delay)


def threads_for(slots: int, max_connections: int) -> int:
    """Compute the threads of a worker: for bodies, queued requests, connections and quick requests."""
    return slots + MAX_QUEUED_PER_SLOT * slots + max_connections + SPARE_THREADS
