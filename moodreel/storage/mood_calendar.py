"""What somebody's entries show over days or weeks, beside what is usual for them.

Days and weeks are those of a time zone: on the night when clocks change a day has 23 or 25 hours. Weeks are ISO weeks,
Monday to Sunday, and are always whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from moodreel.emotions import FIVE
from moodreel.storage.timestamps import start_of_day

PERIODS = ("day", "week")
BASELINE_DAYS = 90
"""The baseline is the mean over so many days up to now."""
MIN_BASELINE_ENTRIES = 10
"""Fewer entries than that make no baseline."""
MIN_COMPARED_ENTRIES = 3
"""Fewer entries than that in the asked range are not compared with it."""

_DEFAULT_DAYS = {"day": 30, "week": 12 * 7}


@dataclass(frozen=True)
class MoodEntry:
    """One entry in the calendar: its time, its emotion of the five and their probabilities, where it has them."""

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
        """Give its first moment, and the first one after it, in UTC."""
        return start_of_day(self.start, self.zone), start_of_day(self.end + timedelta(days=1), self.zone)


@dataclass(frozen=True)
class MoodPeriod:
    """A day or a week: `name` is 2025-03-30 or 2025-W13; `leading` is the emotion of most entries."""

    name: str
    start_date: date
    end_date: date
    entries: int
    emotions: Mapping[str, int]
    leading: str | None


@dataclass(frozen=True)
class MoodBaseline:
    """What is usual for somebody: mean probabilities, None where there are too few entries for them.

    difference: the mean of the asked range less the usual one, each -1..1.
    """

    days: int
    entries: int
    entries_needed: int
    probabilities: Mapping[str, float] | None
    difference: Mapping[str, float] | None


@dataclass(frozen=True)
class MoodCalendar:
    """A mood calendar: the periods that have entries, oldest first, and all of them together."""

    by: str
    tz: str
    start_date: date
    end_date: date
    entries: int
    emotions: Mapping[str, int]
    periods: tuple[MoodPeriod, ...]
    baseline: MoodBaseline


def complete_range(by: str, start: date | None, end: date | None, zone: ZoneInfo, now: datetime) -> DateRange:
    """Complete a range: up to today, and back 30 days or 12 weeks; weeks are made whole.

    Raises ValueError where it ends before it starts.
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
    """Give the time from which on entries make the baseline."""
    return now - timedelta(days=BASELINE_DAYS)


def summarize(marks: Sequence[MoodEntry], usually: Sequence[MoodEntry], within: DateRange, by: str) -> MoodCalendar:
    """Make the calendar of a range's marks, given in order of time, and compare it with what is usual."""
    return MoodCalendar(
        by=by,
        tz=within.zone.key,
        start_date=within.start,
        end_date=within.end,
        entries=len(marks),
        emotions=_counts(marks),
        periods=tuple(_periods(marks, within.zone, by)),
        baseline=_baseline(marks, usually),
    )


def _periods(marks: Iterable[MoodEntry], zone: ZoneInfo, by: str) -> Iterator[MoodPeriod]:
    together: dict[date, list[MoodEntry]] = {}
    for mark in marks:
        day = mark.time.astimezone(zone).date()
        together.setdefault(_monday(day) if by == "week" else day, []).append(mark)
    for start, some in together.items():
        year, week, _ = start.isocalendar()
        yield MoodPeriod(
            name=f"{year:04d}-W{week:02d}" if by == "week" else start.isoformat(),
            start_date=start,
            end_date=start + timedelta(days=6 if by == "week" else 0),
            entries=len(some),
            emotions=_counts(some),
            leading=_leading(some),
        )


def _counts(marks: Iterable[MoodEntry]) -> dict[str, int]:
    counts = dict.fromkeys(FIVE, 0)
    for mark in marks:
        if mark.emotion is not None:
            counts[mark.emotion] += 1
    return counts


def _leading(marks: Sequence[MoodEntry]) -> str | None:
    """Choose the emotion of most entries; of several, the one that is likelier over all of them."""
    counts, means = _counts(marks), _means(marks) or dict.fromkeys(FIVE, 0.0)
    best = max(FIVE, key=lambda emotion: (counts[emotion], means[emotion]))
    return best if counts[best] else None


def _baseline(marks: Sequence[MoodEntry], usually: Sequence[MoodEntry]) -> MoodBaseline:
    known, compared = _with_probabilities(usually), _with_probabilities(marks)
    mean = _means(known) if len(known) >= MIN_BASELINE_ENTRIES else None
    here = _means(compared) if len(compared) >= MIN_COMPARED_ENTRIES else None
    difference = {emotion: here[emotion] - mean[emotion] for emotion in FIVE} if mean and here else None
    return MoodBaseline(BASELINE_DAYS, len(known), MIN_BASELINE_ENTRIES, mean, difference)


def _means(marks: Sequence[MoodEntry]) -> dict[str, float] | None:
    known = [mark.probabilities for mark in marks if mark.probabilities]
    return {emotion: sum(each[emotion] for each in known) / len(known) for emotion in FIVE} if known else None


def _with_probabilities(marks: Iterable[MoodEntry]) -> list[MoodEntry]:
    return [mark for mark in marks if mark.probabilities]


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())
