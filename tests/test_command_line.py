"""`python -m moodreel`, run in this process: it prints, writes and returns what a shell would see."""

import io
import json

import pytest
from PIL import Image

from moodreel.__main__ import main
from tests.support import synthetic_frames, synthetic_image, synthetic_video


@pytest.fixture
def smile(tmp_path):
    path = tmp_path / "smile.mp4"
    path.write_bytes(synthetic_video.encode_video(synthetic_frames.face_frames(50)))
    return path


def test_a_clip_is_answered_in_words(smile, capsys):
    assert main([str(smile)]) == 0
    answer = capsys.readouterr().out
    assert answer.startswith(f"{smile}: Happy (")
    assert "certain" not in answer


def test_an_answer_not_to_rely_on_says_so_and_what_to_do(tmp_path, capsys):
    path = tmp_path / "dim.mp4"
    path.write_bytes(synthetic_video.encode_video([frame // 12 for frame in synthetic_frames.face_frames(10)]))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.endswith("; not certain (dark): Turn towards the light.\n")
    assert main(["--json", str(path)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["certain"], answer["quality"]["reason"]) == (False, "dark")


def test_the_movements_behind_an_answer_are_named_when_asked_for(smile, capsys):
    assert main(["--explain", str(smile)]) == 0
    assert "; lip corners up" in capsys.readouterr().out
    assert main(["--explain", "--json", str(smile)]) == 0
    [first, *_] = json.loads(capsys.readouterr().out)["explanation"]["movements"]
    assert (first["name"], first["weight"] > 0.3) == ("lip corners up", True)


def test_json_has_a_line_a_clip_and_says_what_was_refused(smile, tmp_path, capsys):
    nonsense, missing = tmp_path / "nonsense.mp4", tmp_path / "missing.mp4"
    nonsense.write_bytes(b"nonsense")
    assert main(["--json", str(smile), str(nonsense), str(missing)]) == 1
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["emotion"], first["model"]["name"]) == ("Happy", "moodreel-five")
    assert len(first["timeline"]) == first["frames_analysed"] > 0
    assert (first["certain"], first["quality"]["reason"]) == (True, None)
    assert "not a video" in second["error"]
    assert "No such file" in third["error"]


def test_a_picture_is_answered_for_its_largest_face(tmp_path, capsys):
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
def test_the_thumbnail_is_what_its_ending_says(smile, tmp_path, kind):
    path = tmp_path / f"loop.{kind}"
    assert main([str(smile), "--thumbnail", str(path), "--duration", "1", "--size", "160"]) == 0
    if kind == "mp4":
        assert synthetic_video.decode_frames(path.read_bytes())[0].shape == (120, 160, 3)
    else:
        assert Image.open(path).size == (160, 120)


def test_the_timeline_is_a_picture(smile, tmp_path):
    path = tmp_path / "plot.png"
    assert main([str(smile), "--timeline", str(path)]) == 0
    assert Image.open(io.BytesIO(path.read_bytes())).size[0] > 800


def test_many_clips_fill_folders(smile, tmp_path):
    other = tmp_path / "other.mp4"
    other.write_bytes(smile.read_bytes())
    assert (
        main([str(smile), str(other), "--thumbnail", str(tmp_path / "loops"), "--timeline", str(tmp_path / "plots")])
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "loops").iterdir()) == ["other.mp4", "smile.mp4"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["other.png", "smile.png"]


def test_a_thumbnail_of_an_unknown_kind_is_refused_before_any_work(smile, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(smile), "--thumbnail", str(tmp_path / "loop.avi")])
    assert ".mp4, .webp or .gif" in capsys.readouterr().err


def test_a_text_file_is_answered_for_its_words(tmp_path, capsys):
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
    answer = json.loads(capsys.readouterr().out)
    assert (answer["label"], answer["language"], answer["model"]["name"]) == ("sadness", "en", "text-emotion")
    assert main([str(entry), "--timeline", str(tmp_path / "plot.png")]) == 1
    assert "no timeline" in capsys.readouterr().out
