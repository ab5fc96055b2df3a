import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="batches need pyarrow: pip install 'moodreel[batch]'")

from moodreel.batch.analyses import ROW_SCHEMA, Analyses  # noqa: E402
from moodreel.batch.calendar_plot import plot_calendar  # noqa: E402
from moodreel.batch.errors import BatchError  # noqa: E402
from moodreel.batch.filesystem import OutputFolder  # noqa: E402
from moodreel.batch.summary import BatchSummary  # noqa: E402
from moodreel.emotions import color_of  # noqa: E402

HAPPY = {"Anger": 0.0, "Happy": 0.75, "Shock": 0.0, "Neutral": 0.25, "Sad": 0.0}
SAD = {"Anger": 0.0, "Happy": 0.0, "Shock": 0.0, "Neutral": 0.1, "Sad": 0.9}


def rows(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), ROW_SCHEMA)


def happy(source: str, day: str = "2025-03-31") -> dict[str, object]:
    return {
        "source": source,
        "day": day,
        "day_from": "name",
        "recorded_at": datetime(2025, 3, 31, 12, tzinfo=UTC),
        "emotion": "Happy",
        "probabilities": HAPPY,
        "timings": {"decode": 1.5},
        "timeline": [{"time": 0.0, "emotion": "Happy", "probabilities": HAPPY, "box": [1, 2, 3, 4], "track": 0}],
    }


def error(source: str, code: str = "video_corrupt") -> dict[str, object]:
    return {"source": source, "day": "2025-04-01", "day_from": "modified", "error": code, "detail": "It is damaged."}


def stored(analyses: Analyses) -> list[tuple[str, str | None, str | None]]:
    return sorted((row["source"], row["day"], row["error"]) for part in analyses.read() for row in part.to_pylist())


@pytest.fixture
def analyses(folder: str) -> Analyses:
    analyses = Analyses(OutputFolder(folder))
    assert stored(analyses) == []
    analyses.append(rows(happy("a"), error("b"), happy("c")))
    analyses.append(rows(happy("d", "unknown")))
    return analyses


def test_analyses_are_partitioned_by_day(analyses: Analyses, folder: str) -> None:
    files = OutputFolder(folder).files
    parts = sorted(path.rpartition("/analyses/")[2].rpartition("/")[0] for path in files.find(f"{folder}/analyses"))
    assert parts == ["day=2025-03-31", "day=2025-04-01", "day=unknown"]
    assert stored(analyses) == [
        ("a", "2025-03-31", None),
        ("b", "2025-04-01", "video_corrupt"),
        ("c", "2025-03-31", None),
        ("d", "unknown", None),
    ]


def test_other_programs_read_the_folder_as_it_is(analyses: Analyses, folder: str) -> None:
    if not folder.startswith("file://"):
        pytest.skip("the files are the same in every storage")
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(f"{folder}/analyses").set_index("source")
    assert dict(frame.loc["a"].probabilities) == HAPPY
    assert str(frame.loc["a"].recorded_at) == "2025-03-31 12:00:00+00:00"
    assert frame.loc["b"].detail == "It is damaged."


def test_dropped_rows_are_gone_and_the_others_of_their_file_stay(analyses: Analyses) -> None:
    analyses.drop({"a", "b"}, errors_only=True)
    assert [source for source, *_ in stored(analyses)] == ["a", "c", "d"]
    analyses.drop({"a", "b", "d"}, errors_only=False)
    assert [source for source, *_ in stored(analyses)] == ["c"]


def test_half_a_file_is_never_read(analyses: Analyses, folder: str) -> None:
    output = OutputFolder(folder)
    partial = f"{output.path}/analyses/day=2025-03-31/.0.parquet.5"
    output.files.pipe_file(partial, b"PAR1 half of it")
    assert len(stored(analyses)) == 4
    output.files.pipe_file(partial.replace("/.0.parquet.5", "/0.parquet"), b"PAR1 half of it")
    for use in (lambda: stored(analyses), lambda: analyses.drop({"a"}, errors_only=False)):
        with pytest.raises(BatchError, match=r"day=2025-03-31/0\.parquet"):
            use()


def test_a_storage_that_refuses_is_an_error_of_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = OutputFolder(str(tmp_path))

    def refuse(path: str) -> bool:
        raise RuntimeError("Unable to locate credentials")

    monkeypatch.setattr(output.files, "exists", refuse)
    with pytest.raises(BatchError, match=r"cannot be read: .*Unable to locate credentials"):
        list(Analyses(output).read())


def test_a_summary_counts_files_emotions_errors_and_days() -> None:
    summary = BatchSummary()
    summary.add(rows(happy("a"), error("b"), error("c", "no_face"), error("d"), happy("e", "2025-05-01")))
    summary.add(rows({"source": "f", "day": "2025-03-31", "emotion": "Sad", "probabilities": SAD}))
    assert summary.to_json() == {
        "files": 6,
        "emotions": {"Happy": 2, "Sad": 1},
        "errors": {"video_corrupt": 2, "no_face": 1},
        "days": {
            "2025-03-31": {"leading": "Sad", "emotions": {"Happy": 1, "Sad": 1}},
            "2025-05-01": {"leading": "Happy", "emotions": {"Happy": 1}},
        },
    }


def test_other_label_sets_count_as_the_five() -> None:
    summary = BatchSummary()
    summary.add(rows(happy("a") | {"emotion": "fear", "probabilities": {"fear": 0.6, "surprise": 0.3, "happy": 0.1}}))
    assert dict(summary.emotions) == {"fear": 1}
    assert summary.days["2025-03-31"].leading == "Shock"
    assert summary.days["2025-03-31"].strength == pytest.approx(0.9)


def test_the_calendar_shows_each_day_in_the_color_of_its_leading_emotion() -> None:
    summary = BatchSummary()
    certain = {"Anger": 0.0, "Happy": 0.0, "Shock": 0.0, "Neutral": 0.0, "Sad": 1.0}
    days = [f"2024-{month:02d}-05" for month in range(1, 13)]
    sizes = []
    for count in (1, 12):
        summary.add(rows(*({"day": day, "emotion": "Sad", "probabilities": certain} for day in days[:count])))
        file = io.BytesIO()
        plot_calendar(summary.days, file)
        image = Image.open(file).convert("RGB")
        color = tuple(int(color_of("Sad")[at : at + 2], 16) for at in (1, 3, 5))
        # Left of the shares of the year, below the legend.
        squares = np.asarray(image)[110:, : int(image.width * 0.8)]
        sizes.append((squares == color).all(axis=2).sum())
    assert sizes[0] > 100
    assert sizes[1] == pytest.approx(12 * sizes[0], rel=0.1)
