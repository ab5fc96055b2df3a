"""What a client may send in a second: more is not refused but waited with, until TCP has it wait too."""

import threading
import time


class Toll:
    """Two buckets, of messages and of bytes, for one client.

    messages, size: that may come in a second; twice as many may come at once.
    """

    def __init__(self, messages: float, size: float) -> None:
        self._rates = (messages, size)
        self._left = [2 * rate for rate in self._rates]
        self._time = time.monotonic()
        self._asleep = threading.Event()

    def pay(self, size: int) -> None:
        """Take a message out of the buckets; sleep until there was room for it."""
        now = time.monotonic()
        past, self._time = now - self._time, now
        debt = 0.0
        for index, (rate, cost) in enumerate(zip(self._rates, (1, size), strict=True)):
            self._left[index] = min(2 * rate, self._left[index] + past * rate) - cost
            debt = max(debt, -self._left[index] / rate)
        if debt > 0:
            self._asleep.wait(debt)
