"""Summarize a user's moods by day or week and compare them with the user's baseline.

Days and weeks are those of a time zone: a day has 23 or 25 hours when clocks change. Weeks are ISO weeks, Monday to
Sunday, and are always complete.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from moodreel.emotions import FIVE
from moodreel.storage.timestamps import start_of_day

PERIODS = ("day", "week")
BASELINE_DAYS = 90
"""The baseline is the mean over the last days."""
MIN_BASELINE_ENTRIES = 10
"""With fewer entries there is no baseline."""
MIN_COMPARED_ENTRIES = 3
"""With fewer entries a range is not compared with the baseline."""

_DEFAULT_DAYS = {"day": 30, "week": 12 * 7}


@dataclass(frozen=True)
class MoodEntry:
    """One entry of the calendar, with one of the five emotions and their probabilities; None without a face."""

    time: datetime
    emotion: str | None
    probabilities: Mapping[str, float] | None


@dataclass(frozen=True)
class DateRange:
    """Days from `start` to `end`, both inclusive, in a time zone."""

    start: date
    end: date
    zone: ZoneInfo

    def bounds(self) -> tuple[datetime, datetime]:
        """Return its start (inclusive) and its end (exclusive), in UTC."""
        return start_of_day(self.start, self.zone), start_of_day(self.end + timedelta(days=1), self.zone)


@dataclass(frozen=True)
class MoodPeriod:
    """A day, such as 2025-03-30, or a week, such as 2025-W13, with its entries by emotion."""

    name: str
    start_date: date
    end_date: date
    entries: int
    emotions: Mapping[str, int]
    leading: str | None


@dataclass(frozen=True)
class MoodBaseline:
    """The user's baseline.

    Attributes:
        days: Length of the baseline.
        entries: Entries in it that have probabilities.
        entries_needed: Fewer make no baseline.
        probabilities: Mean probabilities; None if there are too few entries.
        difference: Mean of the range minus the baseline, each -1 to 1; None if there are too few entries.
    """

    days: int
    entries: int
    entries_needed: int
    probabilities: Mapping[str, float] | None
    difference: Mapping[str, float] | None


@dataclass(frozen=True)
class MoodCalendar:
    """A mood calendar: the entries of a range, and of its periods that have any, oldest first."""

    by: str
    tz: str
    start_date: date
    end_date: date
    entries: int
    emotions: Mapping[str, int]
    periods: tuple[MoodPeriod, ...]
    baseline: MoodBaseline


def complete_range(by: str, start: date | None, end: date | None, zone: ZoneInfo, now: datetime) -> DateRange:
    """Complete a date range: by default it ends today and has 30 days or 12 weeks. Weeks are made complete.

    Raises:
        ValueError: The range ends before it starts.
    """
    last = end or now.astimezone(zone).date()
    if by == "week":
        last = _monday(last) + timedelta(days=6)
    first = start or last - timedelta(days=_DEFAULT_DAYS[by] - 1)
    if by == "week":
        first = _monday(first)
    if first > last:
        raise ValueError("the range ends before it starts")
    return DateRange(first, last, zone)


def baseline_start(now: datetime) -> datetime:
    """Return the start of the baseline."""
    return now - timedelta(days=BASELINE_DAYS)


def summarize(
    entries: Sequence[MoodEntry], baseline_entries: Sequence[MoodEntry], date_range: DateRange, by: str
) -> MoodCalendar:
    """Build the mood calendar of a date range from its entries, in order of time, and from those of the baseline."""
    return MoodCalendar(
        by=by,
        tz=date_range.zone.key,
        start_date=date_range.start,
        end_date=date_range.end,
        entries=len(entries),
        emotions=_counts(entries),
        periods=tuple(_periods(entries, date_range.zone, by)),
        baseline=_baseline(entries, baseline_entries),
    )


def leading_emotion(counts: Mapping[str, int], probabilities: Mapping[str, float]) -> str | None:
    """Return the most frequent emotion; in a tie, the one with the higher probability; None without entries.

    Args:
        counts: Entries by emotion, of the five.
        probabilities: Mean or sum of the entries' probabilities, of the five; an emotion without one has 0.
    """
    best = max(FIVE, key=lambda emotion: (counts.get(emotion, 0), probabilities.get(emotion, 0.0)))
    return best if counts.get(best) else None


def _periods(entries: Iterable[MoodEntry], zone: ZoneInfo, by: str) -> Iterator[MoodPeriod]:
    by_start: dict[date, list[MoodEntry]] = {}
    for entry in entries:
        day = entry.time.astimezone(zone).date()
        by_start.setdefault(_monday(day) if by == "week" else day, []).append(entry)
    for start, period_entries in by_start.items():
        year, week, _ = start.isocalendar()
        yield MoodPeriod(
            name=f"{year:04d}-W{week:02d}" if by == "week" else start.isoformat(),
            start_date=start,
            end_date=start + timedelta(days=6 if by == "week" else 0),
            entries=len(period_entries),
            emotions=_counts(period_entries),
            leading=leading_emotion(_counts(period_entries), _means(_probabilities(period_entries)) or {}),
        )


def _counts(entries: Iterable[MoodEntry]) -> dict[str, int]:
    counts = dict.fromkeys(FIVE, 0)
    for entry in entries:
        if entry.emotion is not None:
            counts[entry.emotion] += 1
    return counts


def _baseline(entries: Sequence[MoodEntry], baseline_entries: Sequence[MoodEntry]) -> MoodBaseline:
    usual, current = _probabilities(baseline_entries), _probabilities(entries)
    mean = _means(usual) if len(usual) >= MIN_BASELINE_ENTRIES else None
    current_mean = _means(current) if len(current) >= MIN_COMPARED_ENTRIES else None
    difference = {emotion: current_mean[emotion] - mean[emotion] for emotion in FIVE} if mean and current_mean else None
    return MoodBaseline(BASELINE_DAYS, len(usual), MIN_BASELINE_ENTRIES, mean, difference)


def _probabilities(entries: Iterable[MoodEntry]) -> list[Mapping[str, float]]:
    return [entry.probabilities for entry in entries if entry.probabilities]


def _means(known: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    return {emotion: sum(each[emotion] for each in known) / len(known) for emotion in FIVE} if known else None


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())
