"""Test `extract`: images of videos to label by hand, and their manifest."""

import csv
import os

import cv2
import numpy as np
import pytest

from moodreel.training.__main__ import main
from moodreel.training.cli.extract import parse_duration
from moodreel.training.data.extract import MANIFEST
from tests.support import synthetic_frames, synthetic_video


def run(*arguments):
    main(["extract", *map(str, arguments)])


def manifest(folder):
    with (folder / MANIFEST).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def write_video(path, frames, **options):
    path.write_bytes(synthetic_video.encode_video(frames, **options))
    return path


def test_frames_are_extracted_every_interval_at_the_given_size_with_a_line_each(tmp_path, capsys):
    video = write_video(tmp_path / "my diary.mp4", synthetic_frames.counter_frames(25, 128, 96), fps=10)
    run(video, "--every", "1s", "--size", "64", "--out", tmp_path / "out")
    rows = manifest(tmp_path / "out")
    assert [float(row["time"]) for row in rows] == pytest.approx([0, 1, 2], abs=0.01)
    assert {row["video"] for row in rows} == {str(video)}
    assert {row["label"] + row["track"] + row["x"] for row in rows} == {""}
    images = [cv2.imread(str(tmp_path / "out" / row["file"]), cv2.IMREAD_COLOR_RGB) for row in rows]
    assert [image.shape for image in images] == [(48, 64, 3)] * 3
    assert [synthetic_frames.read_counter(image) for image in images] == [0, 10, 20]
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert "3 images and manifest.csv" in capsys.readouterr().out


def test_faces_are_squares_with_their_box_in_the_upright_video_and_one_track(tmp_path):
    video = write_video(tmp_path / "face.mp4", synthetic_frames.face_frames(10), fps=10)
    run(video, "--every", "300ms", "--size", "112", "--faces", "--out", tmp_path / "out")
    rows = manifest(tmp_path / "out")
    assert [float(row["time"]) for row in rows] == pytest.approx([0, 0.3, 0.6, 0.9], abs=0.01)
    assert {row["track"] for row in rows} == {"0"}
    for row in rows:
        face = cv2.imread(str(tmp_path / "out" / row["file"]))
        assert face.shape == (112, 112, 3)
        x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= 320
        assert 0 <= y < y + height <= 240
        assert 40 < height < 160
    moved = int(rows[-1]["x"]) - int(rows[0]["x"])
    assert moved == pytest.approx(9, abs=5), "the face drifts a pixel a frame"


def test_a_video_without_faces_gives_no_images(tmp_path):
    video = write_video(tmp_path / "noise.mp4", synthetic_frames.noise_frames(3))
    run(video, "--faces", "--out", tmp_path / "out")
    assert manifest(tmp_path / "out") == []


def test_nothing_is_overwritten(tmp_path):
    video = write_video(tmp_path / "a.mp4", synthetic_frames.counter_frames(3))
    out = tmp_path / "out"
    run(video, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SystemExit, match="not empty, and nothing is overwritten"):
        run(video, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_videos_of_one_name_get_images_of_different_names(tmp_path):
    videos = []
    for folder, gray in (("a", 40), ("b", 200)):
        (tmp_path / folder).mkdir()
        videos.append(write_video(tmp_path / folder / "clip.mp4", [np.full((48, 64, 3), gray, np.uint8)] * 3))
    run(*videos, "--out", tmp_path / "out")
    brightness = {
        row["video"]: cv2.imread(str(tmp_path / "out" / row["file"])).mean() for row in manifest(tmp_path / "out")
    }
    assert brightness == pytest.approx({str(videos[0]): 40, str(videos[1]): 200}, abs=4)


def test_a_broken_video_is_named_and_the_others_are_extracted(tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"hello, this is my diary")
    good = write_video(tmp_path / "good.mp4", synthetic_frames.counter_frames(3))
    with pytest.raises(SystemExit, match="1 of 2 videos could not be read to their end"):
        run(broken, good, "--out", tmp_path / "out")
    assert [row["video"] for row in manifest(tmp_path / "out")] == [str(good)]
    assert "1 image and" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere.mp4"], "no video nowhere.mp4"), (["--size", "5"], "5 pixels"), (["--size", "9999"], "9999 pixels")],
)
def test_invalid_arguments_are_refused_before_anything_is_written(tmp_path, arguments, message):
    video = write_video(tmp_path / "a.mp4", synthetic_frames.counter_frames(3))
    with pytest.raises(SystemExit, match=message):
        run(video, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "value"), [("1s", 1), ("500ms", 0.5), ("0.25", 0.25), ("2 min", 120), ("1.5s", 1.5)])
def test_durations_are_parsed_in_common_units(text, value):
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", ["", "s", "0s", "-1s", "1h", "one", "1e9s", "nan"])
def test_an_invalid_duration_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(["extract", "a.mp4", f"--every={text}", "--out", "x"])
    assert f"{text!r} is not a duration; write it as 1s, 500ms or 2min" in capsys.readouterr().err


def test_a_video_whose_name_is_not_utf_8_is_extracted(tmp_path):
    video = write_video(tmp_path / os.fsdecode(b"\xff.mp4"), synthetic_frames.counter_frames(3))
    run(video, "--out", tmp_path / "out")
    assert [row["video"] for row in manifest(tmp_path / "out")] == [rf"{tmp_path}/\udcff.mp4"]
