"""Keeping up with a client: how large its frames are looked at, and what it should send.

Once a second the frames that came are held against those that were answered and how long that took. A server that is
behind looks at smaller frames, step by step, and at larger ones again when it has been well for a while; what it went
back from too early it tries again only later.
"""

from moodreel.live.messages import Suggestion

SIDES = (1280, 960, 640, 480, 384, 320, 256)
"""Pixels of the longest side at which frames may be looked at. Below the least, eyes and mouths are guessed."""
CHECK_SECONDS = 1.0
MAX_LATENCY_MS = 100.0
"""Milliseconds from a frame's arrival to its answer, on the mean, from which on the server is behind."""
MAX_MISSED_SHARE = 0.15
"""Share of the frames due that were not answered, from which on it is behind."""
MAX_RATE_RATIO = 1.3
"""Times the target rate from which on a client sends frames that nobody looks at."""
CHECKS_BEFORE_SHRINKING, CHECKS_BEFORE_GROWING, MAX_CHECKS_BEFORE_GROWING = 2, 5, 60
"""Checks in a row: behind before frames get smaller, well before they get larger, and that at most."""
SUGGEST_SECONDS = 5.0
"""Least time between two suggestions."""


class RateController:
    """Watches one session.

    side: pixels of the longest side that is asked for. frame_rate: frames a second that are to be answered.
    """

    def __init__(self, side: int, frame_rate: float, now: float) -> None:
        self.frame_rate = frame_rate
        self._sides = [side, *(smaller for smaller in SIDES if smaller < side)]
        self._step = 0
        self._checks_behind = self._checks_well = 0
        self._checks_before_growing = CHECKS_BEFORE_GROWING
        self._just_grown = False
        self._suggested_at: float | None = None
        self._last_reason: str | None = None
        self._reset_counters(now)

    @property
    def side(self) -> int:
        """Pixels of the longest side at which to look at frames now."""
        return self._sides[self._step]

    def on_received(self) -> None:
        """Count a frame that came, whatever becomes of it."""
        self._received += 1

    def on_answered(self, latency_ms: float) -> None:
        """Count a frame that was answered so long after it came."""
        self._answered += 1
        self._latency_sum_ms += latency_ms

    def update(self, now: float, size: tuple[int, int]) -> Suggestion | None:
        """Draw conclusions, once a second; give a suggestion when there is one.

        now: seconds, growing. size: width and height of the frames that come.
        """
        seconds = now - self._since
        if seconds < CHECK_SECONDS or not self._received:
            return None
        due = min(self._received, self.frame_rate * seconds)
        latency = self._latency_sum_ms / self._answered if self._answered else 1000 * seconds
        # The one that is being looked at, and the one that waits, are not late yet.
        missed = max(0.0, due - self._answered - 2) / due
        reason = "drops" if missed > MAX_MISSED_SHARE else "latency" if latency > MAX_LATENCY_MS else None
        answered, came = self._answered / seconds, self._received / seconds
        self._reset_counters(now)
        self._adapt(behind=reason is not None, well=latency < MAX_LATENCY_MS / 2)
        if reason is None and came > MAX_RATE_RATIO * self.frame_rate:
            reason = "rate"
        return self._suggest(now, reason, answered, size)

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
                    self._checks_before_growing, self._just_grown = (
                        min(2 * self._checks_before_growing, MAX_CHECKS_BEFORE_GROWING),
                        False,
                    )
            return
        self._checks_behind, self._checks_well = 0, self._checks_well + 1
        if well and self._checks_well >= self._checks_before_growing:
            if self._just_grown:
                self._checks_before_growing = CHECKS_BEFORE_GROWING
            if self._step:
                self._step, self._checks_well, self._just_grown = self._step - 1, 0, True

    def _suggest(self, now: float, reason: str | None, answered: float, size: tuple[int, int]) -> Suggestion | None:
        # Two checks in a row: a single hiccup is no reason to change anything.
        again, self._last_reason = reason is not None and reason == self._last_reason, reason
        if self._suggested_at is not None and now - self._suggested_at < SUGGEST_SECONDS:
            return None
        if reason is None:
            if self._suggested_at is None or self._checks_well < 2:
                return None
            self._suggested_at = None
            return Suggestion(None, self.frame_rate, *size)
        if not again:
            return None
        self._suggested_at = now
        return self._make_suggestion(reason, answered, size)

    def _make_suggestion(self, reason: str, answered: float, size: tuple[int, int]) -> Suggestion:
        rate = {"rate": self.frame_rate, "latency": self.frame_rate * 2 / 3, "drops": answered}[reason]
        scale = min(1.0, self.side / max(size))
        return Suggestion(
            reason,
            max(1.0, float(int(min(rate, self.frame_rate)))),
            *(max(1, round(side * scale)) for side in size),
        )
