"""The `moodreel` command. Most tests call it in this process and check its output, files and exit status."""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageColor

from api.bootstrap import video_limits
from api.schemas.videos import ThumbnailOptionsSchema
from api.settings import Settings
from moodreel import __main__ as command_line
from moodreel.__main__ import SUBCOMMANDS, main
from moodreel.cli import batch, logs, predict
from moodreel.emotions import COLORS
from moodreel.media.image import ImageLimits
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.boomerang import LOOP_SECONDS, LOOP_SIDES
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import ROOT, STORE

FULL_DISK = Path("/dev/full")


@pytest.fixture
def smile(tmp_path):
    path = tmp_path / "smile.mp4"
    path.write_bytes(synthetic_video.encode_video(synthetic_frames.face_frames(50)))
    return path


def test_a_video_result_is_one_line(smile, capsys):
    assert main([str(smile)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{smile}: Happy (")
    assert "certain" not in printed


def test_an_uncertain_result_has_a_reason_and_a_tip(tmp_path, capsys):
    path = tmp_path / "dim.mp4"
    path.write_bytes(synthetic_video.encode_video([frame // 12 for frame in synthetic_frames.face_frames(10)]))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.endswith("; not certain (dark): Turn towards the light.\n")
    assert main(["--json", str(path)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["certain"], result["quality"]["reason"]) == (False, "dark")


def test_explain_names_the_facial_actions(smile, capsys):
    assert main(["--explain", str(smile)]) == 0
    assert "; lip corners up" in capsys.readouterr().out
    assert main(["--explain", "--json", str(smile)]) == 0
    [first, *_] = json.loads(capsys.readouterr().out)["explanation"]["movements"]
    assert (first["name"], first["weight"] > 0.3) == ("lip corners up", True)
    assert [*first] == ["name", "strength", "weight"]


def test_json_output_has_one_line_for_each_file_or_error(smile, tmp_path, capsys):
    nonsense, missing = tmp_path / "nonsense.mp4", tmp_path / "missing.mp4"
    nonsense.write_bytes(b"nonsense")
    assert main(["--json", str(smile), str(nonsense), str(missing)]) == 1
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["emotion"], first["model"]["name"]) == ("Happy", "moodreel-five")
    assert len(first["timeline"]) == first["frames_analysed"] > 0
    assert (first["certain"], first["quality"]["reason"]) == (True, None)
    assert "not a video" in second["error"]
    assert "No such file" in third["error"]


def test_an_image_result_is_that_of_its_largest_face(tmp_path, capsys):
    one, several, none = tmp_path / "one.jpg", tmp_path / "several.png", tmp_path / "none.webp"
    one.write_bytes(synthetic_image.encode_image(synthetic_frames.portrait()))
    several.write_bytes(synthetic_image.encode_image(synthetic_frames.group_photo(960, 720, 4, 90)[0], "PNG"))
    none.write_bytes(synthetic_image.encode_image(synthetic_frames.noise_frames(1)[0], "WEBP"))
    assert main([str(one), str(several), str(none)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{one}: happy (") and first.endswith("; 1 face")
    assert second.endswith("; the largest of 4 faces")
    assert third == f"{none}: no face"
    assert main(["--json", str(several), str(none)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["emotion"], len(first["faces"]), first["model"]["name"]) == ("happy", 4, "face-expression")
    assert (second["emotion"], second["faces"], second["width"]) == (None, [], 320)
    assert main([str(one), "--thumbnail", str(tmp_path / "loop.mp4")]) == 1
    assert "no loop" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["mp4", "webp", "gif"])
def test_the_suffix_selects_the_format_of_the_thumbnail(smile, tmp_path, kind):
    path = tmp_path / f"loop.{kind}"
    assert main([str(smile), "--thumbnail", str(path), "--duration", "1", "--size", "160"]) == 0
    if kind == "mp4":
        assert synthetic_video.decode_frames(path.read_bytes())[0].shape == (120, 160, 3)
    else:
        width, height = Image.open(path).size
        assert width / height == pytest.approx(4 / 3, abs=0.03)
        assert width == 160 or (kind == "gif" and width < 160), "a GIF may be smaller, so that its file is"


def test_a_clip_without_a_face_has_a_loop_too(tmp_path, capsys):
    clip, path = tmp_path / "noise.mp4", tmp_path / "loop.mp4"
    clip.write_bytes(synthetic_video.encode_video(synthetic_frames.noise_frames(30)))
    assert main([str(clip), "--thumbnail", str(path)]) == 1
    assert "No face was found" in capsys.readouterr().out
    assert len(synthetic_video.decode_frames(path.read_bytes())) > 2


def test_the_timeline_is_plotted(smile, tmp_path):
    path = tmp_path / "plot.png"
    assert main([str(smile), "--timeline", str(path)]) == 0
    assert Image.open(io.BytesIO(path.read_bytes())).size[0] > 800


def test_the_timeline_is_empty_where_the_face_is_not_found(tmp_path):
    here, away = synthetic_frames.face_frames(50), synthetic_frames.noise_frames(50)
    clip, plot = tmp_path / "away.mp4", tmp_path / "plot.png"
    clip.write_bytes(synthetic_video.encode_video([*here, *away, *here]))
    assert main([str(clip), "--timeline", str(plot)]) == 0
    rgb = np.asarray(Image.open(plot).convert("RGB"))
    plotted = (rgb == ImageColor.getrgb(COLORS["happy"])).all(axis=2).sum(axis=0) > 100
    gaps = np.diff(np.flatnonzero(plotted))
    assert 0.35 < gaps.max() / gaps.sum() < 0.45


def test_any_file_name_is_the_title_of_a_timeline(smile, tmp_path):
    for name in ("a$_$.mp4", "no\udcffname.mp4"):
        smile = smile.rename(tmp_path / name)
        assert main([str(smile), "--timeline", str(tmp_path / "plot.png"), "--force"]) == 0


def test_outputs_of_several_files_are_written_into_folders(smile, tmp_path):
    other = tmp_path / "other.mp4"
    other.write_bytes(smile.read_bytes())
    assert (
        main([str(smile), str(other), "--thumbnail", str(tmp_path / "loops"), "--timeline", str(tmp_path / "plots")])
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "loops").iterdir()) == ["other.mp4", "smile.mp4"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["other.png", "smile.png"]


def test_a_loop_that_cannot_be_written_is_the_only_line_of_its_video(smile, tmp_path, capsys):
    target = tmp_path / "none.mp4"
    target.symlink_to(tmp_path / "no folder" / "loop.mp4")
    assert main(["--json", str(smile), "--thumbnail", str(target)]) == 1
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"clip": str(smile), "error": f"{target}: No such file or directory"}


def test_an_unknown_thumbnail_format_is_a_usage_error(smile, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(smile), "--thumbnail", str(tmp_path / "loop.avi")])
    assert ".mp4, .webp or .gif" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0"], "--size: 0 is not from 64 to 1080"),
        (["--size", "many"], "--size: 'many' is not a number"),
        (["--duration", "nan"], "--duration: nan is not from 0.5 to 10"),
        (["--duration", "11"], "--duration: 11 is not from 0.5 to 10"),
        (["--thumbnail", "nowhere/loop.mp4"], "--thumbnail: there is no folder nowhere"),
        (["--thumbnail", "there.mp4"], "--thumbnail: there.mp4 exists. --force overwrites it"),
        (["--timeline", "there.png"], "--timeline: there.png exists. --force overwrites it"),
        (["folder/smile.mp4", "--thumbnail", "loops"], "several files would be written to loops/smile.mp4"),
        (["other.mp4", "--thumbnail", "there.mp4"], "--thumbnail names a folder for several files"),
        (["other.mp4", "--timeline", "plots"], "plots/other.png exists. --force overwrites it"),
        (["--thumbnail", "plots/../smile.mp4", "--force"], "--thumbnail would overwrite plots/../smile.mp4"),
        (["there.mp4", "--thumbnail", ".", "--force"], "--thumbnail would overwrite smile.mp4"),
        (["there.png", "--timeline", ".", "--force"], "--timeline would overwrite there.png"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("there.mp4", "there.png", "plots/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["smile.mp4", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"mine"}


def test_force_overwrites(smile, tmp_path):
    loop = tmp_path / "loop.mp4"
    loop.write_text("old")
    assert main([str(smile), "--thumbnail", str(loop), "--duration", "1", "--size", "96", "--force"]) == 0
    assert synthetic_video.decode_frames(loop.read_bytes())


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, capsys):
    (tmp_path / "empty.mp4").write_bytes(b"")
    large = tmp_path / "large.mp4"
    large.write_bytes(b"")
    os.truncate(large, (1 << 30) + 1)  # takes no room on the disk
    files = [tmp_path, tmp_path / "empty.mp4", large, tmp_path / "no\udcffwhere.mp4"]
    assert main(list(map(str, files))) == 1
    folder, empty, too_large, nowhere = capsys.readouterr().out.splitlines()
    assert folder.endswith(": Is a directory")
    assert empty.endswith(": The file is empty: it has 0 bytes.")
    assert "more than 1 GiB" in too_large
    assert nowhere.endswith("no\\udcffwhere.mp4: No such file or directory")


def test_a_name_that_is_too_long_or_a_link_to_itself_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    long = "a" * 300 + ".mp4"
    assert main([long, "loop.mp4", "--timeline", "plots"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{long}: File name too long",
        "loop.mp4: Too many levels of symbolic links",
    ]
    assert main(["clip.mp4", "--thumbnail", long]) == 2
    assert capsys.readouterr().err == f"moodreel: {long}: File name too long\n"


def test_names_after_two_dashes_are_no_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--json", "--", "-clip.mp4", "--force", "clip.mp4"]) == 1
    assert [json.loads(line)["clip"] for line in capsys.readouterr().out.splitlines()] == [
        "-clip.mp4",
        "--force",
        "clip.mp4",
    ]


def test_files_that_do_not_exist_load_no_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict.Engine, "load", None)
    assert main([str(tmp_path / "nowhere.mp4")]) == 1
    assert "No such file" in capsys.readouterr().out


def test_the_bar_of_a_video_has_a_total(smile):
    assert predict._seconds(smile.read_bytes()) == pytest.approx(2, abs=0.1)
    assert predict._seconds(b"nonsense") == 60
    clip = bytearray(
        synthetic_video.encode_video(synthetic_frames.counter_frames(25), container="webm", codec="libvpx-vp9")
    )
    clip[clip.index(b"\x44\x89\x88") + 3] |= 0x80  # Duration (RFC 9559, 5.1.2.10): a double, now below 0
    assert predict._seconds(bytes(clip)) == 60


def test_limits_are_those_of_the_service():
    settings = Settings(api_key=("k",))
    assert video_limits(settings) == VideoLimits()
    assert ImageLimits() == ImageLimits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels)
    options = ThumbnailOptionsSchema().fields
    for name, (low, high) in (("duration", LOOP_SECONDS), ("size", LOOP_SIDES)):
        assert (options[name].validate.min, options[name].validate.max) == (low, high)


def run(*arguments, **options):
    command = [sys.executable, "-m", "moodreel", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, text=True, cwd=ROOT, **options)


def test_a_closed_pipe_ends_it_silently(smile):
    process = run("--json", smile, smile)
    process.stdout.close()
    assert (process.wait(120), process.stderr.read()) == (0, "")


@pytest.mark.skipif(not FULL_DISK.exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_one_line():
    with FULL_DISK.open("w") as full:
        process = run("nowhere.mp4", stdout=full)
    assert process.wait(60) == 2
    assert process.stderr.read() == "moodreel: standard output: No space left on device\n"


def test_ctrl_c_ends_it_silently(tmp_path):
    os.mkfifo(tmp_path / "endless.txt")
    process = run(tmp_path / "endless.txt")
    # Opened for writing as soon as the command reads it.
    with (tmp_path / "endless.txt").open("w"):
        process.send_signal(signal.SIGINT)
        assert (process.wait(60), process.stdout.read(), process.stderr.read()) == (130, "", "")


def test_a_name_that_cannot_be_shown_is_escaped_in_messages():
    process = run("clip.mp4", "--thumbnail", "no\udcffwhere/loop.mp4")
    assert (process.wait(60), process.stdout.read()) == (2, "")
    assert "there is no folder no\\udcffwhere" in process.stderr.read()


def test_text_files_are_classified(tmp_path, capsys):
    entry, foreign, empty = tmp_path / "entry.txt", tmp_path / "Eintrag.MD", tmp_path / "empty.txt"
    entry.write_text("I can't stop crying. I miss her so much.\n")
    foreign.write_text("Heute war ein richtig schöner Tag am See.\n")
    empty.write_text("\n")
    assert main([str(entry), str(foreign), str(empty)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{entry}: sadness (")
    assert "guess" not in first and second.endswith("; a guess, since it is not in English (de)")
    assert third.startswith(f"{empty}: There are no words in the text.")
    assert main(["--json", str(entry)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["label"], result["language"], result["model"]["name"]) == ("sadness", "en", "text-emotion")
    assert main([str(entry), "--timeline", str(tmp_path / "plot.png")]) == 1
    assert "no timeline" in capsys.readouterr().out


VIDEO_KEYS = (
    "clip emotion confidence probabilities peak face_coverage certain quality frames_analysed duration width height "
    "timeline track timings explanation model"
)
QUALITY_KEYS = "face_coverage size sharpness light yaw reason tip"
IMAGE_KEYS = "picture emotion confidence all_emotions faces width height model"
TEXT_KEYS = "text label score scores labels language language_supported characters windows timings model"


def test_json_output_keeps_its_keys(smile, tmp_path, capsys):
    photo, entry = tmp_path / "photo.jpg", tmp_path / "entry.txt"
    photo.write_bytes(synthetic_image.encode_image(synthetic_frames.portrait()))
    entry.write_text("What a day!")
    assert main(["--json", str(smile), str(photo), str(entry)]) == 0
    video, image, text = map(json.loads, capsys.readouterr().out.splitlines())
    assert {*video} == {*VIDEO_KEYS.split()}
    assert {*video["timeline"][0]} == {"time", "emotion", "probabilities", "weight", "box", "track"}
    assert {*video["quality"]} == {*image["faces"][0]["quality"]} == {*QUALITY_KEYS.split()}
    assert {*image} == {*IMAGE_KEYS.split()}
    assert {*image["faces"][0]} == {"box", "emotion", "confidence", "probabilities", "certain", "quality"}
    assert {*text} == {*TEXT_KEYS.split()}
    assert {*video["model"]} == {*image["model"]} == {*text["model"]} == {"name", "version", "sha256"}


# Subcommands


def test_predict_is_the_default_subcommand(tmp_path, capsys):
    entry = tmp_path / "entry.txt"
    entry.write_text("I can't stop crying. I miss her so much.\n")
    assert main(["predict", str(entry)]) == main([str(entry)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_the_overview_lists_every_subcommand(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"    {name} " in overview for name in SUBCOMMANDS)
    assert main([]) == 2
    assert "usage: moodreel" in capsys.readouterr().err


@pytest.mark.parametrize("command", [predict, batch, logs], ids=["predict", "batch", "logs"])
def test_every_argument_has_a_help_text(command):
    parsers = [command._parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert all(choice.help for choice in action._choices_actions)
                parsers.extend(action.choices.values())
            else:
                assert action.help, (parser.prog, action.dest)


def test_a_subcommand_gets_its_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(
        command_line.importlib,
        "import_module",
        lambda name: SimpleNamespace(main=lambda argv: calls.append((name, argv))),
    )
    assert main(["train", "resemotenet", "--lr", "0.1"]) == 0
    assert main(["logs", "list"]) == 0
    assert calls == [
        ("moodreel.training.__main__", ["train", "resemotenet", "--lr", "0.1"]),
        ("moodreel.cli.logs", ["list"]),
    ]


@pytest.mark.parametrize(
    ("name", "missing", "extra"), [("train", "sklearn.metrics", "training"), ("serve", "gunicorn", "server")]
)
def test_the_error_of_a_missing_package_names_it_and_its_extra(monkeypatch, capsys, name, missing, extra):
    def fail(module):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(command_line.importlib, "import_module", fail)
    assert main([name]) == 2
    error = capsys.readouterr().err
    assert f"needs the package {missing.partition('.')[0]}" in error
    assert f"pip install 'moodreel[{extra}]'" in error


def test_a_missing_module_of_moodreel_is_not_reported_as_a_missing_package(monkeypatch):
    def fail(module):
        raise ModuleNotFoundError("No module named 'moodreel.nonsense'", name="moodreel.nonsense")

    monkeypatch.setattr(command_line.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["train"])


def test_serve_ignores_a_package_named_api_in_the_current_folder(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "__init__.py").write_text("raise SystemExit('another package')")
    settings = {"PYTHONPATH": str(ROOT), "MODEL_STORE": str(STORE), "API_KEY": "key", "WEB_CONCURRENCY": "1"}
    command = [sys.executable, "-P", "-m", "moodreel", "serve", "--check-config"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
