"""Batches from end to end, on one Ray that all tests share."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="batches need Ray: pip install 'moodreel[batch]'")

import pyarrow.dataset as pds  # noqa: E402

from moodreel.__main__ import main  # noqa: E402
from moodreel.batch.analyses import Analyses  # noqa: E402
from moodreel.batch.analyzer import STOPPED, AnalyzerOptions, ClipAnalyzer  # noqa: E402
from moodreel.batch.errors import BatchError  # noqa: E402
from moodreel.batch.filesystem import OutputFolder  # noqa: E402
from moodreel.batch.ray_runner import stop_if_told  # noqa: E402
from moodreel.batch.run import BatchOptions, BatchProgress, run_batch  # noqa: E402
from moodreel.batch.summary import BatchSummary  # noqa: E402
from tests.batch.light_analyzers import LightAnalyzer  # noqa: E402
from tests.support import synthetic_frames, synthetic_video  # noqa: E402
from tests.support.server import ROOT, STORE  # noqa: E402

Run = Callable[..., BatchSummary]


@pytest.fixture(scope="module")
def ray_on_two_cores(buckets: dict[str, str]) -> Iterator[None]:
    """Start Ray once the environment, which its workers inherit, names the stand-ins of the storages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", "0123456789" * 4)
        ray.init(
            address="local", num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False
        )
        yield
        ray.shutdown()


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a", "b", "broken", "c", "d", "e"):
        (folder / f"{name}.mp4").write_bytes(b"data")
    return folder


@pytest.fixture
def run(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a batch of the clips with the light analyzer."""
    monkeypatch.setattr("moodreel.batch.ray_runner.ClipAnalyzer", LightAnalyzer)

    def run(report: Callable[[BatchProgress], None] = lambda _: None, **options: object) -> BatchSummary:
        batch = BatchOptions(str(clips), str(tmp_path / "out"), AnalyzerOptions(STORE), **options)
        return run_batch(batch, report)

    return run


@pytest.fixture
def without_ray(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Analyze in this process, one file after the other. There, no file may kill the worker."""

    def analyze(sources: list[str], options: AnalyzerOptions, output: OutputFolder, _: int):
        analyzer = LightAnalyzer(options, output)
        return stop_if_told(analyzer({"item": [source]}) for source in sources)

    monkeypatch.setattr("moodreel.batch.run.ray_session", lambda _: contextlib.nullcontext(1))
    monkeypatch.setattr("moodreel.batch.run.analyze", analyze)


def stored(out: Path) -> dict[str, str | None]:
    """Return the errors by name of file, each of which has one row."""
    rows = [row for part in Analyses(OutputFolder(str(out))).read() for row in part.to_pylist()]
    errors = {Path(row["source"]).stem: row["error"] for row in rows}
    assert len(errors) == len(rows)
    return errors


def attempts(clips: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_size for path in clips.glob("*.attempts")}


def test_a_file_that_kills_its_worker_is_a_row_after_two_attempts(
    run: Run, clips: Path, tmp_path: Path, ray_on_two_cores: None
) -> None:
    for number in range(10):
        (clips / f"{number}.mp4").write_bytes(b"data")
    (clips / "d_crash.mp4").write_bytes(b"data")
    summary = run(workers=1)
    errors = {name: error for name, error in stored(tmp_path / "out").items() if error}
    assert errors == {"broken": "video_corrupt", "d_crash": "worker_crashed"}
    assert summary.files == 17
    tried = attempts(clips)
    assert tried.pop("d_crash") == 2
    assert tried == {**dict.fromkeys(tried, 1), "d": 2}, "the other file of its task is analyzed again"


@pytest.mark.usefixtures("without_ray")
def test_files_are_analyzed_again_only_on_request(run: Run, clips: Path, tmp_path: Path) -> None:
    progress: list[BatchProgress] = []
    run(limit=4)
    assert len(stored(tmp_path / "out")) == 4
    run(progress.append)
    assert [(each.files, each.before) for each in progress] == [(6, 4)] * len(progress)
    assert progress[-1].done == 2
    run()
    assert set(attempts(clips).values()) == {1}
    run(retry_errors=True)
    assert attempts(clips) == {**dict.fromkeys("abcde", 1), "broken": 2}
    run(force=True)
    assert attempts(clips) == {**dict.fromkeys("abcde", 2), "broken": 3}
    run(force=True, limit=2)
    assert attempts(clips) == {**dict.fromkeys("ab", 3), **dict.fromkeys("cde", 2), "broken": 3}
    assert len(stored(tmp_path / "out")) == 6


@pytest.mark.usefixtures("without_ray")
def test_what_is_done_when_a_batch_is_interrupted_stays_done(run: Run, tmp_path: Path) -> None:
    def interrupt(progress: BatchProgress) -> None:
        if progress.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt, limit=4)
    assert len(stored(tmp_path / "out")) == 2


@pytest.mark.usefixtures("without_ray")
def test_a_batch_that_cannot_go_on_says_why(run: Run, clips: Path, tmp_path: Path) -> None:
    (clips / "full.mp4").write_bytes(b"data")
    with pytest.raises(BatchError, match="No space left"):
        run()
    assert stored(tmp_path / "out") == {**dict.fromkeys("abcde"), "broken": "video_corrupt"}


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moodreel.cli.batch.run_batch", interrupt)
    assert main(["batch", str(tmp_path), "--out", str(tmp_path / "out"), "--force"]) == 130
    assert (
        capsys.readouterr().err == "moodreel: stopped. The same command, without --force, continues where it stopped.\n"
    )


LOCK = """
import os, sys
from moodreel.batch.filesystem import OutputFolder
with OutputFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("without_ray")
def test_a_second_batch_stops_until_the_first_has_ended_or_was_killed(run: Run, clips: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCK, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BatchError, match="Another batch writes to"):
            run(force=True)
        assert attempts(clips) == {}
        other.kill()
    assert run().files == 6


def test_unusable_models_and_outputs_stop_the_batch(tmp_path: Path) -> None:
    output = OutputFolder(str(tmp_path / "out"))
    row = ClipAnalyzer(AnalyzerOptions(tmp_path / "no_models"), output).analyze("file:///a.mp4")
    assert row["error"] == STOPPED
    (tmp_path / "out").write_text("a file in place of the folder")
    analyzer = ClipAnalyzer(AnalyzerOptions(STORE, loop=loop_options()), output)
    (tmp_path / "a.mp4").write_bytes(synthetic_video.encode_video(synthetic_frames.face_frames(10)))
    row = analyzer.analyze(f"file://{tmp_path}/a.mp4")
    assert (row["error"], "cannot be written" in str(row["detail"])) == (STOPPED, True)


def test_a_loop_is_written_for_a_file_with_a_long_name(tmp_path: Path) -> None:
    clip = tmp_path / f"{'微' * 71}.mp4"
    clip.write_bytes(synthetic_video.encode_video(synthetic_frames.face_frames(10)))
    analyzer = ClipAnalyzer(AnalyzerOptions(STORE, loop=loop_options()), OutputFolder(str(tmp_path / "out")))
    row = analyzer.analyze(f"file://{clip}")
    assert row.get("error") is None, row["detail"]
    assert (tmp_path / "out" / str(row["loop"])).is_file()


def loop_options():
    from moodreel.pipelines.boomerang import LoopOptions

    return LoopOptions(duration=0.5, size=64)


def test_the_command_goes_on_where_it_stopped_in_object_storages(
    buckets: dict[str, str], ray_on_two_cores: None, capsys: pytest.CaptureFixture[str]
) -> None:
    smile = synthetic_video.encode_video(
        synthetic_frames.face_frames(12), metadata={"creation_time": "2025-03-30T22:15:00Z"}
    )
    source, out = OutputFolder(buckets["s3"] + "/clips"), OutputFolder(buckets["gs"] + "/moods")
    for index in range(8):
        source.write(f"VID_2025060{index + 1}_1.mp4", smile + bytes([index]))
    source.write("still.mp4", synthetic_video.encode_video(synthetic_frames.noise_frames(5)))
    source.write("cut.mp4", smile[:300])
    source.write("text.mp4", b"Dear diary")
    source.write("empty.mov", b"")
    command = ["batch", source.url, "--out", out.url, "--workers", "1", "--tz", "Europe/Berlin", "--size", "64"]
    assert main([*command, "--limit", "5"]) == 0
    assert "has 5 files" in capsys.readouterr().out
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "has 12 files: 8 analyzed, 4 with an error.\n  emotions  Happy 8\n" in printed.out
    assert "12 of 12 files (5 before), " in printed.err
    started = time.monotonic()
    assert main(command) == 0
    assert time.monotonic() - started < 3, "nothing is left to analyze, so no worker starts"

    days = pds.partitioning(flavor="hive")
    dataset = pds.dataset(f"{out.path}/analyses", filesystem=out.files, partitioning=days)
    rows = {row["source"]: row for row in dataset.to_table().to_pylist(maps_as_pydicts="strict")}
    assert dataset.count_rows() == len(rows) == 12
    assert {name.rpartition("/")[2]: row["error"] for name, row in rows.items() if row["error"]} == {
        "still.mp4": "no_face",
        "cut.mp4": "video_corrupt",
        "text.mp4": "unsupported_media",
        "empty.mov": "unsupported_media",
    }
    row = rows[f"{source.url}/VID_20250601_1.mp4"]
    assert (row["emotion"], row["day"], row["day_from"], row["model"]) == (
        "Happy",
        "2025-03-31",
        "metadata",
        "moodreel-five",
    )
    assert len(row["timeline"]) == row["frames_analysed"] > 0
    assert row["probabilities"]["Happy"] == row["confidence"]
    loops = {out.files.cat_file(f"{out.path}/{each['loop']}") for each in rows.values() if each["loop"]}
    assert len({each["loop"] for each in rows.values() if each["loop"]}) == 8
    assert all(len(synthetic_video.decode_frames(loop)) > 1 for loop in loops)
    assert out.files.cat_file(f"{out.path}/{row['poster']}")[:2] == b"\xff\xd8"
    assert out.files.cat_file(f"{out.path}/calendar.png")[:4] == b"\x89PNG"
    assert json.loads(out.files.cat_file(f"{out.path}/summary.json"))["emotions"] == {"Happy": 8}


def test_a_wrong_command_line_or_source_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--tz", "Mars/Olympus"], ["--force", "--retry-errors"], ["--limit", "0"], ["--size", "7"]):
        with pytest.raises(SystemExit) as stop:
            main(["batch", str(tmp_path), "--out", str(tmp_path / "out"), *arguments])
        assert stop.value.code == 2
    assert "--limit: 0 is not 1 or more\n" in capsys.readouterr().err
    assert main(["batch", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"moodreel: {tmp_path} has no videos. Name a folder, a file or a pattern such as 'FOLDER/**/*.mp4'.\n"
    )
