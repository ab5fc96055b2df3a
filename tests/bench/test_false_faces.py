"""The command that counts the pictures whose face is taken for a person's."""

import cv2
import pytest

from bench import false_faces
from tests.support import synthetic_frames, synthetic_image


def test_a_drawn_face_is_counted_as_detected_and_a_portrait_as_a_person(tmp_path, capsys):
    (tmp_path / "faces" / "deep").mkdir(parents=True)
    drawn, portrait = tmp_path / "faces" / "drawn.png", tmp_path / "faces" / "deep" / "portrait.jpg"
    cv2.imwrite(str(drawn), synthetic_frames.cartoon()[..., ::-1])
    portrait.write_bytes(synthetic_image.encode_image(synthetic_frames.portrait()))
    (tmp_path / "faces" / "damaged.png").write_bytes(b"no picture")
    false_faces.main([str(tmp_path / "faces"), "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["faces", "2", "2", "1"]
    assert lines[3:] == [str(portrait)]


def test_a_folder_without_pictures_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        false_faces.main([str(tmp_path)])
    assert "no pictures in" in capsys.readouterr().err
