"""Summarize the analyses of a batch."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow as pa

from moodreel.batch.analyses import UNKNOWN_DAY
from moodreel.emotions import fold_to_five, to_five
from moodreel.storage.mood_calendar import leading_emotion


@dataclass
class DayMoods:
    """The moods of one day.

    Attributes:
        counts: Clips by emotion, of the five.
        probabilities: Sums of the clips' probabilities, of the five.
    """

    counts: Counter[str] = field(default_factory=Counter)
    probabilities: Counter[str] = field(default_factory=Counter)

    @property
    def leading(self) -> str:
        """The most frequent emotion; in a tie, the one with the higher mean probability."""
        return leading_emotion(self.counts, self.probabilities) or ""

    @property
    def strength(self) -> float:
        """Mean probability of the leading emotion, 0 to 1."""
        return self.probabilities[self.leading] / self.counts.total()


@dataclass
class BatchSummary:
    """A summary of the analyses in a folder. Its size depends on the number of days, not of files.

    Attributes:
        emotions: Files by emotion.
        errors: Files by the code of their error.
        days: Moods by day, of files without an error.
    """

    files: int = 0
    emotions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    days: defaultdict[str, DayMoods] = field(default_factory=lambda: defaultdict(DayMoods))

    def add(self, rows: pa.Table) -> None:
        """Count analyses, with at least `SUMMARY_COLUMNS`."""
        for row in rows.select(["day", "error", "emotion", "probabilities"]).to_pylist(maps_as_pydicts="strict"):
            self.files += 1
            if row["error"]:
                self.errors[row["error"]] += 1
                continue
            self.emotions[row["emotion"]] += 1
            emotion = to_five(row["emotion"])
            if emotion and row["day"] != UNKNOWN_DAY:
                self.days[row["day"]].counts[emotion] += 1
                self.days[row["day"]].probabilities.update(fold_to_five(row["probabilities"]))

    def to_json(self) -> dict[str, object]:
        """Return the summary as a JSON object."""
        return {
            "files": self.files,
            "emotions": dict(self.emotions.most_common()),
            "errors": dict(self.errors.most_common()),
            "days": {
                day: {"leading": moods.leading, "emotions": dict(moods.counts)}
                for day, moods in sorted(self.days.items())
            },
        }
