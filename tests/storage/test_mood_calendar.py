"""Calendars at daylight saving changes and at a new year, counted by hand."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from moodreel.emotions import EIGHT, FIVE, SEVEN, fold_to_five, to_five
from moodreel.storage import mood_calendar
from moodreel.storage.mood_calendar import DateRange, MoodCalendar, MoodEntry, complete_range, summarize

BERLIN = ZoneInfo("Europe/Berlin")


def entry(at: str, emotion: str | None = "Happy", **probabilities: float) -> MoodEntry:
    all_five = {**dict.fromkeys(FIVE, 0.0), **(probabilities or ({emotion: 1.0} if emotion else {}))}
    return MoodEntry(datetime.fromisoformat(at), emotion, all_five if emotion else None)


def calendar(
    entries: list[MoodEntry], start: str, end: str, zone: ZoneInfo = BERLIN, by: str = "day"
) -> dict[str, tuple[int, str | None]]:
    within = complete_range(by, date.fromisoformat(start), date.fromisoformat(end), zone, datetime.now(UTC))
    first, after = within.bounds()
    inside = [each for each in entries if first <= each.time < after]
    return {period.name: (period.entries, period.leading) for period in summarize(inside, [], within, by).periods}


def test_a_day_ends_at_local_midnight_even_at_daylight_saving_changes() -> None:
    spring = [
        entry("2025-03-28T22:59:59.999999+00:00", "Sad"),  # 23:59 of the 28th in winter time
        entry("2025-03-28T23:00:00+00:00", "Anger"),  # 0:00 of the 29th
        entry("2025-03-29T22:59:59.999999+00:00", "Anger"),  # 23:59 of the 29th
        entry("2025-03-29T23:00:00+00:00", "Happy"),  # 0:00 of the 30th, which has 23 hours
        entry("2025-03-30T21:59:59.999999+00:00", "Happy"),  # 23:59 of the 30th in summer time
        entry("2025-03-30T22:00:00+00:00", "Shock"),  # 0:00 of the 31st
    ]
    assert calendar(spring, "2025-03-29", "2025-03-30") == {"2025-03-29": (2, "Anger"), "2025-03-30": (2, "Happy")}
    autumn = [
        entry("2025-10-25T21:59:59.999999+00:00", "Sad"),
        entry("2025-10-25T22:00:00+00:00", "Neutral"),  # 0:00 of the 26th, which has 25 hours
        entry("2025-10-26T00:30:00+00:00", "Neutral"),  # 2:30 for the first time
        entry("2025-10-26T01:30:00+00:00", "Neutral"),  # 2:30 for the second
        entry("2025-10-26T22:59:59.999999+00:00", "Neutral"),
        entry("2025-10-26T23:00:00+00:00", "Shock"),
    ]
    assert calendar(autumn, "2025-10-26", "2025-10-26") == {"2025-10-26": (4, "Neutral")}
    assert calendar(autumn, "2025-10-26", "2025-10-26", ZoneInfo("UTC")) == {"2025-10-26": (4, "Neutral")}
    assert calendar(autumn, "2025-10-25", "2025-10-25", ZoneInfo("UTC")) == {"2025-10-25": (2, "Neutral")}


def test_a_day_without_midnight_starts_at_its_first_instant() -> None:
    # In Beirut 30 March 2025 began at 1:00 of summer time, 22:00 UTC of the 29th.
    beirut = ZoneInfo("Asia/Beirut")
    first, after = DateRange(date(2025, 3, 30), date(2025, 3, 30), beirut).bounds()
    assert (first, after) == (datetime(2025, 3, 29, 22, tzinfo=UTC), datetime(2025, 3, 30, 21, tzinfo=UTC))
    assert (after - first) == timedelta(hours=23)
    assert first.astimezone(beirut).date() == date(2025, 3, 30)


def test_weeks_are_iso_weeks_across_the_new_year() -> None:
    entries = [
        entry("2024-12-29T12:00:00+00:00", "Sad"),  # the Sunday of 2024-W52
        entry("2024-12-30T12:00:00+00:00", "Happy"),  # Monday, of the next year's first week
        entry("2025-01-05T22:59:00+00:00", "Happy"),  # Sunday, 23:59 in Berlin
        entry("2025-01-05T23:00:00+00:00", "Shock"),  # Monday, 0:00
    ]
    weeks = {"2024-W52": (1, "Sad"), "2025-W01": (2, "Happy"), "2025-W02": (1, "Shock")}
    assert calendar(entries, "2024-12-23", "2025-01-12", by="week") == weeks
    # A week is whole, whichever of its days is named.
    assert calendar(entries, "2025-01-01", "2025-01-02", by="week") == {"2025-W01": (2, "Happy")}
    # 2020 had 53 weeks; its last ended on 3 January.
    assert calendar([entry("2021-01-03T12:00:00+00:00")], "2021-01-03", "2021-01-03", by="week") == {
        "2020-W53": (1, "Happy")
    }


@pytest.mark.parametrize(
    ("by", "start", "end", "expected"),
    [
        ("day", None, None, ("2025-07-03", "2025-08-01")),
        ("day", None, "2025-03-31", ("2025-03-02", "2025-03-31")),
        ("day", "2025-07-31", None, ("2025-07-31", "2025-08-01")),
        ("week", None, None, ("2025-05-12", "2025-08-03")),
        ("week", "2025-07-24", None, ("2025-07-21", "2025-08-03")),
        ("week", "2025-07-24", "2025-07-25", ("2025-07-21", "2025-07-27")),
    ],
)
def test_the_default_range_is_30_days_or_12_weeks_up_to_today(
    by: str, start: str | None, end: str | None, expected: tuple[str, str]
) -> None:
    # It is already Friday, 1 August in Berlin.
    now = datetime(2025, 7, 31, 22, 30, tzinfo=UTC)
    found = complete_range(by, start and date.fromisoformat(start), end and date.fromisoformat(end), BERLIN, now)  # type: ignore[arg-type]
    assert (found.start.isoformat(), found.end.isoformat()) == expected


def test_a_range_that_ends_before_it_starts_is_rejected() -> None:
    with pytest.raises(ValueError, match="ends before"):
        complete_range("day", date(2025, 8, 2), date(2025, 8, 1), BERLIN, datetime.now(UTC))


def summary(entries: list[MoodEntry], baseline_entries: list[MoodEntry]) -> MoodCalendar:
    return summarize(entries, baseline_entries, DateRange(date(2025, 8, 1), date(2025, 8, 31), BERLIN), "day")


def test_entries_without_a_face_count_as_entries_without_an_emotion() -> None:
    found = summary([entry("2025-08-01T12:00+00:00", None), entry("2025-08-01T13:00+00:00", "Sad")], [])
    assert (found.entries, found.emotions) == (2, {"Anger": 0, "Happy": 0, "Shock": 0, "Neutral": 0, "Sad": 1})
    assert [(period.entries, period.leading) for period in found.periods] == [(2, "Sad")]
    [alone] = summary([entry("2025-08-01T12:00+00:00", None)], []).periods
    assert (alone.entries, alone.leading) == (1, None)


def test_ties_between_emotions_are_broken_by_probability() -> None:
    entries = [
        entry("2025-08-01T12:00+00:00", "Anger", Anger=0.5, Sad=0.5),
        entry("2025-08-01T13:00+00:00", "Sad", Anger=0.1, Sad=0.9),
    ]
    [day] = summary(entries, []).periods
    assert day.leading == "Sad"


def test_the_baseline_is_the_mean_and_the_range_differs_from_it() -> None:
    baseline_entries = [entry("2025-07-01T12:00+00:00", "Neutral", Neutral=0.75, Happy=0.25)] * 8
    baseline_entries += [entry("2025-08-02T12:00+00:00", "Happy", Happy=1.0)] * 4
    in_range = baseline_entries[8:]
    baseline = summary(in_range, baseline_entries).baseline
    # (8 × 0.25 + 4 × 1) / 12 and 8 × 0.75 / 12
    assert (baseline.days, baseline.entries, baseline.entries_needed) == (90, 12, 10)
    assert baseline.probabilities == {"Anger": 0, "Happy": 0.5, "Shock": 0, "Neutral": 0.5, "Sad": 0}
    assert baseline.difference == {"Anger": 0, "Happy": 0.5, "Shock": 0, "Neutral": -0.5, "Sad": 0}


@pytest.mark.parametrize(
    ("in_baseline", "in_range", "has_mean", "has_difference"),
    [(9, 9, False, False), (10, 2, True, False), (10, 3, True, True), (0, 0, False, False)],
)
def test_a_baseline_needs_enough_entries(in_baseline: int, in_range: int, has_mean: bool, has_difference: bool) -> None:
    one = entry("2025-08-01T12:00+00:00")
    faceless = [entry("2025-08-01T12:00+00:00", None)] * 20
    baseline = summary([one] * in_range + faceless, [one] * in_baseline + faceless).baseline
    assert baseline.entries == in_baseline
    assert (baseline.probabilities is not None, baseline.difference is not None) == (has_mean, has_difference)


def test_the_baseline_reaches_back_90_days() -> None:
    now = datetime(2025, 8, 31, tzinfo=UTC)
    assert now - mood_calendar.baseline_start(now) == timedelta(days=90)


@pytest.mark.parametrize(
    ("label", "five"),
    [
        *[(label, label) for label in FIVE],
        *zip(SEVEN, ("Happy", "Shock", "Sad", "Anger", "Anger", "Shock", "Neutral"), strict=True),
        *zip(EIGHT, ("Neutral", "Neutral", "Happy", "Sad", "Anger", "Shock", "Anger", "Shock"), strict=True),
        *[("joy", "Happy"), ("sadness", "Sad"), ("Surprise", "Shock"), ("contempt", None), ("", None)],
    ],
)
def test_every_label_set_maps_to_the_five_moods(label: str, five: str | None) -> None:
    assert to_five(label) == five


def test_probabilities_are_summed_by_mood() -> None:
    seven = {"happy": 0.1, "surprise": 0.2, "sad": 0.05, "anger": 0.25, "disgust": 0.15, "fear": 0.05, "neutral": 0.2}
    assert fold_to_five(seven) == pytest.approx(
        {"Anger": 0.4, "Happy": 0.1, "Shock": 0.25, "Neutral": 0.2, "Sad": 0.05}
    )
    assert tuple(fold_to_five(seven)) == FIVE
    assert fold_to_five({"contempt": 0.5, "joy": 0.5})["Happy"] == 0.5
