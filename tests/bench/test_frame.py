"""The benchmark of one frame."""

from bench import frame
from tests.support import synthetic_frames, synthetic_video


def test_the_cost_of_a_frame_is_printed_by_stage(monkeypatch, capsys):
    # A small clip: to encode one of a phone's size takes 600 MB and seconds.
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(25))
    monkeypatch.setattr(frame, "phone_clip", lambda seconds: clip)
    frame.main(["--model", "compact-emotimesh", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| predict, compact-emotimesh " in printed
    assert "Target: at most 12 ms a frame" in printed
