"""Places for calls with a body: each may hold tens of megabytes, and its client may take its time to send them.

A worker has many more threads than it may hold bodies, for sockets that last and for calls that need no body. So it is
counted here how many calls read theirs: `THREADS`, and some more that wait for one of them to end.
"""

import threading

QUEUE = 4
"""Calls that may wait for a place, for each place there is; who comes then is sent away at once."""
QUICK_THREADS = 8
"""Threads beyond those of bodies and sockets: /health, /ready and /metrics answer whatever the others do."""


class ConcurrencyLimiter:
    """So many calls at a time, and some more that wait; thread-safe.

    most: how many places there are.
    seconds: for which a call waits for one.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.waiting = 0
        self._most_waiting = QUEUE * most
        self._seconds = seconds
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Take a place, waiting for it if need be; tell whether there was one. Whoever took one leaves it again."""
        if self._free.acquire(blocking=False):
            return True
        with self._lock:
            if self.waiting >= self._most_waiting:
                return False
            self.waiting += 1
        try:
            return self._free.acquire(timeout=self._seconds)
        finally:
            with self._lock:
                self.waiting -= 1

    def release(self) -> None:
        """Give a place back."""
        self._free.release()


def threads_for(places: int, sockets: int) -> int:
    """Tell how many threads a worker may start: for bodies, for those that wait, for sockets and for quick calls."""
    return places + QUEUE * places + sockets + QUICK_THREADS
