"""Adapt to the load: choose the resolution at which frames are processed, and suggest what clients should send.

Once a second the frames that arrived are compared with those that were processed, and their latency is checked. A
server that falls behind scales frames down step by step, and up again after it has kept up for a while. After scaling
up too early it waits longer the next time.
"""

from moodreel.live.messages import Suggestion

SIDES = (1280, 960, 640, 480, 384, 320, 256)
"""Pixels of the longest side. Below the smallest one landmarks of eyes and mouth are unreliable."""
CHECK_SECONDS = 1.0
MAX_LATENCY_MS = 100.0
"""Mean milliseconds from a frame's arrival to its result, above which the server is behind."""
MAX_MISSED_SHARE = 0.15
"""Share of due frames that were not processed, above which the server is behind."""
MAX_RATE_RATIO = 1.3
"""Ratio to the target rate above which a client sends too many frames."""
CHECKS_BEFORE_SHRINKING, CHECKS_BEFORE_GROWING, MAX_CHECKS_BEFORE_GROWING = 2, 5, 60
"""Consecutive checks before frames are scaled down (behind) or up (well), and the maximum of the latter."""
SUGGEST_SECONDS = 5.0
"""Minimum time between two suggestions."""


class LoadController:
    """Adapts the resolution of one session to the load, and suggests what its client should send.

    Args:
        side: Pixels of the longest side that the client asked for.
        frame_rate: Results a second that the client asked for.
        now: Monotonic time in seconds.
    """

    def __init__(self, side: int, frame_rate: float, now: float) -> None:
        self.frame_rate = frame_rate
        self._sides = [side, *(smaller for smaller in SIDES if smaller < side)]
        self._step = 0
        self._checks_behind = self._checks_well = 0
        self._checks_before_growing = CHECKS_BEFORE_GROWING
        self._just_grown = False
        self._suggested_at: float | None = None
        self._full_side = 0
        self._last_reason: str | None = None
        self._reset_counters(now)

    @property
    def side(self) -> int:
        """Pixels of the longest side to which to scale frames down now."""
        return self._sides[self._step]

    def on_received(self) -> None:
        """Count a frame that arrived."""
        self._received += 1

    def on_answered(self, latency_ms: float) -> None:
        """Count a frame that was processed, with its latency."""
        self._answered += 1
        self._latency_sum_ms += latency_ms

    def update(self, now: float, size: tuple[int, int]) -> Suggestion | None:
        """Update the resolution, once a second. Returns a suggestion for the client, if any.

        Args:
            now: Monotonic time in seconds.
            size: Width and height of the frames that arrive.
        """
        seconds = now - self._since
        if seconds < CHECK_SECONDS or not self._received:
            return None
        due = min(self._received, self.frame_rate * seconds)
        latency = self._latency_sum_ms / self._answered if self._answered else 1000 * seconds
        # One frame in process and one pending are not late yet.
        missed = max(0.0, due - self._answered - 2) / due
        reason = "drops" if missed > MAX_MISSED_SHARE else "latency" if latency > MAX_LATENCY_MS else None
        answered, received = self._answered / seconds, self._received / seconds
        self._reset_counters(now)
        self._adapt(behind=reason is not None, well=latency < MAX_LATENCY_MS / 2)
        if reason is None and received > MAX_RATE_RATIO * self.frame_rate:
            reason = "rate"
        return self._suggest(now, reason, received, answered, size)

    def _reset_counters(self, now: float) -> None:
        self._since = now
        self._received = self._answered = 0
        self._latency_sum_ms = 0.0

    def _adapt(self, *, behind: bool, well: bool) -> None:
        if behind:
            self._checks_behind, self._checks_well = self._checks_behind + 1, 0
            if self._checks_behind >= CHECKS_BEFORE_SHRINKING and self._step + 1 < len(self._sides):
                self._step, self._checks_behind = self._step + 1, 0
                if self._just_grown:
                    self._just_grown = False
                    self._checks_before_growing = min(2 * self._checks_before_growing, MAX_CHECKS_BEFORE_GROWING)
            return
        self._checks_behind, self._checks_well = 0, self._checks_well + 1
        if well and self._checks_well >= self._checks_before_growing:
            if self._just_grown:
                self._checks_before_growing = CHECKS_BEFORE_GROWING
            if self._step:
                self._step, self._checks_well, self._just_grown = self._step - 1, 0, True

    def _suggest(
        self, now: float, reason: str | None, received: float, answered: float, size: tuple[int, int]
    ) -> Suggestion | None:
        # Only the second check in a row counts.
        is_repeated, self._last_reason = reason is not None and reason == self._last_reason, reason
        if self._suggested_at is not None and now - self._suggested_at < SUGGEST_SECONDS:
            return None
        if reason is None:
            if self._suggested_at is None or self._checks_well < 2:
                return None
            self._suggested_at = None
            return Suggestion(None, self.frame_rate, *_scale(size, self._full_side))
        if not is_repeated:
            return None
        # A client that heeds a suggestion sends smaller frames until it is withdrawn.
        self._full_side = max(size) if self._suggested_at is None else max(self._full_side, *size)
        self._suggested_at = now
        rates = {"rate": self.frame_rate, "latency": min(received, self.frame_rate) * 2 / 3, "drops": answered}
        frame_rate = max(1.0, float(int(min(rates[reason], self.frame_rate))))
        return Suggestion(reason, frame_rate, *_scale(size, min(self.side, self._full_side)))


def _scale(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Scale a width and a height so that the longer one has this many pixels."""
    width, height = (max(1, round(each * side / max(size))) for each in size)
    return width, height
