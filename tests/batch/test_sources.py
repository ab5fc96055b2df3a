import os
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import fsspec
import pytest

from moodreel.batch.errors import BatchError, SourceUnreadable
from moodreel.batch.filesystem import OutputFolder
from moodreel.batch.sources import find_day, list_sources, read_source
from moodreel.errors import UnsupportedMedia, VideoTooBig
from moodreel.media import container
from moodreel.media.recording_time import recording_time
from tests.support import synthetic_frames, synthetic_video

BERLIN = ZoneInfo("Europe/Berlin")


def clip(container: str = "mp4", **tags: str) -> bytes:
    return synthetic_video.encode_video(
        synthetic_frames.counter_frames(2),
        container=container,
        codec="libvpx" if container == "webm" else "libx264",
        container_options={} if container == "webm" else {"movflags": "use_metadata_tags"},
        metadata={name.replace("__", "."): value for name, value in tags.items()},
    )


@pytest.fixture
def files(folder: str) -> str:
    source = OutputFolder(folder)
    for name in ("2025/b.mp4", "2025/a.MOV", "2025/._a.MOV", "2025/notes.txt", "2024/[1]/c.webm", "moods/loops/d.mp4"):
        source.write(name, b"data")
    source.write("empty.mp4", b"")
    return folder


def test_a_folder_lists_its_videos_but_neither_hidden_files_nor_the_output(files: str) -> None:
    listed = list_sources(files, OutputFolder(f"{files}/moods"))
    assert listed == [f"{files}/{name}" for name in ("2024/[1]/c.webm", "2025/a.MOV", "2025/b.mp4", "empty.mp4")]
    assert list_sources(f"{files}/2024/[1]", OutputFolder(f"{files}/moods")) == [f"{files}/2024/[1]/c.webm"]


def test_a_source_may_be_in_the_output(files: str) -> None:
    assert list_sources(f"{files}/2025", OutputFolder(files)) == [f"{files}/2025/a.MOV", f"{files}/2025/b.mp4"]


def test_a_pattern_lists_the_files_that_it_matches(files: str) -> None:
    assert list_sources(f"{files}/2025/*.t*", OutputFolder(f"{files}/moods")) == [f"{files}/2025/notes.txt"]
    assert list_sources(f"{files}/**/?.mp4", OutputFolder(f"{files}/moods")) == [f"{files}/2025/b.mp4"]
    assert list_sources(f"{files}/2025/b.mp4", OutputFolder(f"{files}/moods")) == [f"{files}/2025/b.mp4"]


def test_a_source_without_videos_is_an_error(files: str) -> None:
    for source in (f"{files}/none", f"{files}/*.avi", f"{files}/moods"):
        with pytest.raises(BatchError, match="has no videos"):
            list_sources(source, OutputFolder(f"{files}/moods"))


def test_a_local_path_is_listed_as_a_url_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"data")
    monkeypatch.chdir(tmp_path)
    assert list_sources(".", OutputFolder("out")) == list_sources(str(tmp_path), OutputFolder("out"))
    assert list_sources(".", OutputFolder("out")) == [f"file://{tmp_path}/a.mp4"]


def test_a_name_that_is_not_utf_8_is_listed_escaped(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.mp4")).write_bytes(b"data")
    assert list_sources(str(tmp_path), OutputFolder("out")) == [rf"file://{tmp_path}/\udcff.mp4"]


def test_an_unknown_scheme_is_an_error() -> None:
    with pytest.raises(BatchError, match="cannot be opened"):
        list_sources("nowhere://a", OutputFolder("out"))


def test_reading_reports_what_is_wrong(files: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_source(f"{files}/2025/b.mp4") == b"data"
    with pytest.raises(UnsupportedMedia, match="0 bytes"):
        read_source(f"{files}/empty.mp4")
    with pytest.raises(SourceUnreadable):
        read_source(f"{files}/none.mp4")
    monkeypatch.setattr(container, "MAX_FILE_BYTES", 3)
    with pytest.raises(VideoTooBig):
        read_source(f"{files}/2025/b.mp4")


def test_what_is_not_a_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    [url] = list_sources(str(tmp_path), OutputFolder(str(tmp_path / "out")))
    with pytest.raises(SourceUnreadable, match="not a regular file"):
        read_source(url)


@pytest.mark.parametrize("container", ["mp4", "mov", "webm"])
def test_the_recording_time_is_that_of_the_container(container: str) -> None:
    assert recording_time(clip(container, creation_time="2025-03-30T22:15:00Z")) == datetime(
        2025, 3, 30, 22, 15, tzinfo=UTC
    )


def test_a_clock_that_was_never_set_gives_no_recording_time() -> None:
    assert recording_time(clip()) is None
    assert recording_time(clip(creation_time="1970-01-01T00:00:01Z")) is None
    assert recording_time(clip(creation_time="2999-01-01T00:00:00Z")) is None
    assert recording_time(b"nonsense") is None
    assert recording_time(clip()[:60]) is None


def test_the_day_is_that_of_the_camera_else_of_the_zone() -> None:
    camera = clip(com__apple__quicktime__creationdate="2025-03-31T00:15:00+0900", creation_time="2025-03-30T15:15:00Z")
    assert find_day("file:///VID_20200101.mp4", camera, ZoneInfo("UTC"))[:2] == (date(2025, 3, 31), "metadata")
    day, day_from, time = find_day("file:///a.mp4", clip(creation_time="2025-03-30T22:15:00Z"), BERLIN)
    assert (day, day_from, time) == (date(2025, 3, 31), "metadata", datetime(2025, 3, 30, 22, 15, tzinfo=UTC))


@pytest.mark.parametrize(
    "name",
    ["VID_20250331_221500", "2025-03-31 10.12.33", "VID-20250331-WA0001", "20250331101233", "signal-2025-03-31-101233"],
)
def test_without_metadata_the_day_is_in_the_name(name: str) -> None:
    assert find_day(f"file:///2024-01-01/{name}.mp4", clip(), BERLIN) == (date(2025, 3, 31), "name", None)


@pytest.mark.parametrize("name", ["clip", "20251399", "9920250331", "202503311", "2025-03.31", "20990331"])
def test_without_either_the_day_is_that_of_the_last_change(name: str, folder: str) -> None:
    OutputFolder(folder).write(f"{name}.mp4", b"data")
    day, day_from, _ = find_day(f"{folder}/{name}.mp4", None, ZoneInfo("UTC"))
    assert (day, day_from) == (datetime.now(UTC).date(), "modified")


def test_a_file_that_is_gone_has_no_day(folder: str) -> None:
    assert find_day(f"{folder}/gone.mp4", None, BERLIN) == (None, None, None)


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(BatchError, match="No space left"):
        OutputFolder(str(tmp_path)).write("a/b.mp4", b"data")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_is_replaced_and_deleted(folder: str) -> None:
    output = OutputFolder(folder)
    output.write("a/b.bin", b"one")
    output.write("a/b.bin", b"two")
    assert output.files.cat_file(f"{output.path}/a/b.bin") == b"two"
    output.delete(f"{output.path}/a/b.bin")
    assert not fsspec.url_to_fs(folder)[0].exists(f"{output.path}/a/b.bin")
